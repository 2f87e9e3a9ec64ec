"""Results folders as test.py writes them, without a model."""

import json
import math

import torch

from robustflow.data.images import write_png
from robustflow.evaluation.description import NON_FINITE
from robustflow.evaluation.metrics.failures import wilson

# Of an earlier version, which left out what is not finite.
OLDER = {
    "failures": "on float samples",
    "pixel_error_range": [-0.5, 1.5],
    "max_residual": "largest |sample - bicubic_up(LR)|",
    "lr_psnr": "uint8, against bicubic(ground truth)",
    "psnr": "RGB, uint8, finite samples",
    "ssim": "Gaussian window 11",
    "lpips": "lpips 0.1.4, alex",
    "n_sample": 3,
    "seed": 0,
    "datasets": {"inside": {"mode": "folder", "lr_noise": 0.0}, "out <b>side</b>": {"mode": "folder", "lr_noise": 0.2}},
}
FITTED = {"covariance": "empirical", "n_features": 64, "mean_score": 70.5, "shrinkage": 0.0, "n_patches": 500}
FITTED |= {"patch": 40, "scale": 4, "encoder": "e", "mean_score_of": "out of sample, ten-fold", "in_sample_mean": 63.9}
PROTOCOL = {**OLDER, "psnr": "RGB, uint8", "non_finite": NON_FINITE}
IMAGES = {"inside": ["a", "b", "c"], "out <b>side</b>": ["sub/a", "sub/b"]}
EDGES = [edge / 4 for edge in range(-20, 21)]


def make(
    folder,
    name="demo/x",
    *,
    heats=(0.9,),
    exploding=(),
    offset=0.0,
    size=16,
    records=True,
    ood=False,
    gt=True,
    older=False,
):
    """Write a results folder of three samples per image.

    Args:
        heats: Temperatures.
        exploding: (data set, image) whose sample 1 is infinite in a quarter of its pixels.
        offset: Added to PSNR and LR-PSNR.
        size: Side of the samples; inputs have a quarter of it.
        records: Whether to write records/, which older results lack.
        ood: Whether to score inputs and patches.
        gt: Whether there is a ground truth.
        older: As an earlier version did: samples that are not finite have no figures.
    """
    generator = torch.Generator().manual_seed(0)
    datasets, lines, patches = {}, [], []
    for dataset, images in IMAGES.items():
        rows_of = {}
        for number, image in enumerate(images):
            explodes = (dataset, image) in exploding
            rows = rows_of[image] = [
                row(heat, index, number, index == 1 and explodes, offset, size, gt, older)
                for heat in heats
                for index in range(3)
            ]
            write_pictures(folder / dataset / image, heats, size, generator, explodes=explodes, gt=gt)
            score = 100.0 + 10 * len(patches) if ood else None
            patches.append({"dataset": dataset, "score": score, "failed_samples_pct": 100 * explodes / 3})
            if records:
                write_record(folder, dataset, image, rows, heats, size, score)
            lines += [{"dataset": dataset, "image": image, **one} for one in rows]
        datasets[dataset] = summary(rows_of, heats, older)
    protocol = {**(OLDER if older else PROTOCOL), "heats": list(heats)}
    metrics = {"name": name, "weights": "w", "protocol": protocol, "datasets": datasets}
    metrics["versions"] = {"robustflow": "0.1.0", "torch": "2.15.0", "device": "cpu", "python": "3.11"}
    write_json(folder / "metrics.json", metrics)
    (folder / "metrics.csv").write_text(csv_of(lines))
    (folder / "options.yml").write_text("name: demo/x # <script>alert(1)</script>\n")
    if ood:
        write_json(folder / "ood.json", {"patches": patches, "protocol": {"fitted": FITTED}})
    return folder


def write_pictures(place, heats, size, generator, *, explodes, gt):
    """Write input, samples and maps of an image, whose sample 1 may be infinite in a quarter of its pixels."""
    picture = torch.rand(3, size // 4, size // 4, generator=generator)
    write_png(f"{place}_lr.png", picture)
    full = picture.repeat_interleave(4, 1).repeat_interleave(4, 2)
    if gt:
        write_png(f"{place}_gt.png", full)
    quarter = (slice(None), slice(size // 2), slice(size // 2))
    for heat in heats:
        for index in range(3):
            sample = full + 0.05 * heat * torch.randn(full.shape, generator=generator)
            if index == 1 and explodes:
                sample[quarter] = math.inf
            write_png(f"{place}_t{heat:g}_{index:02d}.png", sample)
        write_png(f"{place}_t{heat:g}_std.png", full * 0 + 0.1)
        if explodes:
            mask = torch.zeros_like(full)
            mask[quarter] = 1
            write_png(f"{place}_t{heat:g}_mask.png", mask)


def row(heat, index, number, broken, offset, size, gt, older):
    finite = {
        "lr_psnr": 45.0 + offset - number - heat,
        "lr_psnr_gt": 45.0,
        "lr_psnr_lr": 44.0,
        "psnr": 25.0 + offset - index - heat,
        "ssim": 0.9 - 0.1 * index,
        "psnr_y": 27.0,
        "ssim_y": 0.9,
        "lpips": 0.2 + 0.01 * index - 0.1 * heat,
    }
    if not gt:
        finite = {**dict.fromkeys(finite), "lr_psnr": 45.0 + offset, "lr_psnr_lr": 45.0 + offset}
    poor = {**dict.fromkeys(finite, 5.0), "ssim": 0.1, "ssim_y": 0.1, "lpips": 0.9}
    failed = {key: None if older or value is None else poor[key] for key, value in finite.items()}
    of_finite = {} if older else {f"{key}_finite": None if broken else finite[key] for key in finite}
    return {
        "heat": heat,
        "sample": index,
        **(failed if broken else finite),
        **of_finite,
        "has_inf": broken,
        "has_nan": False,
        "pixel_errors": (size // 2) ** 2 if broken else 0,
        "n_pixels": size**2,
        "max_abs": math.inf if broken else 1.0,
        "max_residual": math.inf if broken else 0.1 + 0.01 * index,
    }


def write_record(folder, dataset, image, rows, heats, size, score):
    counts = [round(1e4 * math.exp(-((edge + 0.125) ** 2) / 2)) for edge in EDGES[:-1]]
    record = {
        "fingerprint": "f",
        "dataset": dataset,
        "image": image,
        "size": [size, size],
        "bits_per_dim": -2.5,
        "ood": score,
        "latents": {"edges": EDGES, "counts": counts, "mean": 0.0, "std": 1.0},
        "rows": rows,
        "heats": {f"{heat:g}": {"diversity_sigma": 3.0, "diversity_score": 12.0} for heat in heats},
    }
    write_json(folder / "records" / dataset / f"{image}.json", record)


def summary(rows_of, heats, older):
    found = {}
    for heat in heats:
        rows = [one for rows in rows_of.values() for one in rows if one["heat"] == heat]
        n, failed = len(rows_of), sum(any(r["pixel_errors"] for r in rows) for rows in rows_of.values())
        found[f"{heat:g}"] = {
            "inf_pct": 100 * failed / n,
            "inf_ci": list(wilson(failed, n)),
            **({} if older else {"infinite_pct": 100 * failed / n, "infinite_ci": list(wilson(failed, n))}),
            "nan_pct": 0.0,
            "nan_ci": [0.0, 30.0],
            "pixel_error_pct": 100 * failed / n,
            "pixel_error_ci": list(wilson(failed, n)),
            "pixel_error_pixel_pct": 100 * sum(r["pixel_errors"] for r in rows) / sum(r["n_pixels"] for r in rows),
            "max_residual": max(r["max_residual"] for r in rows),
            "lr_psnr_std": 0.5,
            **{f"lr_psnr_{kind}": mean(rows, "lr_psnr") for kind in ("min", "mean")},
            **{f"lr_psnr_{kind}_finite": mean(rows, "lr_psnr_finite") for kind in ("min", "mean") if not older},
            **{key: mean(rows, key) for key in rows[0] if key.removesuffix("_finite") in ("psnr", "ssim", "lpips")},
            "diversity_sigma": 3.0 * heat,
            "best_of_n": {"psnr": [25.0, 25.5, 26.0]},
            "n_samples": len(rows),
            "n_finite": sum(not r["has_inf"] for r in rows),
            "n_images": n,
            "n_images_finite": n - failed,
        }
    return {"n_images": len(rows_of), "heats": found, "bits_per_dim": -2.5, "nll_published": -7.5, "ood_mean": None}


def mean(rows, key):
    known = [one[key] for one in rows if one[key] is not None]
    return sum(known) / len(known) if known else None


def csv_of(lines):
    keys = list(lines[0])
    texts = [[f'"{one[key]}"' if key in ("dataset", "image") else "" if one[key] is None else str(one[key])
              for key in keys] for one in lines]  # fmt: skip
    return "\n".join(",".join(line) for line in [keys, *texts]) + "\n"


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values).replace("Infinity", "1e999"))
