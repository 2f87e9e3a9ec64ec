"""Evaluate a model on data sets: samples, metrics, files."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import EvaluationItem, EvaluationSet
from robustflow.data.bicubic import downsample, upsample
from robustflow.data.images import to_uint8, write_png
from robustflow.diagnostics.ood import mahalanobis
from robustflow.evaluation import enhancement, records, summary
from robustflow.evaluation.metrics import diversity, fidelity
from robustflow.evaluation.metrics.perceptual import Perceptual
from robustflow.evaluation.metrics.robustness import PIXEL_RANGE, failures, outside
from robustflow.evaluation.records import Latents, OfHeat, Record, Row, heat_key
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import Model
from robustflow.nn import fused
from robustflow.options.schema import ValOptions
from robustflow.utils import distributed
from robustflow.utils.files import write_atomically
from robustflow.utils.seeds import derive_seed

log = logging.getLogger(__name__)

PROTOCOL = {
    "failures": "on float samples before clamping; an image counts if any of its samples fails",
    "intervals": "95 %, Wilson; pixels of an image are not independent, so those of pixel rates are too narrow",
    "pixel_error_range": list(PIXEL_RANGE),
    "max_residual": "largest |sample - bicubic_up(LR)|, MATLAB bicubic",
    "psnr": "RGB, uint8 (quantize), finite samples; psnr_y: luma (ITU-R BT.601, 16-235)",
    "ssim": "RGB mean, uint8 (quantize), Gaussian window 11, sigma 1.5, as scikit-image's, finite samples; "
    "ssim_y: luma",
    "diversity_sigma": "standard deviation over finite samples, mean over pixels, 0-255",
    "diversity_score": "NTIRE: 100 (global best - local best) / global best, LPIPS maps",
    "best_of_n": "mean over images of the best of the first n samples",
    "bits_per_dim": "-log2 p(HR + training noise | LR) / (3HW), HR in [0, 1], largest crop the flow takes",
    "nll_published": "the same per pixel position, 3 times bits_per_dim",
    "latents": "of HR + training noise; standard normal under the model",
    "ood": "squared Mahalanobis distance of the input's mean encoder features to those of training patches; mean over "
    "patches of their size",
}
LR_PSNR = "uint8, MATLAB bicubic of the 8-bit sample (quantize), against "
LR_REFERENCES = {
    "ground_truth": LR_PSNR + "bicubic(ground truth), or the LR image where that was altered or there is no ground "
    "truth; std: population",
    "input": LR_PSNR + "the LR image; std: population",
}
LATENT_EDGES = [edge / 4 for edge in range(-20, 21)]


class Evaluator:
    """Evaluates one model.

    Args:
        model: In eval mode.
        options: Temperatures, number of samples, seed.
        folder: Where records and PNGs go; None to write none.
        perceptual: LPIPS, or None.
        score: Out-of-distribution score, or None.
        common: What all results depend on besides an image, plain values: weights and options.
    """

    def __init__(
        self,
        model: Model,
        options: ValOptions,
        folder: Path | None,
        *,
        perceptual: Perceptual | None = None,
        score: mahalanobis.OODScore | None = None,
        common: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.scale, self.options, self.folder = model, model.scale, options, folder
        self.perceptual, self.score, self.common = perceptual, score, common
        self.truncate = options.rounding == "floor"
        self.device = model.device

    def evaluate(self, name: str, items: EvaluationSet) -> tuple[dict[str, Any], list[Record]]:
        """Evaluate a data set: its summary, as in metrics.json, and one record per image; in every process all of them.

        Images whose record and pictures are there already, made from the same input by the same model under the same
        options, are not evaluated again.
        """
        own: dict[int, Record] = {}
        n_samples = sum(map(self.options.samples_at, self.options.heats))
        quiet = None if distributed.is_main() else True
        with (
            fused.expecting(self.model.mapped_elements(items.pixels * n_samples)),
            tqdm(total=len(items) * n_samples, desc=name, leave=False, unit="sample", disable=quiet) as bar,
        ):
            for number in distributed.distribute(len(items)):
                bar.set_postfix_str(f"image {number + 1}/{len(items)}")
                # Those before it that other processes have.
                bar.update(number * n_samples - bar.n)
                own[number] = self._record(name, items[number], bar)
        records_by_number = {number: record for part in distributed.gather(own) for number, record in part.items()}
        found = [records_by_number[number] for number in range(len(items))]
        return summary.of_data_set(found, self.options.heats), found

    def _record(self, dataset: str, item: EvaluationItem, bar: tqdm) -> Record:
        if self.folder is None or self.common is None:
            return self._evaluated(dataset, item, "", bar)
        own = {"dataset": dataset, "image": item.name, "lr_altered": item.lr_altered}
        fingerprint = records.fingerprint({**self.common, **own}, item.condition, item.gt)
        record = records.read(self.folder, dataset, item.name, fingerprint)
        if record is None or not self._has_pictures(record):
            # Nothing of an older evaluation may stay beside what is made now.
            records.remove(self.folder, dataset, item.name)
            record = self._evaluated(dataset, item, fingerprint, bar)
            records.write(self.folder, record)
        else:
            bar.update(len(record.rows))
        return record

    def _has_pictures(self, record: Record) -> bool:
        if not self.options.save_images:
            return True
        assert self.folder is not None
        kinds = ["lr", *(f"t{heat_key(row.heat)}_{row.sample:02d}" for row in record.rows)]
        kinds += [f"t{heat}_mean" for heat in record.means]
        return all((self.folder / record.dataset / f"{record.image}_{kind}.png").is_file() for kind in kinds)

    @torch.no_grad()
    def _evaluated(self, dataset: str, item: EvaluationItem, fingerprint: str, bar: tqdm) -> Record:
        condition, o = item.condition.to(self.device), self.options
        measured = _Measured(self, dataset, item)
        self._write(dataset, f"{item.name}_lr", item.lr)
        if item.gt is not None:
            self._write(dataset, f"{item.name}_gt", item.gt)
        rows: list[Row] = []
        heats: dict[str, OfHeat] = {}
        means: dict[str, Row] = {}
        drawn = draw_samples(
            self.model,
            condition,
            name=item.name,
            heats=o.heats,
            n=o.samples_at,
            seed=o.seed,
            batch=o.sample_batch,
            tile=o.tile,
            overlap=o.tile_overlap,
        )
        for heat, samples in drawn:
            for index, sample in enumerate(samples):
                self._write(dataset, f"{item.name}_t{heat_key(heat)}_{index:02d}", sample, truncate=self.truncate)
                rows.append(measured.row(heat, index, sample))
                bar.update()
            rows[-len(samples) :], heats[heat_key(heat)] = measured.together(rows[-len(samples) :], samples)
            self._write_maps(dataset, f"{item.name}_t{heat_key(heat)}", rows[-len(samples) :], samples)
            if o.same_size and heat > 0:
                mean = enhancement.mean_of(samples)
                self._write(dataset, f"{item.name}_t{heat_key(heat)}_mean", mean, truncate=self.truncate)
                (means[heat_key(heat)],), _ = measured.together([measured.row(heat, len(samples), mean)], mean[None])
            # Let go before those of the next temperature are drawn.
            del samples, sample
        bits_per_dim, latents = self._likelihood(item)
        score = None if self.score is None else self._ood(condition)
        size = (item.lr.shape[-2] * self.scale, item.lr.shape[-1] * self.scale)
        return Record(fingerprint, dataset, item.name, size, bits_per_dim, score, latents, rows, heats, means)

    def _ood(self, condition: Tensor) -> float:
        assert self.score is not None
        return float(self.score.of_image(self.model.encoder, condition, read=self.model.encoder_input).mean())

    def _likelihood(self, item: EvaluationItem) -> tuple[float | None, Latents | None]:
        if item.gt is None:
            return None, None
        multiple = self.model.size_multiple
        height, width = (side - side % multiple for side in item.gt.shape[-2:])
        if height == 0 or width == 0:
            return None, None
        gt, lr = item.gt[..., :height, :width], item.condition[..., : height // self.scale, : width // self.scale]
        generator = torch.Generator().manual_seed(derive_seed(self.options.seed, item.name, "bits_per_dim"))
        found = self.model.likelihood(gt[None].to(self.device), lr[None].to(self.device), generator)
        if found is None:
            return None, None
        return records.known_bits(found.bits_per_dim), _histogram(found.latents)

    def _write(self, dataset: str, name: str, image: Tensor, *, truncate: bool = False) -> None:
        if self.folder is not None and self.options.save_images:
            write_png(self.folder / dataset / f"{name}.png", image, truncate=truncate)

    def _write_maps(self, dataset: str, name: str, rows: list[Row], samples: Tensor) -> None:
        """Standard deviation over the finite samples, and pixel errors, of samples (n, 3, H, W) and their rows."""
        deviation = diversity.picture(_finite(rows, samples))
        if deviation is not None:
            self._write(dataset, f"{name}_std", deviation)
        if any(row.failures.pixel_errors > 0 for row in rows):
            failed = torch.stack([outside(sample) for sample in samples]).any(0)
            self._write(dataset, f"{name}_mask", failed.to(samples.dtype).expand(3, -1, -1))


class _Measured:
    """Metrics of the samples of one image."""

    def __init__(self, evaluator: Evaluator, dataset: str, item: EvaluationItem) -> None:
        self.evaluator, self.dataset, self.item = evaluator, dataset, item
        self.scale, self.crop = evaluator.scale, evaluator.options.crop_border
        lr = item.lr.to(evaluator.device)
        self.same_size, self.truncate = evaluator.options.same_size, evaluator.truncate
        self.upsampled = lr if self.same_size else upsample(lr, self.scale, torch.float64)
        self.gt = None if item.gt is None else to_uint8(item.gt)
        self.lr = to_uint8(item.lr)
        self.lr_of_gt = None if self.gt is None or self.same_size else downsample(self.gt, self.scale)

    def row(self, heat: float, index: int, sample: Tensor) -> Row:
        """Metrics of one sample (3, H, W), not clamped."""
        failed = failures(sample, self.upsampled)
        row = Row(self.dataset, self.item.name, heat, index, failed)
        if self.same_size:
            return enhancement.measured(row, sample, self.gt, self.crop, truncate=self.truncate)
        if not failed.finite:
            return row
        image = to_uint8(sample.cpu(), truncate=self.truncate)
        small = downsample(image, self.scale)
        of_lr = fidelity.psnr(small, self.lr)
        of_gt = None if self.lr_of_gt is None else fidelity.psnr(small, self.lr_of_gt)
        against_input = self.evaluator.options.lr_reference == "input" or of_gt is None or self.item.lr_altered
        row = replace(row, lr_psnr=of_lr if against_input else of_gt, lr_psnr_gt=of_gt, lr_psnr_lr=of_lr)
        return row if self.gt is None else self._with_fidelity(row, image, self.gt)

    def _with_fidelity(self, row: Row, image: Tensor, gt: Tensor) -> Row:
        return replace(
            row,
            psnr=fidelity.psnr(image, gt, self.crop),
            ssim=fidelity.ssim(image, gt, self.crop),
            psnr_y=fidelity.psnr_y(image, gt, self.crop),
            ssim_y=fidelity.ssim_y(image, gt, self.crop),
        )

    def together(self, rows: list[Row], samples: Tensor) -> tuple[list[Row], OfHeat]:
        """Add what is computed for all samples (n, 3, H, W) at once: LPIPS, and diversity, of the finite ones."""
        finite = _finite(rows, samples)
        sigma = diversity.sigma(finite)
        perceptual = self.evaluator.perceptual
        if perceptual is None or self.gt is None or len(finite) == 0:
            return rows, OfHeat(sigma, None)
        images = torch.stack([to_uint8(sample.cpu(), truncate=self.truncate) for sample in finite])
        distances, maps = perceptual.distances(images, self.gt), perceptual.maps(images, self.gt)
        if distances is None or maps is None:
            return rows, OfHeat(sigma, None)
        left = iter(distances.tolist())
        rows = [replace(row, lpips=next(left)) if row.failures.finite else row for row in rows]
        return self._at_brightness(rows, finite), OfHeat(sigma, diversity.score(maps))

    def _at_brightness(self, rows: list[Row], finite: Tensor) -> list[Row]:
        """Add LPIPS at the ground truth's brightness, where the protocol has it."""
        perceptual, gt = self.evaluator.perceptual, self.gt
        if not self.same_size or perceptual is None or gt is None:
            return rows
        level = [enhancement.at_brightness_of(sample, gt, truncate=self.truncate) for sample in finite]
        distances = perceptual.distances(torch.stack(level), gt)
        left = iter(() if distances is None else distances.tolist())
        return [
            replace(row, further={**row.further, "lpips_gtmean": next(left, None)}) if row.failures.finite else row
            for row in rows
        ]


def _finite(rows: list[Row], samples: Tensor) -> Tensor:
    """The finite ones of samples (n, 3, H, W), whose rows these are; not copied if all are."""
    finite = [row.failures.finite for row in rows]
    return samples if all(finite) else samples[finite]


def _histogram(latents: list[Tensor]) -> Latents | None:
    """Histogram of all latents of an image; None unless they are finite."""
    values = torch.cat([latent.flatten() for latent in latents]).double().cpu()
    if not values.isfinite().all():
        return None
    counts = torch.histc(values.clamp(LATENT_EDGES[0], LATENT_EDGES[-1]), len(LATENT_EDGES) - 1, *LATENT_EDGES[::40])
    return Latents(LATENT_EDGES, [int(count) for count in counts], float(values.mean()), float(values.std()))


def write_results(folder: Path, report: Mapping[str, Any], found: list[Record]) -> None:
    """Write metrics.json and metrics.csv, each atomically."""
    write_atomically(folder / "metrics.json", records.to_json(report).encode())
    rows = list(_rows(found))
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].flat()))
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    write_atomically(folder / "metrics.csv", text.getvalue().encode())


def _rows(found: list[Record]) -> Iterator[Row]:
    for record in found:
        yield from record.rows
