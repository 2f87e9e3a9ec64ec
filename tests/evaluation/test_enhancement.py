import math
from dataclasses import replace

import pytest
import torch

from robustflow.data.images import to_uint8
from robustflow.evaluation import enhancement, records, summary
from robustflow.evaluation.metrics import fidelity
from robustflow.evaluation.metrics.robustness import failures
from robustflow.evaluation.records import OfHeat, Record, Row
from robustflow.report import columns, tables


def image(seed=0, brightness=1.0, size=(16, 20)):
    return brightness * torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def row(sample, gt=None, heat=0.9, number=0):
    empty = Row("set", "a", heat, number, failures(sample, torch.zeros_like(sample)))
    return enhancement.measured(empty, sample, None if gt is None else to_uint8(gt), 0, truncate=False)


def test_a_darker_version_of_the_truth_is_right_at_its_brightness():
    gt = image()
    found = row(0.5 * gt, gt)
    assert found.psnr < 15
    assert found.further["psnr_gtmean"] > 50
    assert found.further["ssim_gtmean"] > 0.999 > found.ssim
    assert found.further["ssim_grey_gtmean"] > 0.999 > found.further["ssim_grey"]


def test_figures_are_those_of_fidelity():
    gt, sample = image(), image(1) * 1.3 - 0.1
    found, level = row(sample, gt), to_uint8(fidelity.with_mean_of(sample.clamp(0, 1), to_uint8(gt) / 255))
    assert found.psnr == fidelity.psnr(to_uint8(sample), to_uint8(gt))
    assert found.further["psnr_gtmean"] == fidelity.psnr(level, to_uint8(gt))
    assert found.further["ssim_grey_gtmean"] == fidelity.ssim_grey(level, to_uint8(gt))
    assert found.lr_psnr is None
    assert found.psnr_y is None


@pytest.mark.parametrize("gt", [None, image()], ids=["no truth", "not finite"])
def test_columns_are_the_same_without_figures(gt):
    found = row(image(1) if gt is None else image(1) / 0, gt)
    assert found.psnr is None
    assert list(found.flat()) == list(row(image(), image()).flat())
    assert set(found.further.values()) == {None}


def test_the_mean_is_finite_only_if_all_samples_are():
    samples = torch.stack([image(1), image(2)])
    torch.testing.assert_close(enhancement.mean_of(samples), (image(1) + image(2)) / 2)
    large = torch.full_like(samples, 3e38)
    assert enhancement.mean_of(large).isfinite().all()
    samples[0, 0, 0, 0] = math.inf
    samples[1, 0, 0, 0] = -math.inf
    mean = enhancement.mean_of(samples)
    assert not mean[0, 0, 0].isfinite()
    assert mean[1:].isfinite().all()


def record(gt, name="a", broken=False):
    samples = torch.stack([image(1), image(2)])
    if broken:
        samples[0, 0, 0, 0] = math.inf
    rows = [row(image(3), gt, heat=0.0), *(row(sample, gt, number=k) for k, sample in enumerate(samples))]
    means = {"0.9": row(enhancement.mean_of(samples), gt, number=2)}
    of_heat = OfHeat(1.0, None)
    return Record("f", "set", name, (16, 20), 1.0, None, None, rows, {"0": of_heat, "0.9": of_heat}, means)


def test_records_keep_the_mean(tmp_path):
    written = record(image())
    records.write(tmp_path, written)
    assert records.read(tmp_path, "set", "a", "f") == written
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a_t0.9_mean.png").touch()
    records.remove(tmp_path, "set", "a")
    assert not list((tmp_path / "set").iterdir())


def test_records_without_mean_are_as_ever(tmp_path):
    records.write(tmp_path, replace(record(image()), means={}))
    assert '"means"' not in records.path_of(tmp_path, "set", "a").read_text()


def test_scheme_2_has_a_summary_of_its_own():
    found = [record(image()), record(image(4), broken=True)]
    dataset = summary.of_data_set(found, (0.0, 0.9))
    means = dataset["means"]["0.9"]
    assert means["n_averaged"] == 2
    assert means["inf_pct"] == 50
    assert means["psnr"] == found[0].means["0.9"].psnr
    assert means["psnr_gtmean"] == found[0].means["0.9"].further["psnr_gtmean"]
    assert dataset["heats"]["0"]["n_samples"] == 2
    assert list(columns.lines(dataset)) == ["0", "0.9", "0.9, mean of 2"]


def test_table_has_a_row_of_the_mean():
    metrics = {"protocol": {"protocol": "llflow"}, "datasets": {"set": summary.of_data_set([record(image())], (0.9,))}}
    header, _, *rows = tables.table(metrics).splitlines()
    assert "LR-PSNR" not in header
    assert "residual" not in header
    for label in ("PSNR GT-mean", "SSIM GT-mean", "SSIM grey", "SSIM grey GT-mean"):
        assert label in header
    assert [line.split("  ")[0] for line in rows] == ["set", "set"]
    assert "0.9, mean of 2" in rows[1]
