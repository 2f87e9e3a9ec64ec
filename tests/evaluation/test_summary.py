import math

import pytest

from robustflow.evaluation.metrics.robustness import Failures
from robustflow.evaluation.records import OfHeat, Record, Row
from robustflow.evaluation.summary import mean, of_data_set, summarize


def row(image, sample, failed, lr_psnr=None, psnr=None, ssim=None, lpips=None):
    return Row("set", image, 0.9, sample, failed, lr_psnr, psnr=psnr, ssim=ssim, lpips=lpips)


def fine(max_abs=1.0, max_residual=0.5, pixel_errors=0):
    return Failures(False, False, pixel_errors, 100, max_abs, max_residual)


def summary_of(*images):
    return summarize(images, [OfHeat(10.0 * k, None) for k in range(len(images))])


NAN = Failures(False, True, 30, 100, math.inf, math.inf)
INF = Failures(True, False, 100, 100, math.inf, math.inf)


def test_two_images_with_two_samples():
    summary = summary_of(
        [
            row("a", 0, fine(1.2, 0.7), 50.0, 30.0, 0.9, 0.2),
            row("a", 1, fine(1.6, 0.4, pixel_errors=10), 46.0, 20.0, 0.5, 0.1),
        ],
        [row("b", 0, NAN), row("b", 1, fine(), 40.0, 25.0, 0.4, 0.3)],
    )
    expected = {
        "inf_pct": 50.0,
        "nan_pct": 50.0,
        "pixel_error_pct": 100.0,
        "pixel_error_pixel_pct": 10.0,
        "max_abs": math.inf,
        "max_residual": math.inf,
        "lr_psnr_min": 43.0,
        "lr_psnr_std": 1.0,
        "lr_psnr_mean": 44.0,
        "lr_psnr_gt_min": None,
        "psnr": 25.0,
        "ssim": pytest.approx(0.6),
        "lpips": pytest.approx(0.2),
        "psnr_y": None,
        "diversity_sigma": 5.0,
        "diversity_score": None,
        "n_samples": 4,
        "n_finite": 3,
        "n_images": 2,
        "n_images_finite": 1,
    }
    assert {key: summary[key] for key in expected} == expected
    # The second image has no finite first sample.
    assert summary["best_of_n"]["psnr"] == [30.0, 27.5]
    assert summary["best_of_n"]["lpips"] == [0.2, pytest.approx(0.2)]


def test_rates_have_wilson_intervals():
    summary = summary_of(*([row(str(k), 0, INF if k < 5 else fine())] for k in range(20)))
    assert summary["inf_pct"] == 25.0
    low, high = summary["inf_ci"]
    assert (low, high) == (pytest.approx(11.19, abs=0.01), pytest.approx(46.87, abs=0.01))
    assert summary["nan_ci"][0] == 0


def test_infinity_is_no_nan():
    summary = summary_of([row("a", 0, INF)], [row("b", 0, fine())], [row("c", 0, NAN)], [row("d", 0, fine())])
    assert (summary["inf_pct"], summary["nan_pct"]) == (50.0, 25.0)


def test_largest_values_of_finite_samples():
    summary = summary_of([row("a", 0, fine(1.2, 0.1))], [row("b", 0, fine(0.9, 0.3))])
    assert (summary["max_abs"], summary["max_residual"]) == (1.2, 0.3)


def test_no_finite_sample():
    summary = summary_of([row("a", 0, INF), row("a", 1, NAN)])
    assert summary["n_finite"] == 0
    assert {summary[key] for key in ("lr_psnr_min", "lr_psnr_std", "lr_psnr_mean", "psnr", "ssim")} == {None}
    assert summary["best_of_n"]["psnr"] == [None, None]


def test_equal_images_have_an_infinite_psnr_and_no_deviation():
    summary = summary_of([row("a", 0, fine(), math.inf), row("a", 1, fine(), 50.0)])
    assert (summary["lr_psnr_min"], summary["lr_psnr_mean"], summary["lr_psnr_std"]) == (50.0, math.inf, None)


def test_data_set():
    heats = {"0.9": OfHeat(None, None)}
    records = [
        Record("", "set", name, (8, 8), bits, ood, None, [row(name, 0, fine())], heats)
        for name, bits, ood in (("a", 1.0, None), ("b", 2.0, 300.0))
    ]
    summary = of_data_set(records, [0.9])
    assert (summary["n_images"], summary["bits_per_dim"], summary["nll_published"]) == (2, 1.5, 4.5)
    assert summary["ood_mean"] == 300.0
    assert list(summary["heats"]) == ["0.9"]


def test_mean_of_what_exists():
    assert mean([1.0, None, 2.0]) == 1.5
    assert mean([None]) is None
    assert mean([0.0]) == 0.0
