"""From options to evaluated data sets, for the command line."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch

from robustflow import data, devices, tasks
from robustflow.errors import UserError
from robustflow.evaluation import report
from robustflow.evaluation.evaluate import PROTOCOL, Evaluator, write_results
from robustflow.options import load as options_load
from robustflow.options.schema import TRAINING_ONLY, RunOptions
from robustflow.tasks import weights

log = logging.getLogger(__name__)


def run(options: RunOptions, input_path: str | None, output: str | None) -> int:
    """Evaluate; return the exit status: 0 done, 1 mistake (message on stderr).

    Args:
        options: All options; ``path.model_path`` names the weights, else the newest of experiments/<name>.
        input_path: Folder of LR images, or one image, to super-resolve instead of the test sets.
        output: Folder for the results; default results/<name>, or results/<name>/input for ``input_path``.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        own = Path(options.path.results) / options.name
        folder = own if input_path is None else own / "input"
        evaluated = evaluate(options, input_path, folder if output is None else Path(output))
    except UserError as error:
        log.error("error: %s", str(error))
        return 1
    except torch.OutOfMemoryError as error:
        log.error(
            "error: %s\n  Lower val.sample_batch or network_G.flow.projection_memory, set val.tile and "
            "val.tile_overlap, or use smaller images.",
            error,
        )
        return 1
    print(report.table(evaluated))  # noqa: T201
    return 0


def evaluate(options: RunOptions, input_path: str | None, folder: Path) -> dict[str, Any]:
    """Evaluate the data sets whose key begins with "test" and write metrics.json, metrics.csv and PNGs to folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the results, got a file; choose another --output")
    sets = _data_sets(options, input_path)
    file = weights.to_test(options)
    options = weights.fitting(options, file)
    task = tasks.build(options)
    network = task.build_network(options.network_G, options.precision)
    weights.load(file, network, options, encoder_suffices=False)
    network.to(devices.choose(options.device)).eval()
    log.info("%s: %s", options.name, file)

    images = folder if options.val.save_images else None
    evaluator = Evaluator(task, network, options.scale, options.val, images)
    summaries: dict[str, Any] = {}
    protocol, rows = _protocol(options, input_path), []
    result = {"name": options.name, "weights": str(file), "protocol": protocol, "datasets": summaries}
    options_load.save(options, folder / "options.yml")
    for name, items in sets.items():
        summaries[name], of_set = evaluator.evaluate(name, items)
        rows += of_set
        # After each set, so that a fault in a later one loses nothing.
        write_results(folder, result, rows)
    log.info("results in %s", folder)
    return result


def _data_sets(options: RunOptions, input_path: str | None) -> dict[str, data.EvaluationSet]:
    if input_path is not None:
        return {"input": data.evaluation_of_folder(input_path, options.scale)}
    chosen = {key: dataset for key, dataset in options.datasets.items() if key.startswith("test")}
    if not chosen:
        raise UserError("datasets: expected at least one whose name begins with test, or --input, found neither")
    sets: dict[str, data.EvaluationSet] = {}
    for key, dataset in chosen.items():
        name = dataset.name or key
        if name in sets:
            raise UserError(f"datasets.{key}.name: '{name}' names two data sets")
        sets[name] = data.build_evaluation(dataset, options.scale)
    return sets


def _protocol(options: RunOptions, input_path: str | None) -> dict[str, Any]:
    val = options.val.model_dump(mode="json")
    for key in ("save_images", "sample_batch"):
        val.pop(key)
    common = {**PROTOCOL, "precision": options.precision, **val}
    if input_path is not None:
        return {**common, "datasets": {"input": {"dataroot_LQ": input_path}}}
    chosen = {d.name or key: d for key, d in options.datasets.items() if key.startswith("test")}
    described = {name: d.model_dump(mode="json", exclude=set(TRAINING_ONLY)) for name, d in chosen.items()}
    return {**common, "datasets": described}
