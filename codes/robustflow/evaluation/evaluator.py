"""Evaluate a model on data sets: samples, metrics, records and pictures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import EvaluationItem, EvaluationSet
from robustflow.data.bicubic import upsample
from robustflow.data.images import clamp, to_uint8, write_png
from robustflow.evaluation import frames, metrics, records
from robustflow.evaluation.metrics import Sample, SampleMetric, SetMetric, Target, diversity
from robustflow.evaluation.metrics.base import cut
from robustflow.evaluation.metrics.failures import KEYS, outside
from robustflow.evaluation.metrics.perceptual import Perceptual
from robustflow.evaluation.records import Record, heat_key
from robustflow.evaluation.sampling import average, draw_samples
from robustflow.models import Model
from robustflow.nn import fused
from robustflow.options.schema import ValOptions
from robustflow.utils import cpus, distributed
from robustflow.utils.seeds import derive_seed

LATENT_EDGES = [edge / 4 for edge in range(-20, 21)]
# Pixels of the samples that are measured at the same time: about 3 GB.
_PIXELS_AT_ONCE = 2**25
Row = dict[str, Any]


class Stopped(Exception):
    """An evaluation was told to stop before all images were evaluated."""


class Evaluator:
    """Evaluates one model.

    Args:
        model: In eval mode.
        options: Temperatures, number of samples, seed.
        folder: Where records and PNGs go; None to write none.
        perceptual: Backbone of perceptual metrics, or None.
        score: Out-of-distribution score and colourfulness of an input (c, h, w), on the model's device; None: none is
            fitted.
        common: What all results depend on besides an image, plain values: weights and options.

    Attributes:
        metrics: Those of the model's protocol.
        heats: Temperatures, likewise.
    """

    def __init__(
        self,
        model: Model,
        options: ValOptions,
        folder: Path | None,
        *,
        perceptual: Perceptual | None = None,
        score: Callable[[Tensor], tuple[float, float]] | None = None,
        common: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.scale, self.options, self.folder = model, model.scale, options, folder
        self.perceptual, self.score, self.common = perceptual, score, common
        self.metrics = metrics.choose(model.protocol)
        self.heats = model.protocol.temperatures(options.heats)
        self.truncate = options.rounding == "floor"
        self.device = model.device

    def evaluate(
        self, name: str, items: EvaluationSet, stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict[str, Any], list[Record]]:
        """Evaluate a data set: its summary, as in metrics.json, and one record per image; in every process all of them.

        Images whose record and pictures are there already, made from the same input by the same model under the same
        options, are not evaluated again. ``stop`` is asked after each image. Stopped, in every process, if images were
        left out.
        """
        own: dict[int, Record] = {}
        # Listed once: a folder of many images is long.
        pictures = {} if self.folder is None else records.list_pictures(self.folder, name)
        n_samples = sum(map(self._n_samples, self.heats))
        quiet = None if distributed.is_main() else True
        with (
            fused.expecting(self.model.mapped_elements(items.pixels * n_samples)),
            tqdm(total=len(items) * n_samples, desc=name, leave=False, unit="sample", disable=quiet) as bar,
        ):
            for number in distributed.distribute(len(items)):
                bar.set_postfix_str(f"image {number + 1}/{len(items)}")
                # Those before it that other processes have.
                bar.update(number * n_samples - bar.n)
                item = items[number]
                record, fingerprint = self._find_record(name, item, pictures.get(item.name, ()))
                if record is None:
                    record = self._evaluate_image(name, item, fingerprint, bar)
                else:
                    bar.update(len(record.rows))
                own[number] = record
                if stop():
                    break
        records_by_number = {number: record for part in distributed.gather(own) for number, record in part.items()}
        if len(records_by_number) < len(items):
            raise Stopped
        found = [records_by_number[number] for number in range(len(items))]
        return frames.summarize_data_set(found, self.metrics), found

    def _n_samples(self, heat: float) -> int:
        return self.model.protocol.n_samples(heat, self.options.n_sample)

    def _find_record(self, dataset: str, item: EvaluationItem, pictures: Iterable[Path]) -> tuple[Record | None, str]:
        """The record that is there already, and the fingerprint of one to be made, for which pictures are removed."""
        if self.folder is None or self.common is None:
            return None, ""
        own = {"dataset": dataset, "image": item.name, "lr_altered": item.lr_altered}
        fingerprint = records.fingerprint({**self.common, **own}, item.condition, item.gt)
        record = records.read(self.folder, dataset, item.name, fingerprint)
        if record is not None and self._has_values(record) and self._has_pictures(record):
            return record, fingerprint
        # Nothing of an older evaluation may stay beside what is made now.
        records.remove(self.folder, dataset, item.name, pictures)
        return None, fingerprint

    def _has_values(self, record: Record) -> bool:
        """Whether a record has the values of all metrics, third parties' included, which the fingerprint ignores."""
        of_sets = {one.name for one in self.metrics if isinstance(one, SetMetric) and not one.each}
        of_samples = {one.name for one in self.metrics if isinstance(one, SetMetric) and one.each}
        of_samples.update(key for one in self.metrics if isinstance(one, SampleMetric) for key in one.keys)
        rows, heats = [*record.rows, *record.means.values()], record.heats.values()
        return all(of_samples <= row.keys() for row in rows) and all(of_sets <= heat.keys() for heat in heats)

    def _has_pictures(self, record: Record) -> bool:
        if not self.options.save_images:
            return True
        assert self.folder is not None
        kinds = ["lr", *(f"t{heat_key(row['heat'])}_{row['sample']:02d}" for row in record.rows)]
        kinds += [f"t{heat}_mean" for heat in record.means]
        return all((self.folder / record.dataset / f"{record.image}_{kind}.png").is_file() for kind in kinds)

    @torch.no_grad()
    def _evaluate_image(self, dataset: str, item: EvaluationItem, fingerprint: str, bar: tqdm) -> Record:
        condition, o, target = item.condition.to(self.device), self.options, self._target(item)
        self._write(dataset, f"{item.name}_lr", item.lr)
        if item.gt is not None:
            self._write(dataset, f"{item.name}_gt", item.gt)
        rows: list[Row] = []
        heats: dict[str, dict[str, Any]] = {}
        means: dict[str, Row] = {}
        drawn = draw_samples(
            self.model,
            condition,
            name=item.name,
            heats=self.heats,
            n=self._n_samples,
            seed=o.seed,
            batch=o.sample_batch,
            tile=o.tile,
            overlap=o.tile_overlap,
        )
        for heat, samples in drawn:
            key = heat_key(heat)
            of_heat = self._measure_each(dataset, f"{item.name}_t{key}", heat, samples, target, bar)
            heats[key] = self._measure_together(of_heat, samples, target)
            rows += of_heat
            self._write_maps(dataset, f"{item.name}_t{key}", of_heat, samples)
            if self.model.protocol.averages and heat > 0:
                mean = average(samples)
                self._write(dataset, f"{item.name}_t{key}_mean", mean, truncate=self.truncate)
                means[key] = self._measure(heat, len(samples), mean, target)
                self._measure_together([means[key]], mean[None], target)
            # Let go before those of the next temperature are drawn.
            del samples
        bits_per_dim, latents = self._likelihood(item)
        score, colour = (None, None) if self.score is None else self.score(condition)
        size = (item.lr.shape[-2] * self.scale, item.lr.shape[-1] * self.scale)
        record = Record(fingerprint, dataset, item.name, size, bits_per_dim, score, latents, rows, heats, means, colour)
        if self.folder is not None and self.common is not None:
            records.write(self.folder, record)
        return record

    def _target(self, item: EvaluationItem) -> Target:
        lr, multiple = item.lr.to(self.device), math.lcm(self.options.cut_to, self.scale)
        return Target(
            lr=cut(to_uint8(item.lr), multiple // self.scale),
            upsampled=lr if self.scale == 1 else upsample(lr, self.scale, torch.float64),
            gt=None if item.gt is None else cut(to_uint8(item.gt), multiple),
            scale=self.scale,
            crop=self.options.crop_border,
            multiple=multiple,
            truncate=self.truncate,
            against_input=self.options.lr_reference == "input" or item.lr_altered,
            perceptual=self.perceptual,
            kernel=item.kernel,
        )

    def _measure_each(
        self, dataset: str, name: str, heat: float, samples: Tensor, target: Target, bar: tqdm
    ) -> list[Row]:
        """Rows of samples (n, 3, H, W), whose pictures are written."""

        @torch.no_grad()
        def work(index: int) -> Row:
            self._write(dataset, f"{name}_{index:02d}", samples[index], truncate=self.truncate)
            return self._measure(heat, index, samples[index], target)

        rows = []
        at_once = self._at_once(samples[0, 0].numel())
        with ThreadPoolExecutor(at_once) as pool:
            for row in (pool.map if at_once > 1 else map)(work, range(len(samples))):
                rows.append(row)
                bar.update()
        return rows

    def _at_once(self, pixels: int) -> int:
        """How many samples are measured and written at the same time, of so many pixels.

        A GPU draws samples faster than one core measures them; CPUs draw them so much more slowly that it is no gain.
        """
        if self.device.type == "cpu":
            return 1
        return max(1, min(cpus.available() // distributed.size("LOCAL_WORLD_SIZE"), _PIXELS_AT_ONCE // pixels))

    def _measure(self, heat: float, index: int, raw: Tensor, target: Target) -> Row:
        """Row of one sample (3, H, W), not clamped; None for what is measured of all samples together."""
        sample = Sample(raw, target)
        found: Row = {}
        for metric in self.metrics:
            if isinstance(metric, SampleMetric):
                found |= metric.measure(sample, target)
            elif isinstance(metric, SetMetric) and metric.each:
                found[metric.name] = None
        # Failures stand last in metrics.csv.
        failures = {key: found.pop(key) for key in KEYS}
        return {"heat": heat, "sample": index, **found, **failures}

    def _measure_together(self, rows: Sequence[Row], samples: Tensor, target: Target) -> dict[str, Any]:
        """What is measured of all samples (n, 3, H, W) together: into their rows, or returned, of finite ones too."""
        finite, every = _finite(rows, samples), samples
        if len(finite) < len(samples):
            every = torch.stack([x if _is_finite(row) else clamp(x) for row, x in zip(rows, samples, strict=True)])
        of_heat: dict[str, Any] = {}
        for metric in self.metrics:
            if not isinstance(metric, SetMetric):
                continue
            found = metric.measure(target.cut(every), target) if len(every) >= metric.least else None
            if not metric.each:
                of_heat[metric.name] = found
                if every is not samples:
                    found = metric.measure(target.cut(finite), target) if len(finite) >= metric.least else None
                if metric.finite_too:
                    of_heat[f"{metric.name}_finite"] = found
            elif isinstance(found, Sequence):
                for row, value in zip(rows, found, strict=True):
                    row[metric.name] = value
        return of_heat

    def _likelihood(self, item: EvaluationItem) -> tuple[float | None, dict[str, Any] | None]:
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

    def _write_maps(self, dataset: str, name: str, rows: Sequence[Row], samples: Tensor) -> None:
        """Standard deviation over the finite samples, and pixel errors, of samples (n, 3, H, W) and their rows."""
        deviation = diversity.picture(_finite(rows, samples))
        if deviation is not None:
            self._write(dataset, f"{name}_std", deviation)
        if any(row["pixel_errors"] > 0 for row in rows):
            failed = torch.stack([outside(sample) for sample in samples]).any(0)
            self._write(dataset, f"{name}_mask", failed.to(samples.dtype).expand(3, -1, -1))


def _is_finite(row: Row) -> bool:
    return not (row["has_inf"] or row["has_nan"])


def _finite(rows: Sequence[Row], samples: Tensor) -> Tensor:
    """The finite ones of samples (n, 3, H, W), whose rows these are; not copied if all are."""
    finite = [_is_finite(row) for row in rows]
    return samples if all(finite) else samples[finite]


def _histogram(latents: list[Tensor]) -> dict[str, Any] | None:
    """Histogram of all latents of an image; None unless they are finite."""
    values = torch.cat([latent.flatten() for latent in latents]).double().cpu()
    if not values.isfinite().all():
        return None
    counts = torch.histc(values.clamp(LATENT_EDGES[0], LATENT_EDGES[-1]), len(LATENT_EDGES) - 1, *LATENT_EDGES[::40])
    return {
        "edges": LATENT_EDGES,
        "counts": [int(count) for count in counts],
        "mean": float(values.mean()),
        "std": float(values.std()),
    }
