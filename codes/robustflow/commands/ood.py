"""Out-of-distribution score on the command line.

robustflow ood fit -opt confs/x.yml
robustflow ood rank -opt confs/x.yml [--input DIR --enhance published]
robustflow ood plot results/a results/b --output both.svg
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustflow import data
from robustflow.commands.arguments import Parser, add_options, path, read_options
from robustflow.data.degradations import Enhance, Enhancement
from robustflow.diagnostics.ood import mahalanobis, patches
from robustflow.models import data_sets
from robustflow.models.loading import load_model
from robustflow.options.schema import RunOptions
from robustflow.report import ood as report
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_LOWERED = {
    "fit": "Lower --batch or --patch.",
    "rank": "Lower --patch, --n-sample or val.sample_batch.",
    "plot": "Give fewer results.",
}


def _parser() -> Parser:
    parser = Parser(prog="robustflow ood", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    fitting = kinds.add_parser("fit", help="fit the score on the training set and keep it beside the weights")
    fitting.add_argument(
        "--n-patches", type=int, default=mahalanobis.N_PATCHES, metavar="N", help="default %(default)s"
    )
    fitting.add_argument("--patch", type=int, metavar="SIDE", help="HR pixels; default 160, or GT_size if too large")
    fitting.add_argument("--batch", type=int, default=16, metavar="N", help="patches at once; default %(default)s")
    fitting.add_argument("--seed", type=int, default=0, help="seed of the patches; default %(default)s")
    fitting.add_argument("--shrinkage", type=float, help="of the covariance, in [0, 1]; default: Ledoit and Wolf's")
    ranking = kinds.add_parser("rank", help="rank the patches of the test sets, or of a folder, by score; sample each")
    ranking.add_argument("--input", type=path, metavar="DIR", help="folder of HR images, in place of the test sets")
    ranking.add_argument("--enhance", choices=("published", "unit"), help="filter the images of --input first")
    ranking.add_argument("--patch", type=int, metavar="SIDE", help="HR pixels; default: as the score was fitted, 160")
    ranking.add_argument("--n-sample", type=int, metavar="N", help="samples per patch; default: val.n_sample")
    ranking.add_argument("--output", type=path, metavar="DIR", help="default: <path.results>/<name>[/input]")
    for kind in (fitting, ranking):
        add_options(kind)
    plotting = kinds.add_parser("plot", help="draw the curves of several results in one picture")
    plotting.add_argument("results", nargs="+", type=path, help="folders with ood.json")
    plotting.add_argument("--output", type=path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    plotting.add_argument("--pooled", action="store_true", help="one curve per folder: patches of all its data sets")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    work = {"fit": _fit, "rank": _rank, "plot": _plot}[chosen.kind]
    return answer(lambda: work(chosen), memory=lambda: _LOWERED[chosen.kind])


def _fit(chosen: argparse.Namespace) -> None:
    if chosen.shrinkage is not None and not 0 <= chosen.shrinkage <= 1:
        raise UserError(f"--shrinkage: expected a number from 0 to 1, got {chosen.shrinkage}")
    if chosen.batch < 1:
        raise UserError(f"--batch: expected at least 1, got {chosen.batch}")
    model = load_model(read_options(chosen))
    mahalanobis.fit_and_save(
        *(model.options, model.file, model),
        n_patches=chosen.n_patches,
        patch=chosen.patch,
        batch=chosen.batch,
        seed=chosen.seed,
        shrinkage=chosen.shrinkage,
    )


def _rank(chosen: argparse.Namespace) -> None:
    options = read_options(chosen)
    if chosen.n_sample is not None:
        if chosen.n_sample < 1:
            raise UserError(f"--n-sample: expected at least 1, got {chosen.n_sample}")
        options = options.model_copy(update={"val": options.val.model_copy(update={"n_sample": chosen.n_sample})})
    print(report.table(rank(options, chosen.input, chosen.enhance, chosen.patch, chosen.output)))  # noqa: T201


def rank(
    options: RunOptions, folder: Path | None, enhance: Enhancement | None, patch: int | None, output: Path | None
) -> dict[str, Any]:
    """Rank the patches of the test sets, or of a folder of HR images; write ood.json, ood.csv and ood.png.

    Args:
        options: Of the model; of ``val`` the last temperature, number and seed of samples.
        folder: HR images, in place of the test sets; LR images are made from them.
        enhance: Filter of the folder's images, or None.
        patch: Side of the patches, HR pixels; None: that of the patches the score was fitted on.
        output: Folder for the results; None: results/<name>, or its sub-folder input with ``folder``.

    Returns:
        Content of ood.json.
    """
    own = Path(options.path.results) / options.name
    place = output if output is not None else own if folder is None else own / "input"
    data_sets.require_apart(options, folder, place)
    sets = _open_sets(options, folder, enhance)
    model = load_model(options)
    options, file = model.options, model.file
    score = mahalanobis.load_beside(file, model.encoder)
    if score is None:
        raise UserError(
            f"{mahalanobis.file_beside(file)}: expected the OOD score of {file.name}, found none that fits; "
            "fit it with robustflow ood fit and the same options"
        )
    side = patches.side_of(patch, score)
    found: dict[str, Any] = {
        "name": options.name,
        "weights": str(file),
        "protocol": patches.describe_protocol(options, score, side, enhance),
        "training": {"mean_score": score.mean_score, "n_patches": score.n_patches},
        "datasets": {},
        "patches": [],
    }
    for name, items in sets.items():
        found["datasets"][name], of_set = patches.rank(model, score, options.val, side, name, items)
        found["patches"] += of_set.to_dict("records")
        # After each set, so that a fault in a later one loses nothing.
        report.write(place, found)
    log.info("results in %s", place)
    return found


def _open_sets(options: RunOptions, folder: Path | None, enhance: Enhancement | None) -> dict[str, data.EvaluationSet]:
    """Whole images: patches are cut from all of each image, not from the fixed crops of a set."""
    if folder is None:
        if enhance is not None:
            raise UserError("--enhance: expected --input beside it; for test sets, set datasets.<name>.enhance")
        whole = {"GT_size": None, "n_crops": None}
        return {
            name: data_sets.evaluation_set(options, dataset.model_copy(update=whole))
            for name, dataset in data_sets.select_tested(options).items()
        }
    # Folders of HR images are often all named HR.
    name = "/".join(folder.resolve().parts[-2:])
    if options.scale == 1:
        # Images of the folder are inputs: none are made from others where input and output are of one size.
        if enhance is not None:
            raise UserError("--enhance: expected none with scale 1: it filters images that inputs are made from")
        return {name: data_sets.evaluation_of_folder(options, folder)}
    name += "" if enhance is None else f", enhanced ({enhance})"
    source: data.Source = data.open_folders(str(folder), None, options.scale)
    degradations = [] if enhance is None else [Enhance(enhance)]
    return {name: data.EvaluationSet(source, options.scale, degradations=degradations)}


def _plot(chosen: argparse.Namespace) -> None:
    curves: dict[str, list[tuple[float, bool]]] = {}
    for folder in chosen.results:
        found = report.read(folder)
        label = str(found["name"]).rsplit("/", 1)[-1]
        of_sets = report.curves_of(found)
        if chosen.pooled:
            curves[label] = [point for name in found["datasets"] for point in of_sets[name]]
            continue
        curves |= {f"{label}: {name}": of_sets[name] for name in found["datasets"]}
    report.plot(curves, chosen.output)
