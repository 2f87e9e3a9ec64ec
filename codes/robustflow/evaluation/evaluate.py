"""Evaluate a model on data sets: samples, metrics, files."""

import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from robustflow.data import EvaluationItem, EvaluationSet
from robustflow.data.bicubic import downsample, upsample
from robustflow.data.images import to_uint8, write_png
from robustflow.data.seeds import derive_seed
from robustflow.evaluation.metrics.fidelity import lr_psnr, psnr, ssim
from robustflow.evaluation.metrics.robustness import PIXEL_RANGE, failures
from robustflow.evaluation.sampler import draw_samples
from robustflow.evaluation.summary import Row, mean, summarize
from robustflow.files import write_atomically
from robustflow.options.schema import ValOptions
from robustflow.tasks import Task

log = logging.getLogger(__name__)

PROTOCOL = {
    "failures": "on float samples before clamping; an image counts if any of its samples fails",
    "pixel_error_range": list(PIXEL_RANGE),
    "max_residual": "largest |sample - bicubic_up(LR)|, MATLAB bicubic",
    "lr_psnr": "uint8, MATLAB bicubic of the 8-bit sample (quantize), against bicubic(ground truth), or against the "
    "LR image where that was altered or there is no ground truth; std: population",
    "psnr": "RGB, uint8 (quantize), no border cropped, finite samples",
    "ssim": "RGB mean, uint8 (quantize), Gaussian window 11, sigma 1.5, scikit-image, finite samples",
    "bits_per_dim": "-log2 p(HR + training noise | LR) / (3HW), HR in [0, 1], largest crop the flow takes",
    "nll_published": "the same per pixel position, 3 times bits_per_dim",
}


class Evaluator:
    """Evaluates one model.

    Args:
        task: The model's task.
        network: The model, in eval mode.
        scale: Super-resolution factor.
        options: Temperatures, number of samples, seed.
        folder: Where PNGs go; None to write none.
    """

    def __init__(self, task: Task, network: nn.Module, scale: int, options: ValOptions, folder: Path | None) -> None:
        self.task, self.network, self.scale, self.options, self.folder = task, network, scale, options, folder
        self.truncate = options.quantize == "floor"
        self.device = next(network.parameters()).device

    def evaluate(self, name: str, items: EvaluationSet) -> tuple[dict[str, Any], list[Row]]:
        """Evaluate a data set: its summary, as in metrics.json, and one row per image, temperature and sample."""
        rows, bits = [], []
        for item in tqdm(items, desc=name, leave=False, unit="image", disable=None):
            rows += list(self._rows(name, item))
            bits.append(self._bits_per_dim(item))
        by_heat = {f"{heat:g}": [row for row in rows if row.heat == heat] for heat in self.options.heats}
        heats = {heat: summarize(of_heat) for heat, of_heat in by_heat.items()}
        bits_per_dim = mean(bits)
        # The published codes divide by pixel positions, not by dimensions.
        per_position = None if bits_per_dim is None else 3 * bits_per_dim
        return {
            "n_images": len(items),
            "heats": heats,
            "bits_per_dim": bits_per_dim,
            "nll_published": per_position,
        }, rows

    def _rows(self, dataset: str, item: EvaluationItem) -> Iterator[Row]:
        lr = item.lr.to(self.device)
        upsampled = upsample(lr.double(), self.scale).to(lr)
        gt = None if item.gt is None else to_uint8(item.gt)
        reference = to_uint8(item.lr) if gt is None or item.lr_altered else downsample(gt, self.scale)
        self._write(dataset, f"{item.name}_lr", item.lr)
        if item.gt is not None:
            self._write(dataset, f"{item.name}_gt", item.gt)
        o = self.options
        drawn = draw_samples(
            self.task,
            self.network,
            lr,
            name=item.name,
            heats=o.heats,
            n=o.n_sample,
            seed=o.seed,
            batch=o.sample_batch,
            tile=o.tile,
            overlap=o.tile_overlap,
        )
        for heat, samples in drawn:
            for index, sample in enumerate(samples):
                failed = failures(sample, upsampled)
                self._write(dataset, f"{item.name}_t{heat:g}_{index:02d}", sample, truncate=self.truncate)
                if not failed.finite:
                    yield Row(dataset, item.name, heat, index, failed, None, None, None)
                    continue
                image = to_uint8(sample.cpu(), truncate=self.truncate)
                fidelity = (None, None) if gt is None else (psnr(image, gt), ssim(image, gt))
                consistency = lr_psnr(image, reference, self.scale)
                yield Row(dataset, item.name, heat, index, failed, consistency, *fidelity)

    @torch.no_grad()
    def _bits_per_dim(self, item: EvaluationItem) -> float | None:
        if item.gt is None:
            return None
        multiple = self.task.size_multiple(self.network)
        height, width = (side - side % multiple for side in item.gt.shape[-2:])
        if height == 0 or width == 0:
            return None
        gt, lr = item.gt[..., :height, :width], item.lr[..., : height // self.scale, : width // self.scale]
        generator = torch.Generator().manual_seed(derive_seed(self.options.seed, item.name, "bits_per_dim"))
        bits = self.task.bits_per_dim(self.network, gt[None].to(self.device), lr[None].to(self.device), generator)
        return None if bits is None else bits.item()

    def _write(self, dataset: str, name: str, image: Tensor, *, truncate: bool = False) -> None:
        if self.folder is not None:
            write_png(self.folder / dataset / f"{name}.png", image, truncate=truncate)


def write_results(folder: Path, report: Mapping[str, Any], rows: list[Row]) -> None:
    """Write metrics.json and metrics.csv, each atomically."""
    write_atomically(folder / "metrics.json", to_json(report).encode())
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].flat()))
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    write_atomically(folder / "metrics.csv", text.getvalue().encode())


def to_json(report: Mapping[str, Any]) -> str:
    """Standard JSON, which lacks two values: infinity becomes 1e999, which parsers read as infinity, and NaN null."""
    literals = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}
    text = json.dumps(report, indent=2)
    return re.sub(r'"(?:\\.|[^"\\])*"|NaN|-?Infinity', lambda match: literals.get(match[0], match[0]), text) + "\n"
