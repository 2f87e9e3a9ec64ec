"""From options to evaluated data sets, for the command line."""

import contextlib
import logging
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from robustflow import __version__, data
from robustflow.data import checks
from robustflow.data.sources.folders import PAIRING
from robustflow.diagnostics.ood import mahalanobis
from robustflow.diagnostics.trace import report
from robustflow.evaluation import enhancement
from robustflow.evaluation.evaluate import LR_REFERENCES, PROTOCOL, Evaluator, write_results
from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.records import Record
from robustflow.models import Model, data_sets, weights
from robustflow.models.loading import load_model
from robustflow.options import load as options_load
from robustflow.options import memory_advice
from robustflow.options.schema import TRAINING_ONLY, DatasetOptions, RunOptions
from robustflow.report import pages, tables
from robustflow.utils import distributed, exit_status, locks, precision
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside

log = logging.getLogger(__name__)

# Sub-folders of a results folder that are of no data set.
_OTHERS = ("records", "input", "trace", pages.APPLICATIONS)
# Without the reason, which may name files of this machine: protocols are compared.
NO_LPIPS = "not computed: put torchvision's alexnet-owt-7be5be79.pth into pretrained_weights"


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

    def table() -> str:
        if trace:
            data_sets.require_apart(options, input_path, folder, folder / "trace")
            with locks.held(locks.within(folder / "trace"), folder / "trace"):
                return report.write(options, _data_sets(options, input_path), folder / "trace")
        result = evaluate(options, input_path, folder)
        if distributed.is_main():
            log.info("%s", tables.footnotes([result]))
        return tables.table(result)

    @distributed.announcing()
    def work() -> None:
        text = table()
        if distributed.is_main():
            print(text)  # noqa: T201

    with distributed.joined():
        return exit_status.answered(
            work,
            memory=lambda: memory_advice.of_sampling(options),
            interrupted="interrupted; the same command goes on where it was",
            alone=trace,
        )


def evaluate(options: RunOptions, input_path: str | None, folder: Path) -> dict[str, Any]:
    """Evaluate the data sets whose key begins with "test"; write metrics, records, pictures and report to folder.

    Several processes divide the images; each writes the records and pictures of its own, the main one all else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the results, got a file; choose another --output")
    with contextlib.ExitStack() as stack:
        distributed.on_main(stack.enter_context, locks.held(locks.within(folder), folder))
        return _evaluate(options, input_path, folder)


def _evaluate(options: RunOptions, input_path: str | None, folder: Path) -> dict[str, Any]:
    sets = _data_sets(options, input_path)
    _require_places(sets, folder, named=input_path is None)
    data_sets.require_apart(options, input_path, folder, *(folder / name for name in sets))
    if input_path is None and distributed.is_main():
        checks.warn(options.datasets, options.scale, used="test")
    # Chosen once: a training may be writing newer ones meanwhile.
    file = distributed.on_main(weights.to_test, options)
    model = load_model(options, file)
    options = model.options
    log.info("%s: %s", options.name, file)

    device = model.device
    lpips = perceptual.load(device)
    if isinstance(lpips, perceptual.NotComputed):
        log.info("lpips, diversity_score: not computed; %s", lpips.reason)
    score = mahalanobis.load_beside(file, model.encoder)
    protocol = _protocol(options, input_path, lpips, score, device)
    evaluator = Evaluator(
        model,
        options.val,
        folder,
        perceptual=None if isinstance(lpips, perceptual.NotComputed) else lpips,
        score=score,
        common={
            "protocol": {key: value for key, value in protocol.items() if key != "datasets"},
            "weights": mahalanobis.digest(model.network),
            "ood": None if score is None else score.described(),
            "versions": versions(model),
        },
    )
    summaries: dict[str, Any] = {}
    unlike: dict[str, dict[str, float]] = {}
    found: list[Record] = []
    result = {
        "name": options.name,
        "weights": str(file),
        "versions": versions(model),
        "protocol": protocol,
        "datasets": summaries,
        "unlike_training": unlike,
    }
    distributed.on_main(options_load.save, options, folder / "options.yml")
    for name, items in sets.items():
        summaries[name], of_set = evaluator.evaluate(name, items)
        found += of_set
        unlike[name] = _unlike(score, of_set)
        # After each set, so that a fault in a later one loses nothing.
        distributed.on_main(write_results, folder, result, found)
    _warn_of_unlike(unlike, sets, getattr(options.network_G.flow.coupling, "type", ""))
    log.info("report: %s", distributed.on_main(pages.write, folder))
    return result


def _require_places(sets: Iterable[str], folder: Path, *, named: bool) -> None:
    """Raise UserError unless data sets, named by the user or not, have places of their own below the folder."""
    for name in sets:
        if named and name in _OTHERS:
            raise UserError(f"datasets: expected a name other than '{name}', a folder of other results; set its name")
        require_inside(folder, name)
        require_inside(folder, "records", name)


def versions(model: Model) -> dict[str, str]:
    """What makes results, for their record: versions of the software, and the kind of device."""
    return {
        "robustflow": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        # Without its number, so that the results of several are those of one.
        "device": model.device.type,
    }


def _unlike(score: mahalanobis.OODScore | None, found: list[Record]) -> dict[str, float]:
    """Inputs of a data set that are unlike the training patches; see `mahalanobis.unlike`."""
    scores = {record.image: record.ood for record in found if record.ood is not None}
    return {} if score is None else mahalanobis.unlike(score, scores)


def _warn_of_unlike(unlike: dict[str, dict[str, float]], sets: dict[str, data.EvaluationSet], coupling: str) -> None:
    for name, of_set in unlike.items():
        warning = mahalanobis.warning(name, of_set, len(sets[name]), coupling)
        if warning is not None:
            log.warning(warning)


def _data_sets(options: RunOptions, input_path: str | None) -> dict[str, data.EvaluationSet]:
    if input_path is not None:
        return {"input": data_sets.evaluation_of_folder(options, input_path)}
    return {name: data_sets.evaluation_set(options, dataset) for name, dataset in data_sets.tested(options).items()}


def _protocol(
    options: RunOptions,
    input_path: str | None,
    lpips: perceptual.Perceptual | perceptual.NotComputed,
    score: mahalanobis.OODScore | None,
    device: torch.device,
) -> dict[str, Any]:
    val = options.val.model_dump(mode="json")
    for key in ("save_images", "sample_batch", *(["lr_psnr_reference"] if options.val.same_size else [])):
        val.pop(key)
    lr_psnr = {
        "lr_psnr_reference": options.val.lr_reference,
        "lr_psnr": LR_REFERENCES[options.val.lr_reference],
    }
    common = {
        **PROTOCOL,
        **(enhancement.TEXTS if options.val.same_size else {}),
        "precision": precision.resolve(options.precision, training=False, device=device),
        **val,
        "quantize": options.val.rounding,
        **({} if options.val.same_size else lr_psnr),
        **(
            {"lpips": NO_LPIPS, "diversity_score": NO_LPIPS}
            if isinstance(lpips, perceptual.NotComputed)
            else {"lpips": lpips.version}
        ),
        "ood_fitted": score is not None,
    }
    if input_path is not None:
        return {**common, "datasets": {"input": {"dataroot_LQ": input_path}}}
    chosen = {d.name or key: d for key, d in options.datasets.items() if key.startswith("test")}
    return {**common, "datasets": {name: _describe(dataset) for name, dataset in chosen.items()}}


def _describe(dataset: DatasetOptions) -> dict[str, Any]:
    """Options of a test set; of those that earlier results lack, what is set, so that both can be compared."""
    later = {key for key in ("downsampling", "degrade") if key not in dataset.model_dump(exclude_defaults=True)}
    return dataset.model_dump(mode="json", exclude={*TRAINING_ONLY, *PAIRING, *later})
