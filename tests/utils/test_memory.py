"""Whole images in bands of rows: the same results, and no more memory than a few copies of an image."""

import errno
import multiprocessing
import os
import subprocess
import sys

import pytest
import tiny
import torch

from robustflow.data.bicubic import downsample, upsample
from robustflow.data.images import to_uint8, write_png
from robustflow.evaluation.metrics import diversity
from robustflow.evaluation.metrics.failures import measure_failures
from robustflow.evaluation.sampling import average
from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.utils import memory
from robustflow.utils.errors import UserError

# 37 × 21 pixels, some of them outside the range, one not finite.
SAMPLES = torch.rand(3, 3, 37, 21, generator=torch.Generator().manual_seed(0)) * 3 - 1
BROKEN = SAMPLES[0].clone()
BROKEN[1, 30, 5] = torch.nan
PIXELS = to_uint8(SAMPLES)


def spread(samples):
    sums = diversity.Spread()
    for sample in (*samples, BROKEN):
        sums.add(sample)
    return sums.picture()


WORK = {
    "levels": lambda: to_uint8(BROKEN),
    "levels, truncating": lambda: to_uint8(SAMPLES, truncate=True),
    "failures": lambda: measure_failures(SAMPLES[0], SAMPLES[1]),
    "failures, not finite": lambda: measure_failures(BROKEN, SAMPLES[1]),
    "spread": lambda: spread(SAMPLES),
    "picture": lambda: diversity.picture(SAMPLES),
    "mean": lambda: average(SAMPLES),
    **{f"{scale}x smaller, uint8": lambda scale=scale: downsample(PIXELS, scale) for scale in (2, 3, 4, 8)},
    **{f"{scale}x larger, uint8": lambda scale=scale: upsample(PIXELS, scale) for scale in (2, 3, 4, 8)},
    **{f"{scale}x smaller": lambda scale=scale: downsample(SAMPLES, scale) for scale in (2, 4, 8)},
    **{f"{scale}x larger": lambda scale=scale: upsample(SAMPLES, scale) for scale in (2, 4, 8)},
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_work_in_bands_is_that_on_the_whole(work, monkeypatch):
    whole = work()
    for numbers in (1, 200, 1000):
        monkeypatch.setattr(memory, "_BAND", numbers)
        assert torch.equal(work(), whole) if isinstance(whole, torch.Tensor) else work() == whole


def test_sigma_in_bands_differs_by_rounding_alone(monkeypatch):
    whole = diversity.sigma(SAMPLES)
    assert whole == diversity.sigma(SAMPLES.clamp(0, 1))
    monkeypatch.setattr(memory, "_BAND", 200)
    assert diversity.sigma(SAMPLES) == pytest.approx(whole, rel=1e-14)


def test_pictures_of_spread_are_those_of_sums():
    assert torch.equal(diversity.picture(SAMPLES), spread(SAMPLES))
    assert diversity.picture(SAMPLES[:1]) is None
    assert diversity.picture(SAMPLES[:0]) is None


def test_bands_cover_all_rows(monkeypatch):
    monkeypatch.setattr(memory, "_BAND", 30)
    assert list(memory.bands(7, 10)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(memory.bands(2, 100)) == [slice(0, 1), slice(1, 2)]
    assert list(memory.bands(0, 10)) == [slice(0, 0)]


EVALUATED = """
from pathlib import Path
from robustflow.utils import memory
from robustflow.commands import evaluate
from robustflow.options.load import load
options = load("options.yml")
evaluate.evaluate(options, "small.png", Path("small"))
before = memory.peak()
evaluate.evaluate(options, "large.png", Path("large"))
print(memory.peak() - before)
"""


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path / "none")
    assert memory.peak() is None


def test_processes_that_cannot_share_memory(monkeypatch):
    def lock():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    memory.require_shared(2, "n_workers")
    monkeypatch.setattr(multiprocessing, "Lock", lock)
    memory.require_shared(0, "n_workers")
    with pytest.raises(UserError, match=r"n_workers: expected 0 where /dev/shm cannot be used \(read-only .*\), got 2"):
        memory.require_shared(2, "n_workers")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no path")
def test_a_folder_that_cannot_hold_sockets(monkeypatch, tmp_path):
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(tmp_path / ("long" * 30)))
    memory.require_shared(0, "n_workers")
    with pytest.raises(UserError, match=r"n_workers: expected 0 .* \(AF_UNIX path too long\), got 2; or set TMPDIR"):
        memory.require_shared(2, "n_workers")


@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux measures it")
def test_tiles_take_a_few_copies_of_the_image(tmp_path):
    """Two samples, of one of them the latents and x, and the upsampled input: five copies, and what tiles take."""
    val = {"heats": (0.9,), "n_sample": 2, "sample_batch": 1, "tile": 64, "tile_overlap": 2}
    options = tiny.options(path={"model_path": str(tmp_path / "G.safetensors")}, val=val)
    weights.save(tmp_path / "G.safetensors", tiny.built(options, 0.01), options, 1)
    options_load.save(options, tmp_path / "options.yml")
    for name, size in {"small": (16, 16), "large": (300, 400)}.items():
        write_png(tmp_path / f"{name}.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    code = [sys.executable, "-c", EVALUATED]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    copy = 4 * 3 * 1200 * 1600
    assert int(done.stdout.split()[-1]) < 10 * copy


def test_the_peak_is_that_of_the_gpu_that_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", [0, 7, 0].__getitem__)
    assert memory.peak() == 7
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", [0, 0, 0].__getitem__)
    assert memory.peak() > 2**20, "of this process"
