"""Studies of one model: robustflow study temperature|best-of-n|seeds -opt confs/x.yml."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from robustflow.commands import evaluate
from robustflow.commands.arguments import Parser, add_kind, add_options, path, read_options
from robustflow.options import memory_advice
from robustflow.options.schema import RunOptions
from robustflow.registry import MODELS
from robustflow.report import tables
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    run = {"temperature": _temperature, "best-of-n": _best_of_n, "seeds": _seeds}[chosen.kind]

    def study_model() -> None:
        _require_samples(read_options(chosen))
        print(run(chosen))  # noqa: T201

    return answer(
        study_model,
        memory=lambda: memory_advice.of_sampling(read_options(chosen), getattr(chosen, "n", None)),
        interrupted="interrupted; the same command goes on where it was",
    )


def _parser() -> Parser:
    parser = Parser(prog="robustflow study", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    temperature = add_kind(kinds, "temperature", "all metrics against the temperature; perception-distortion")
    heats, text = [k / 10 for k in range(11)], "temperatures; default 0, 0.1, … 1"
    temperature.add_argument("--heats", nargs="+", action="extend", type=float, default=heats, help=text)
    best = add_kind(kinds, "best-of-n", "the best of the first 1, 2, … n samples")
    best.add_argument("--n", type=int, default=50, help="samples per image; default 50")
    seeds = add_kind(kinds, "seeds", "mean and standard deviation over seeds of the latents")
    text = "seeds of the latents, of which each is tested; default 0 1 2 3 4"
    seeds.add_argument("--seeds", nargs="+", action="extend", type=int, default=list(range(5)), help=text)
    for kind in (temperature, best, seeds):
        add_options(kind)
        text = "folder for the results; default: <path.results>/<name>/study_<kind>"
        kind.add_argument("--output", type=path, metavar="DIR", help=text)
    return parser


def _folder(chosen: argparse.Namespace, options: RunOptions) -> Path:
    usual = Path(options.path.results) / options.name / f"study_{chosen.kind.replace('-', '_')}"
    return usual if chosen.output is None else chosen.output


def _require_samples(options: RunOptions) -> None:
    if MODELS.entry_of(options.model).protocol.deterministic:
        raise UserError(
            f"model: expected one that draws samples, got {getattr(options.model, MODELS.key)}, which makes one image "
            "per input; test it, and name its results beside those of a study: robustflow compare"
        )


def _temperature(chosen: argparse.Namespace) -> str:
    options = read_options(chosen, ("val.heats", chosen.heats, "--heats"))
    return tables.table(evaluate.evaluate(options, None, _folder(chosen, options)), "markdown")


def _best_of_n(chosen: argparse.Namespace) -> str:
    options = read_options(chosen, ("val.n_sample", chosen.n, "--n"))
    return tables.best_of_n(evaluate.evaluate(options, None, _folder(chosen, options)))


def _seeds(chosen: argparse.Namespace) -> str:
    seeds: list[int] = chosen.seeds
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: expected seeds that differ, got {' '.join(map(str, seeds))}; leave out the repeated")
    # All are checked before the first is computed.
    of_seeds = {seed: read_options(chosen, ("val.seed", seed, "--seeds")) for seed in seeds}
    folder = _folder(chosen, of_seeds[seeds[0]])
    results = [evaluate.evaluate(options, None, folder / f"seed_{seed}") for seed, options in of_seeds.items()]
    text = tables.over_seeds(results)
    write_atomically(folder / "summary.md", f"Seeds {seeds}: mean ± std.\n\n{text}\n")
    return text
