"""Metrics at the brightness of the ground truth, and of the mean of the samples."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from robustflow.data.images import to_uint8
from robustflow.evaluation import frames, records
from robustflow.evaluation.metrics import Sample, SampleMetric, Target, choose
from robustflow.evaluation.metrics.fidelity import ssim
from robustflow.evaluation.metrics.images import grey, psnr, scale_to_mean_of
from robustflow.evaluation.records import Record
from robustflow.evaluation.sampling import average
from robustflow.models import protocol
from robustflow.models.protocol import DETERMINISTIC, ENHANCEMENT, SUPER_RESOLUTION
from robustflow.report import columns, tables

METRICS = choose(ENHANCEMENT)


def image(seed=0, brightness=1.0, size=(16, 20)):
    return brightness * torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def row(raw, gt=None, heat=0.9, number=0):
    target = Target(to_uint8(raw), torch.zeros_like(raw), None if gt is None else to_uint8(gt), scale=1)
    sample, found = Sample(raw, target), {"heat": heat, "sample": number, "lpips": None, "lpips_gtmean": None}
    for metric in METRICS:
        found |= metric.measure(sample, target) if isinstance(metric, SampleMetric) else {}
    return found


def test_a_darker_version_of_the_truth_is_right_at_its_brightness():
    gt = image()
    found = row(0.5 * gt, gt)
    assert found["psnr"] < 15
    assert found["psnr_gtmean"] > 50
    assert found["ssim_gtmean"] > 0.999 > found["ssim"]
    assert found["ssim_grey_gtmean"] > 0.999 > found["ssim_grey"]


def test_figures_are_those_of_the_brightened_image():
    gt, sample = image(), image(1) * 1.3 - 0.1
    found, level = row(sample, gt), to_uint8(scale_to_mean_of(sample.clamp(0, 1), to_uint8(gt) / 255))
    assert found["psnr"] == psnr(to_uint8(sample), to_uint8(gt))
    assert found["psnr_gtmean"] == psnr(level, to_uint8(gt))
    assert found["ssim_grey_gtmean"] == ssim(grey(level), grey(to_uint8(gt)))
    assert not {"lr_psnr", "psnr_y"} & found.keys()


@pytest.mark.parametrize("gt", [None, image()], ids=["no truth", "not finite"])
def test_columns_are_the_same_without_figures(gt):
    found, full = row(image(1) if gt is None else image(1) / 0, gt), row(image(), image())
    assert list(found) == list(full)
    values = [found[key] for key in ("psnr", "ssim", "psnr_gtmean", "ssim_grey")]
    assert all(value is None if gt is None else math.isfinite(value) for value in values)


@pytest.mark.parametrize("evaluated", [ENHANCEMENT, SUPER_RESOLUTION, DETERMINISTIC], ids=["LLFlow", "SR", "RRDB"])
def test_reports_know_the_protocol_that_was_described(evaluated):
    described = json.loads(json.dumps(evaluated.describe()))
    assert protocol.read({"evaluation": described}) == replace(evaluated, adds=(), omits=(), texts={})
    older = {"protocol": {"protocol": evaluated.presets[0]}}
    assert protocol.read(older) == (ENHANCEMENT if evaluated is ENHANCEMENT else SUPER_RESOLUTION)


@pytest.mark.parametrize(
    ("evaluated", "other"), [(ENHANCEMENT, "ntire"), (SUPER_RESOLUTION, "llflow")], ids=["LLFlow", "SR"]
)
def test_options_that_a_protocol_does_not_have_are_told(evaluated, other):
    def keys(preset, reference):
        options = SimpleNamespace(val=SimpleNamespace(protocol=preset, lr_psnr_reference=reference))
        return [key for key, _ in evaluated.contradictions(options)]

    own = evaluated.presets[-1]
    assert keys(own, None) == []
    assert keys(own, "input") == ([] if evaluated is SUPER_RESOLUTION else ["val.lr_psnr_reference"])
    assert keys(other, None) == ["val.protocol"]


def test_the_mean_is_finite_only_if_all_samples_are():
    samples = torch.stack([image(1), image(2)])
    torch.testing.assert_close(average(samples), (image(1) + image(2)) / 2)
    large = torch.full_like(samples, 3e38)
    assert average(large).isfinite().all()
    samples[0, 0, 0, 0] = math.inf
    samples[1, 0, 0, 0] = -math.inf
    mean = average(samples)
    assert not mean[0, 0, 0].isfinite()
    assert mean[1:].isfinite().all()


def record(gt, name="a", broken=False):
    samples = torch.stack([image(1), image(2)])
    if broken:
        samples[0, 0, 0, 0] = math.inf
    rows = [row(image(3), gt, heat=0.0), *(row(sample, gt, number=k) for k, sample in enumerate(samples))]
    means = {"0.9": row(average(samples), gt, number=2)}
    of_heat = {"diversity_sigma": 1.0, "diversity_score": None}
    return Record("f", "set", name, (16, 20), 1.0, None, None, rows, {"0": of_heat, "0.9": of_heat}, means)


def test_records_keep_the_mean(tmp_path):
    written = record(image())
    records.write(tmp_path, written)
    assert records.read(tmp_path, "set", "a", "f") == written
    (tmp_path / "set").mkdir()
    # An image may be named like the picture of another; other files are the user's.
    for name in ("a_t0.9_mean", "a_gt_lr", "a_t1e-05_02", "note"):
        (tmp_path / "set" / f"{name}.png").touch()
    pictures = records.list_pictures(tmp_path, "set")
    assert {image: len(files) for image, files in pictures.items()} == {"a": 2, "a_gt": 1}
    records.remove(tmp_path, "set", "a", pictures["a"])
    assert {file.stem for file in (tmp_path / "set").iterdir()} == {"a_gt_lr", "note"}
    assert records.list_pictures(tmp_path, "other") == {}


def test_records_without_mean_are_as_ever(tmp_path):
    records.write(tmp_path, replace(record(image()), means={}))
    assert '"means"' not in records.path_of(tmp_path, "set", "a").read_text()


def test_scheme_2_has_a_summary_of_its_own():
    found = [record(image()), record(image(4), name="b", broken=True)]
    dataset = frames.summarize_data_set(found, METRICS)
    means = dataset["means"]["0.9"]
    assert means["n_averaged"] == 2
    assert means["inf_pct"] == 50
    first, second = (one.means["0.9"] for one in found)
    for key in ("psnr", "psnr_gtmean"):
        assert means[key] == pytest.approx((first[key] + second[key]) / 2)
        assert means[f"{key}_finite"] == first[key]
    assert dataset["heats"]["0"]["n_samples"] == 2
    report = {"evaluation": ENHANCEMENT.describe(), "datasets": {"set": dataset}}
    assert list(columns.lines(report, "set")) == ["0", "0.9", "0.9, mean of 2"]


def test_table_has_a_row_of_the_mean():
    datasets = {"set": frames.summarize_data_set([record(image())], METRICS)}
    header, _, *rows = tables.table({"protocol": {"protocol": "llflow"}, "datasets": datasets}).splitlines()
    assert "LR-PSNR" not in header
    assert "residual" not in header
    for label in ("PSNR GT-mean", "SSIM GT-mean", "SSIM grey", "SSIM grey GT-mean"):
        assert label in header
    assert [line.split("  ")[0] for line in rows] == ["set", "set", "set"]
    assert "0.9, mean of 2" in rows[2]
