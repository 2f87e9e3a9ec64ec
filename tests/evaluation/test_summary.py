import math

import pytest

from robustflow.evaluation import frames
from robustflow.evaluation.metrics import choose
from robustflow.evaluation.metrics.base import mean
from robustflow.evaluation.records import Record
from robustflow.models.protocol import SUPER_RESOLUTION

METRICS = choose(SUPER_RESOLUTION)
KEYS = ("lr_psnr", "lr_psnr_gt", "lr_psnr_lr", "psnr", "ssim", "psnr_y", "ssim_y", "spectral_distance", "lpips")


def row(number, failed, **values):
    return {"heat": 0.9, "sample": number, **dict.fromkeys(KEYS), **values, **failed}


def failures(has_inf=False, has_nan=False, pixel_errors=0, max_abs=1.0, max_residual=0.5):
    return {
        "has_inf": has_inf,
        "has_nan": has_nan,
        "pixel_errors": pixel_errors,
        "n_pixels": 100,
        "max_abs": max_abs,
        "max_residual": max_residual,
    }


def figures(lr_psnr, psnr, ssim, lpips):
    return {"lr_psnr": lr_psnr, "psnr": psnr, "ssim": ssim, "lpips": lpips}


def record(name, rows, sigma=None, bits=None, ood=None):
    heats = {"0.9": {"diversity_sigma": sigma, "diversity_score": None}}
    return Record("", "set", name, (8, 8), bits, ood, None, list(rows), heats)


def summarize(*images):
    records = [record(str(k), rows, 10.0 * k) for k, rows in enumerate(images)]
    return frames.summarize_data_set(records, METRICS)["heats"]["0.9"]


NAN = failures(has_nan=True, pixel_errors=30, max_abs=math.inf, max_residual=math.inf)
INF = failures(has_inf=True, pixel_errors=100, max_abs=math.inf, max_residual=math.inf)
FINE = failures()


def test_two_images_with_two_samples():
    summary = summarize(
        [
            row(0, failures(max_abs=1.2, max_residual=0.7), **figures(50.0, 30.0, 0.9, 0.2)),
            row(1, failures(max_abs=1.6, max_residual=0.4, pixel_errors=10), **figures(46.0, 20.0, 0.5, 0.1)),
        ],
        [row(0, NAN, **figures(10.0, 5.0, 0.1, 0.9)), row(1, FINE, **figures(40.0, 25.0, 0.4, 0.3))],
    )
    expected = {
        "inf_pct": 50.0,
        "infinite_pct": 0.0,
        "nan_pct": 50.0,
        "pixel_error_pct": 100.0,
        "pixel_error_pixel_pct": 10.0,
        "max_abs": math.inf,
        "max_residual": math.inf,
        "lr_psnr_min": 28.0,
        "lr_psnr_std": 8.5,
        "lr_psnr_mean": 36.5,
        "lr_psnr_gt_min": None,
        "psnr": 20.0,
        "ssim": pytest.approx(0.475),
        "lpips": pytest.approx(0.375),
        "lr_psnr_min_finite": 43.0,
        "lr_psnr_std_finite": 1.0,
        "lr_psnr_mean_finite": 44.0,
        "psnr_finite": 25.0,
        "ssim_finite": pytest.approx(0.6),
        "lpips_finite": pytest.approx(0.2),
        "psnr_y": None,
        "diversity_sigma": 5.0,
        "diversity_score": None,
        "n_samples": 4,
        "n_finite": 3,
        "n_images": 2,
        "n_images_finite": 1,
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["best_of_n"]["psnr"] == [17.5, 27.5]
    assert summary["best_of_n"]["lpips"] == [pytest.approx(0.55), pytest.approx(0.2)]


def test_the_best_stays_where_a_later_sample_has_no_value():
    images = [row(0, FINE, psnr=20.0), row(1, FINE, psnr=22.0), row(2, INF)], [row(0, FINE, psnr=24.0)]
    assert summarize(*images)["best_of_n"]["psnr"] == [22.0, 23.0, 23.0]


def test_rates_have_wilson_intervals():
    summary = summarize(*([row(0, INF if k < 5 else FINE)] for k in range(20)))
    assert summary["inf_pct"] == 25.0
    low, high = summary["inf_ci"]
    assert (low, high) == (pytest.approx(11.19, abs=0.01), pytest.approx(46.87, abs=0.01))
    assert summary["nan_ci"][0] == 0


def test_infinity_is_no_nan():
    summary = summarize([row(0, INF)], [row(0, FINE)], [row(0, NAN)], [row(0, FINE)])
    assert (summary["inf_pct"], summary["infinite_pct"], summary["nan_pct"]) == (50.0, 25.0, 25.0)


def test_one_pixel_of_one_sample_is_an_error():
    summary = summarize([row(0, FINE), row(1, failures(pixel_errors=1))], [row(0, FINE), row(1, FINE)])
    assert (summary["pixel_error_pct"], summary["pixel_error_pixel_pct"]) == (50.0, 0.25)


def test_largest_values_of_finite_samples():
    summary = summarize(
        [row(0, failures(max_abs=1.2, max_residual=0.1))], [row(0, failures(max_abs=0.9, max_residual=0.3))]
    )
    assert (summary["max_abs"], summary["max_residual"]) == (1.2, 0.3)


def test_an_input_whose_samples_all_fail_counts():
    failed = row(0, INF, **figures(10.0, 5.0, 0.1, 0.9)), row(1, NAN, **figures(12.0, 7.0, 0.1, 0.9))
    fine = row(0, FINE, **figures(50.0, 25.0, 0.5, 0.1)), row(1, FINE, **figures(50.0, 25.0, 0.5, 0.1))
    summary = summarize(failed, fine)
    assert (summary["lr_psnr_min"], summary["psnr"], summary["best_of_n"]["psnr"]) == (30.0, 15.5, [15.0, 16.0])
    assert (summary["lr_psnr_min_finite"], summary["psnr_finite"], summary["n_finite"]) == (50.0, 25.0, 2)
    alone = summarize(failed)
    assert (alone["lr_psnr_min"], alone["psnr"]) == (10.0, 6.0)
    measured = ("lr_psnr_min", "lr_psnr_std", "lr_psnr_mean", "psnr", "ssim")
    assert {alone[f"{key}_finite"] for key in measured} == {None}


def test_equal_images_have_an_infinite_psnr_and_no_deviation():
    summary = summarize([row(0, FINE, lr_psnr=math.inf), row(1, FINE, lr_psnr=50.0)])
    assert (summary["lr_psnr_min"], summary["lr_psnr_mean"], summary["lr_psnr_std"]) == (50.0, math.inf, None)


def test_data_set():
    records = [
        record(name, [row(0, FINE)], None, bits, ood) for name, bits, ood in (("a", 1.0, None), ("b", 2.0, 300.0))
    ]
    summary = frames.summarize_data_set(records, METRICS)
    assert (summary["n_images"], summary["bits_per_dim"], summary["nll_published"]) == (2, 1.5, 4.5)
    assert summary["ood_mean"] == 300.0
    assert list(summary["heats"]) == ["0.9"]


def test_mean_of_what_exists():
    assert mean([1.0, None, 2.0, math.nan]) == 1.5
    assert mean([None]) is None
    assert mean([0.0]) == 0.0
