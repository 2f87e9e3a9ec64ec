"""Out-of-distribution score on the command line.

robustflow ood fit -opt confs/x.yml
robustflow ood rank -opt confs/x.yml [--input DIR --enhance published]
robustflow ood plot results/a results/b --output both.svg
robustflow ood table -opt confs/x.yml --test datasets/Urban100/HR [--train DIR --held-out DIR]
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from robustflow import data
from robustflow.commands.arguments import Parser, add_kind, add_options, path, path_text, read_options, require_at_least
from robustflow.data.degradations import Enhancement
from robustflow.data.sources.folders import FolderOptions
from robustflow.diagnostics.ood import distributions, mahalanobis, patches
from robustflow.models import data_sets
from robustflow.models.loading import load_model
from robustflow.options.schema import DatasetOptions, RunOptions
from robustflow.report import ood as report
from robustflow.report.results import tell_apart
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError
from robustflow.utils.files import is_utf8

log = logging.getLogger(__name__)

_LOWERED = {
    "fit": "Lower --batch or --patch.",
    "rank": "Lower --patch, --n-sample or val.sample_batch.",
    "plot": "Give fewer results.",
    "table": "Lower --batch or --patch.",
}


def _parser() -> Parser:
    parser = Parser(prog="robustflow ood", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    fitting = add_kind(kinds, "fit", "fit the score on the training set and keep it beside the weights")
    ranking = add_kind(kinds, "rank", "rank the patches of the test sets, or of a folder, by score; sample each")
    ranking.add_argument("--input", type=path, metavar="DIR", help="folder of HR images, in place of the test sets")
    ranking.add_argument("--enhance", choices=get_args(Enhancement), help="filter the images of --input first")
    ranking.add_argument("--patch", type=int, metavar="SIDE", help="HR pixels; default: as the score was fitted")
    ranking.add_argument("--stride", type=int, metavar="N", help="from patch to patch, HR pixels; default: they touch")
    ranking.add_argument("--n-patches", type=int, metavar="N", help="of each set, chosen at random; default: all")
    ranking.add_argument("--n-sample", type=int, metavar="N", help="samples per patch; default: val.n_sample")
    text = "folder for the results; default: <path.results>/<name>, with --input its sub-folder input"
    ranking.add_argument("--output", type=path, metavar="DIR", help=text)
    tabling = add_kind(kinds, "table", "mean scores of training, held-out, test and enhanced test patches")
    tabling.add_argument("--train", type=path, metavar="DIR", help="HR images to fit on; default: datasets.train")
    text = "folder of HR images, or key of a data set of the options, like the training set; default: %(default)s"
    tabling.add_argument("--held-out", type=path_text, default="val", metavar="SET", help=text)
    text = "the same for Urban100; its enhanced images, too"
    tabling.add_argument("--test", type=path_text, required=True, metavar="SET", help=text)
    text = "filter of the enhanced images; default %(default)s"
    tabling.add_argument("--enhance", choices=get_args(Enhancement), default="published", help=text)
    text = "folder for the results; default: <path.results>/<name>"
    tabling.add_argument("--output", type=path, metavar="DIR", help=text)
    for kind in (fitting, tabling):
        _add_fit(kind)
    for kind in (fitting, ranking, tabling):
        add_options(kind)
    plotting = add_kind(kinds, "plot", "draw the curves of several results in one picture")
    plotting.add_argument("results", nargs="+", type=path, help="folders with ood.json")
    plotting.add_argument("--output", type=path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    plotting.add_argument("--pooled", action="store_true", help="one curve per folder: patches of all its data sets")
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a fit."""
    text = "patches to fit on; default %(default)s"
    parser.add_argument("--n-patches", type=int, default=mahalanobis.N_PATCHES, metavar="N", help=text)
    parser.add_argument("--patch", type=int, metavar="SIDE", help="HR pixels; default 160, or GT_size if too large")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="patches at once; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the patches; default %(default)s")
    text = "its estimator; default %(default)s"
    parser.add_argument("--covariance", choices=("shrunk", "empirical"), default="shrunk", help=text)
    parser.add_argument("--shrinkage", type=float, help="of a shrunk one, in [0, 1]; default: Ledoit and Wolf's")


def _shrinkage(chosen: argparse.Namespace) -> float | None:
    """Share of the identity that the flags of a fit say; None: that of Ledoit and Wolf. UserError for mistakes."""
    given = chosen.shrinkage
    if given is not None and not 0 <= given <= 1:
        raise UserError(f"--shrinkage: expected a number from 0 to 1, got {given}")
    require_at_least(chosen, batch=1, patch=1)
    if chosen.covariance == "shrunk":
        return given
    if given not in (None, 0):
        raise UserError(f"--shrinkage: expected none beside --covariance empirical, got {given}; drop one of them")
    return 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    work = {"fit": _fit, "rank": _rank, "plot": _plot, "table": _table}[chosen.kind]
    return answer(lambda: work(chosen), memory=lambda: _LOWERED[chosen.kind])


def _fit(chosen: argparse.Namespace) -> None:
    shrinkage = _shrinkage(chosen)
    model = load_model(read_options(chosen))
    mahalanobis.fit_and_save(
        *(model.options, model.file, model),
        n_patches=chosen.n_patches,
        patch=chosen.patch,
        batch=chosen.batch,
        seed=chosen.seed,
        shrinkage=shrinkage,
    )


def _rank(chosen: argparse.Namespace) -> None:
    options = read_options(chosen)
    require_at_least(chosen, n_sample=1, n_patches=1)
    if chosen.n_sample is not None:
        options = options.model_copy(update={"val": options.val.model_copy(update={"n_sample": chosen.n_sample})})
    found = rank(
        *(options, chosen.input, chosen.enhance, chosen.patch, chosen.output),
        stride=chosen.stride,
        n_patches=chosen.n_patches,
    )
    print(report.table(found))  # noqa: T201


def rank(
    options: RunOptions,
    folder: Path | None,
    enhance: Enhancement | None,
    patch: int | None,
    output: Path | None,
    *,
    stride: int | None = None,
    n_patches: int | None = None,
) -> dict[str, Any]:
    """Rank the patches of the test sets, or of a folder of HR images; write ood.json, ood.csv and ood.png.

    Args:
        options: Of the model; of ``val`` the last temperature, number and seed of samples.
        folder: HR images, in place of the test sets; LR images are made from them.
        enhance: Filter of the folder's images, or None.
        patch: Side of the patches, HR pixels; None: that of the patches the score was fitted on.
        output: Folder for the results; None: results/<name>, or its sub-folder input with ``folder``.
        stride: Distance of patches, HR pixels; None: they touch.
        n_patches: Patches of each data set, chosen at random; None: all.

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
    side, step = patches.side_of(patch, score), patches.stride_of(stride, score.scale)
    found: dict[str, Any] = {
        "name": options.name,
        "weights": str(file),
        "protocol": patches.describe_protocol(model, score, side, enhance, step, n_patches),
        "training": {"mean_score": score.mean_score, "n_patches": score.n_patches},
        "datasets": {},
        "patches": [],
    }
    for name, items in sets.items():
        found["datasets"][name], of_set = patches.rank(
            *(model, score, options.val, side, name, items), stride=step, n_patches=n_patches
        )
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
    name = _name(folder)
    if options.scale == 1:
        # Images of the folder are inputs: none are made from others where input and output are of one size.
        if enhance is not None:
            raise UserError("--enhance: expected none with scale 1: it filters images that inputs are made from")
        return {name: data_sets.evaluation_of_folder(options, folder)}
    name += "" if enhance is None else f", enhanced ({enhance})"
    dataset = FolderOptions(mode="folder", dataroot_GT=str(folder), enhance=enhance or False)
    return {name: data_sets.evaluation_set(options, dataset)}


def _name(folder: Path) -> str:
    name = "/".join(folder.resolve().parts[-2:])
    if not is_utf8(f"{folder} {name}"):
        raise UserError(f"{str(folder)!r}: expected a folder in UTF-8; results are named after it: rename it")
    return name


def _table(chosen: argparse.Namespace) -> None:
    shrinkage, options = _shrinkage(chosen), read_options(chosen)
    if options.scale == 1:
        raise UserError(
            "scale: expected super-resolution, whose HR images are enhanced, got 1; see robustflow ood rank"
        )
    held_out, test = (_whole(options, flag, chosen) for flag in ("held_out", "test"))
    sets: dict[str, DatasetOptions] = {**options.datasets, "val": held_out, "test": test}
    if chosen.train is not None:
        side = chosen.patch or mahalanobis.PATCH
        dataset = FolderOptions(mode="folder", dataroot_GT=str(chosen.train), GT_size=side)
        sets["train"] = dataset.model_copy(update={"name": _name(chosen.train)})
    options = options.model_copy(update={"datasets": sets})
    place = chosen.output or Path(options.path.results) / options.name
    data_sets.require_apart(options, None, place)
    plain, enhanced = (test.model_copy(update={"enhance": kind}) for kind in (False, chosen.enhance))
    published = distributions.PUBLISHED_ENHANCED_URBAN100 if chosen.enhance == "published" else None
    found = {
        f"held out: {held_out.name}": (data_sets.evaluation_set(options, held_out), None),
        str(test.name): (data_sets.evaluation_set(options, plain), distributions.PUBLISHED_URBAN100),
        f"{test.name}, enhanced ({chosen.enhance})": (data_sets.evaluation_set(options, enhanced), published),
    }
    model = load_model(options)
    crops = mahalanobis.training_patches(model.options, chosen.patch, chosen.seed)
    score = mahalanobis.fit(model, crops, chosen.n_patches, batch=chosen.batch, shrinkage=shrinkage)
    rows = distributions.measure(model, score, found, chosen.n_patches, seed=chosen.seed, batch=chosen.batch)
    print(report.write_means(place, rows))  # noqa: T201
    log.info("results in %s", place)


def _whole(options: RunOptions, flag: str, chosen: argparse.Namespace) -> DatasetOptions:
    """Whole images that a flag names: those of a data set of the options, or of a folder; with a name."""
    given = getattr(chosen, flag)
    dataset: DatasetOptions | None = options.datasets.get(given)
    if dataset is None:
        if not Path(given).is_dir():
            raise UserError(
                f"--{flag.replace('_', '-')}: expected a folder of HR images or one of the data sets of the options "
                f"({', '.join(options.datasets)}), got '{given}'"
            )
        return FolderOptions(mode="folder", dataroot_GT=given).model_copy(update={"name": _name(Path(given))})
    if getattr(dataset, "dataroot_LQ", None) is not None:
        raise UserError(
            f"datasets.{given}: expected HR images alone, from which LR ones are made, got dataroot_LQ, too; name a "
            f"folder of HR images: --{flag.replace('_', '-')} DIR"
        )
    return dataset.model_copy(update={"name": dataset.name or given, "GT_size": None, "n_crops": None})


def _plot(chosen: argparse.Namespace) -> None:
    found = [report.read(folder) for folder in chosen.results]
    curves = [_curves(one, pooled=chosen.pooled) for one in found]
    names = [str(one["name"]) for one in found]
    labels = _label([name.rsplit("/", 1)[-1] for name in names], curves)
    if len({*labels}) < len(labels):
        labels = _label(tell_apart(names, chosen.results), curves)
    every = [curve for own in curves for curve in own.values()]
    report.plot(dict(zip(labels, every, strict=True)), chosen.output)
    print(chosen.output)  # noqa: T201


def _curves(found: Mapping[str, Any], *, pooled: bool) -> dict[str, list[tuple[float, float]]]:
    """Curves of results, of all data sets together or of each, by what follows the name of the results in labels."""
    of_sets = report.curves_of(found)
    if pooled:
        return {"": [point for name in found["datasets"] for point in of_sets[name]]}
    return {f": {name}": of_sets[name] for name in found["datasets"]}


def _label(names: Sequence[str], curves: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{name}{end}" for name, own in zip(names, curves, strict=True) for end in own]
