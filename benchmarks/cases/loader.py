"""How fast training crops come, without any training."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import jobs, measure
from benchmarks.jobs import Job
from benchmarks.networks import SCALE
from benchmarks.setting import Row, Setting, report
from robustflow import data
from robustflow.data.images import write_png
from robustflow.data.preparation import prepare_images
from robustflow.data.sources.bundled import BundledSource
from robustflow.data.sources.folders import FolderOptions
from robustflow.registry import DATASETS

REPEATS = 3
BATCH = 16
# What case "floor" counts for the loss of one 160×160 crop and its gradients, the encoder's included.
TFLOP_PER_CROP = 0.4
ASSUMED_TFLOPS = 100


@dataclass(frozen=True)
class Amount:
    """How much is loaded.

    Attributes:
        height: Of the images, pixels; likewise ``width``.
        images: How many.
        crop: Side of the crops.
        crops: Crops per timed call, by data set mode, with the size of a batch: four batches at least, since a loader
            process makes a batch at a time.
        workers: Numbers of loader processes.
    """

    height: int = 1356
    width: int = 2040
    images: int = 4
    crop: int = 160
    crops: tuple[tuple[str, int, int], ...] = (("folder", 8, 2), ("prepared", 128, BATCH))
    workers: tuple[int, ...] = (0, 2, 4)


TINY = Amount(136, 204, 2, 32, (("folder", 4, 2), ("prepared", 8, 4)), (0, 2))


def loader(setting: Setting) -> None:
    """Training crops per second from PNG files and from prepared images, crop by crop and in batch."""
    setting = replace(setting, repeats=min(setting.repeats, REPEATS))
    amount, device = TINY if setting.tiny else Amount(), torch.device(setting.device)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # of more processes than cores
        places = {"folder": Path(folder, "png"), "prepared": Path(folder, "prepared")}
        _write_images(places["folder"], amount)
        preparing = measure.seconds(partial(prepare_images, places["folder"], places["prepared"], 2))
        crops = {mode: _crops(mode, place, amount) for mode, place in places.items()}
        rows = [
            row
            for mode, n, batch in amount.crops
            for workers in amount.workers
            for row in _rows(setting, mode, crops[mode], n, batch, workers, device)
        ]
        finishing = BATCH / _finishing(setting, crops["prepared"], device)
    note = (
        "crop by crop: a loader process makes LR images and float32 crops, as was done before. in batch: it cuts uint8 "
        f"windows, and {device} makes the LR images of a batch, {finishing:.4g} crops/s by itself (included). cut "
        "alone: without that, as a GPU does it while crops are loaded.\n"
        f"Prepared once, in {preparing:.3g} s for {amount.images} images by 2 processes. Files were in memory: a disk "
        f"was not measured.\n{_need(setting)}"
    )
    what = f"{amount.images} images of {amount.width}×{amount.height}, crops of {amount.crop}"
    report(setting, "loader: training crops, 4x", rows, note, what)


def _write_images(folder: Path, amount: Amount) -> None:
    """Write PNGs of bundled photographs, shifted and repeated to the size wanted."""
    source = BundledSource("test", SCALE)
    for number in range(amount.images):
        photograph, _ = source.pair(number % 2)
        repeats = (-(-side // n) for side, n in zip((amount.height, amount.width), photograph.shape[1:], strict=True))
        image = photograph.roll((-97 * number, -61 * number), (1, 2)).repeat(1, *repeats)
        write_png(folder / f"{number}.png", image[:, : amount.height, : amount.width])


def _crops(mode: str, place: Path, amount: Amount) -> data.TrainingCrops:
    values = {"mode": mode, "dataroot_GT": str(place), "GT_size": amount.crop, "use_flip": True, "use_rot": True}
    options = DATASETS.parse(values)
    assert isinstance(options, FolderOptions), "both modes are of folders"
    return data.build_training(options, SCALE, seed=0)


def _rows(
    setting: Setting, mode: str, crops: data.TrainingCrops, n: int, batch: int, workers: int, device: torch.device
) -> list[Row]:
    """All ways, in turns; loader processes are started before."""
    opened = partial(
        DataLoader[Any],
        batch_size=batch,
        sampler=range(n),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=setting.on_cuda,
    )
    plain, cut = opened(crops), opened(crops.raw, collate_fn=data.collate)
    ways: dict[str, Callable[[], None]] = {
        "crop by crop": lambda: _run_through([values.to(device) for values in made.values()] for made in plain),
        "in batch": lambda: _run_through(crops.assemble(made, device) for made in cut),
        "cut alone": lambda: _run_through(cut),
    }
    times = measure.medians(ways, setting.repeats)
    return [
        {
            "data": mode,
            "processes": workers,
            "way": way,
            "crops/s": n / seconds,
            "of crop by crop": times["crop by crop"] / seconds,
        }
        for way, seconds in times.items()
    ]


def _run_through(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def _finishing(setting: Setting, crops: data.TrainingCrops, device: torch.device) -> float:
    """Seconds that the device needs for a batch of cuts."""
    batch = data.collate([crops.raw[number] for number in range(BATCH)])
    return measure.medians({"assemble": partial(crops.assemble, batch, device)}, 3 * setting.repeats)["assemble"]


def _need(setting: Setting) -> str:
    """How many crops per second training takes: measured on a GPU, assumed otherwise."""
    if setting.on_cuda:
        call = jobs.prepare(Job("train", "ours bf16", "rq", BATCH), setting)
        seconds = measure.medians({"train": call}, setting.repeats)["train"]
        return f"Training the full 4x network in bfloat16 on {setting.device} takes {BATCH / seconds:.4g} crops/s."
    return (
        f"Training takes {ASSUMED_TFLOPS / TFLOP_PER_CROP:.4g} crops/s on a GPU that does {ASSUMED_TFLOPS} TFLOP/s in "
        f"the full 4x network (assumed; {TFLOP_PER_CROP} TFLOP per 160×160 crop, see case floor)."
    )
