import pytest
import torch

from robustflow.data.sources import bundled
from robustflow.data.sources.bundled import SPLITS, BundledSource
from robustflow.registry import DATASETS


@pytest.mark.parametrize("split", SPLITS)
def test_photographs_are_there(split: str):
    source = BundledSource(split, scale=8)
    assert len(source) == len(SPLITS[split])
    for index in range(len(source)):
        hr, lr = source.pair(index)
        assert lr is None
        assert hr.dtype == torch.uint8
        assert hr.shape == (3, *source.size(index))
        assert min(hr.shape[1:]) >= 160


def test_splits_share_no_scene():
    files = [file for split in SPLITS.values() for file in split]
    assert len(files) == len(set(files))
    assert "motorcycle_right.png" not in files


def test_photographs_are_decoded_once():
    first, second = BundledSource("text", scale=4).pair(0)[0], BundledSource("text", scale=4).pair(0)[0]
    assert first is second


def test_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(bundled.SPLITS, "test", ("nowhere.png",))
    with pytest.raises(ValueError, match=r"nowhere\.png in scikit-image, but version \d"):
        BundledSource("test", scale=4)


def test_options():
    assert DATASETS.parse({"mode": "bundled"}).split == "train"
    source = DATASETS.build(DATASETS.parse({"mode": "bundled", "split": "text", "GT_size": 32}), scale=4)
    assert source.names == ["text", "page", "chessboard_GRAY"]
