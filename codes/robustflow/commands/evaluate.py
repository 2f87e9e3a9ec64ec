"""Evaluate a model on the test sets of its options, or on images of the user's."""

import contextlib
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from robustflow import data
from robustflow.data import checks
from robustflow.diagnostics.ood import mahalanobis
from robustflow.diagnostics.trace.trace import trace as trace_layers
from robustflow.evaluation import description, frames, metrics
from robustflow.evaluation.evaluator import Evaluator
from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.records import Record
from robustflow.models import Model, data_sets, require_flow, weights
from robustflow.models.loading import load_model
from robustflow.options import load as options_load
from robustflow.options import memory_advice
from robustflow.options.schema import RunOptions
from robustflow.report import pages, tables
from robustflow.report import trace as trace_report
from robustflow.utils import distributed, locks
from robustflow.utils.answer import answering, require_one_process
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside

log = logging.getLogger(__name__)

# Sub-folders of a results folder that are of no data set.
_OTHERS = ("records", "input", "trace", pages.APPLICATIONS)


def run(options: RunOptions, input_path: str | None, output: str | None, trace: bool = False) -> int:
    """Evaluate; return the exit status: 0 done, 1 failed, 2 mistake (message on stderr), 130 interrupted.

    Args:
        options: All options; ``path.model_path`` names the weights, else the newest of experiments/<name>.
        input_path: Folder of LR images, or one image, to super-resolve instead of the test sets.
        output: Folder for the results; default results/<name>, or results/<name>/input for ``input_path``.
        trace: Trace the layers and audit their slopes, into the folder's sub-folder "trace", instead of metrics.
    """
    own = Path(options.path.results) / options.name
    usual = own if input_path is None else own / "input"
    folder = usual if output is None else Path(output)

    with (
        distributed.joined(),
        answering(
            memory=partial(memory_advice.of_sampling, options),
            interrupted="interrupted; the same command goes on where it was",
        ) as reply,
        distributed.announcing(),
    ):
        if trace:
            require_one_process()
            data_sets.require_apart(options, input_path, folder, folder / "trace")
            with locks.hold(locks.within(folder / "trace"), folder / "trace"):
                text = _trace(options, input_path, folder / "trace")
        else:
            text = tables.table(evaluate(options, input_path, folder))
        if distributed.is_main():
            print(text)  # noqa: T201
    return reply.status


def _trace(options: RunOptions, input_path: str | None, folder: Path) -> str:
    """Trace the layers on the data sets; the reference is the validation set, or else the first. Returns trace.md."""
    model, sets = require_flow(load_model(options), "--trace"), _data_sets(options, input_path)
    log.info("%s: %s", model.options.name, model.file)
    if "val" in options.datasets:
        name = options.datasets["val"].name or "validation"
        if name in sets:
            raise UserError(f"datasets.val.name: '{name}' names two data sets")
        sets = {name: data_sets.evaluation_set(options, options.datasets["val"]), **sets}
    return trace_report.write(folder, trace_layers(model, sets))


def evaluate(options: RunOptions, input_path: str | None, folder: Path) -> dict[str, Any]:
    """Evaluate the data sets whose key begins with "test"; write metrics, records, pictures and report to folder.

    Several processes divide the images; each writes the records and pictures of its own, the main one all else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the results, got a file; choose another --output")
    with contextlib.ExitStack() as stack:
        distributed.on_main(stack.enter_context, locks.hold(locks.within(folder), folder))
        sets = _data_sets(options, input_path)
        _require_places(sets, folder, named=input_path is None)
        data_sets.require_apart(options, input_path, folder, *(folder / name for name in sets))
        if input_path is None and distributed.is_main():
            checks.warn(options.datasets, options.scale, used="test")
        # Chosen once: a training may be writing newer ones meanwhile.
        file = distributed.on_main(weights.locate_for_test, options)
        model = load_model(options, file)
        options = model.options
        log.info("%s: %s", options.name, file or "no weights")

        score = None if file is None else mahalanobis.load_beside(file, model.encoder)
        evaluator, described = _make_evaluator(model, score, input_path, folder)
        summaries: dict[str, Any] = {}
        unlike: dict[str, dict[str, float]] = {}
        pale: dict[str, dict[str, float]] = {}
        found: list[Record] = []
        result = {
            "name": options.name,
            "weights": "none" if file is None else str(file),
            **described,
            "datasets": summaries,
            "unlike_training": unlike,
            "less_colour_than_training": pale,
        }
        distributed.on_main(options_load.save, options, folder / "options.yml")
        for name, items in sets.items():
            summaries[name], of_set = evaluator.evaluate(name, items)
            found += of_set
            unlike[name], pale[name] = _unlike(score, of_set)
            # After each set, so that a fault in a later one loses nothing.
            distributed.on_main(frames.write_results, folder, result, found)
        coupling = getattr(options.network_G.flow.coupling, "type", "")
        for name, items in sets.items():
            for warning in mahalanobis.warnings(name, unlike[name], pale[name], len(items), coupling):
                log.warning(warning)
        log.info("report: %s", distributed.on_main(pages.write, folder))
        if distributed.is_main():
            log.info("%s", tables.footnotes([result]))
        return result


def _make_evaluator(
    model: Model, score: mahalanobis.OODScore | None, input_path: str | None, folder: Path
) -> tuple[Evaluator, dict[str, Any]]:
    """What evaluates a model, and what is said in its results of how it does."""
    options = model.options
    device = model.device
    lpips = perceptual.load(device)
    # Inputs alone have no ground truth, which those need.
    if isinstance(lpips, str) and input_path is None:
        log.info("lpips, diversity_score: not computed; %s", lpips)
    measured, versions = metrics.choose(model.protocol), description.versions(model)
    for key, how in (text for metric in measured for text in metric.describe().items()):
        if str(how).startswith("not computed"):
            log.info("%s: %s", key, how)
    protocol = description.describe_protocol(
        options, model.protocol, measured, lpips, device, ood_fitted=score is not None, input_path=input_path
    )
    evaluator = Evaluator(
        model,
        options.val,
        folder,
        perceptual=None if isinstance(lpips, str) else lpips,
        score=None if score is None else score.bind(model),
        common={
            "protocol": {key: value for key, value in protocol.items() if key != "datasets"},
            "weights": mahalanobis.digest(model.network),
            "ood": None if score is None else score.describe(),
            "versions": versions,
        },
    )
    return evaluator, {
        "versions": versions,
        "protocol": protocol,
        "evaluation": model.protocol.describe(),
        "columns": description.describe_columns(measured, options.val),
        "ood_fit": None if score is None else score.describe(),
    }


def _require_places(sets: Iterable[str], folder: Path, *, named: bool) -> None:
    """Raise UserError unless data sets, named by the user or not, have places of their own below the folder."""
    for name in sets:
        if named and name in _OTHERS:
            raise UserError(f"datasets: expected a name other than '{name}', a folder of other results; set its name")
        require_inside(folder, name)
        require_inside(folder, "records", name)


def _unlike(score: mahalanobis.OODScore | None, found: list[Record]) -> tuple[dict[str, float], dict[str, float]]:
    """Inputs of a data set that are unlike the training patches; see `mahalanobis.unlike` and `mahalanobis.pale`."""
    if score is None:
        return {}, {}
    scores = {record.image: record.ood for record in found if record.ood is not None}
    colours = {record.image: record.colour for record in found if record.colour is not None}
    return mahalanobis.unlike(score, scores), mahalanobis.pale(score, colours)


def _data_sets(options: RunOptions, input_path: str | None) -> dict[str, data.EvaluationSet]:
    if input_path is not None:
        return {"input": data_sets.evaluation_of_folder(options, input_path)}
    return {
        name: data_sets.evaluation_set(options, dataset) for name, dataset in data_sets.select_tested(options).items()
    }
