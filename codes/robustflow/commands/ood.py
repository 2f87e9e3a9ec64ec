"""Out-of-distribution score on the command line.

robustflow ood fit -opt confs/x.yml
robustflow ood rank -opt confs/x.yml [--input DIR --enhance published]
robustflow ood plot results/a results/b --output both.svg
"""

import argparse
from collections.abc import Sequence

from robustflow.commands.arguments import Parser, add_options, path, read_options
from robustflow.diagnostics.ood import mahalanobis, patches
from robustflow.models.loading import load_model
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError

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
    report = patches.rank(options, chosen.input, chosen.enhance, chosen.patch, chosen.output)
    print(patches.table(report))  # noqa: T201


def _plot(chosen: argparse.Namespace) -> None:
    from robustflow.diagnostics.ood.plot import plot

    curves: dict[str, list[tuple[float, bool]]] = {}
    for folder in chosen.results:
        report = patches.read(folder)
        label = str(report["name"]).rsplit("/", 1)[-1]
        of_sets = patches.curves_of(report)
        if chosen.pooled:
            curves[label] = [point for name in report["datasets"] for point in of_sets[name]]
            continue
        curves |= {f"{label}: {name}": of_sets[name] for name in report["datasets"]}
    plot(curves, chosen.output)
