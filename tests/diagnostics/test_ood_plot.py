"""Pictures of failures by rank of the out-of-distribution score."""

import json

import numpy as np
import pytest

from robustflow.commands import ood
from robustflow.report import ood as report
from robustflow.utils.errors import UserError


def test_results_that_are_not_there(tmp_path, caplog):
    assert ood.main(["plot", str(tmp_path), "--output", str(tmp_path / "x.svg")]) == 2
    assert "expected a results folder with ood.json" in caplog.text


def test_results_of_before_the_shares(tmp_path, caplog):
    earlier = {"name": "x", "datasets": {"a": {}}, "patches": [{"dataset": "a", "score": 1.0, "pixel_error": True}]}
    (tmp_path / "ood.json").write_text(json.dumps(earlier))
    assert ood.main(["plot", str(tmp_path), "--output", str(tmp_path / "x.svg")]) == 2
    assert "expected of each patch the share of its samples with a pixel error, got an earlier file" in caplog.text
    assert "run robustflow ood rank again" in caplog.text and not (tmp_path / "x.svg").exists()


def test_running_mean_over_ranks():
    # Twenty patches, windows of two; of the upper half eight samples in ten fail.
    curve = [(float(k), 80.0 * (k >= 10)) for k in reversed(range(20))]
    rank, share = report.smooth(curve)
    assert len(rank) == 19 and rank[0] == pytest.approx(5) and rank[-1] == pytest.approx(95)
    np.testing.assert_allclose(share, [0] * 9 + [40] + [80] * 9)
    rank, share = report.smooth([(1.0, 100.0)])
    assert (rank.tolist(), share.tolist()) == ([50], [100])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_reproducible(tmp_path, suffix):
    curves = {"affine": [(k, 10.0 * (k % 3)) for k in range(40)], "one": [(3.0, 0.0)], "none": []}
    for name in ("a", "b"):
        report.plot(curves, tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    report.plot({}, tmp_path / f"empty.{suffix}")


def test_pictures_of_another_kind(tmp_path):
    with pytest.raises(UserError, match=r"expected a \.png, \.svg or \.pdf file, got '\.txt'"):
        report.plot({}, tmp_path / "x.txt")
