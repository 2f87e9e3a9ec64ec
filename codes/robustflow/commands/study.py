"""Studies of one model: `python -m robustflow.evaluation.study temperature|best-of-n|seeds -opt confs/x.yml`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from robustflow.commands import evaluate
from robustflow.options import amount, memory_advice
from robustflow.options.arguments import Parser, add_override
from robustflow.options.load import Assignment, load
from robustflow.options.schema import RunOptions
from robustflow.report import study
from robustflow.utils import exit_status, paths
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m robustflow.evaluation.study", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    temperature = kinds.add_parser("temperature", help="all metrics against the temperature; perception-distortion")
    temperature.add_argument(
        "--heats",
        nargs="+",
        action="extend",
        type=float,
        default=[k / 10 for k in range(11)],
        help="temperatures; default 0, 0.1, … 1",
    )
    best = kinds.add_parser("best-of-n", help="the best of the first 1, 2, … n samples")
    best.add_argument("--n", type=int, default=50, help="samples per image; default 50")
    seeds = kinds.add_parser("seeds", help="mean and standard deviation over seeds of the latents")
    seeds.add_argument(
        "--seeds", nargs="+", action="extend", type=int, default=list(range(5)), help="default 0 1 2 3 4"
    )
    for kind in (temperature, best, seeds):
        kind.add_argument("-opt", "--opt", required=True, metavar="FILE", help="YAML file with the options of the run")
        add_override(kind)
        kind.add_argument("--weights", metavar="FILE", help="weights file or experiment folder, as in test.py")
        kind.add_argument(
            "--output",
            type=paths.text_of_flag,
            metavar="DIR",
            help="default: <path.results>/<name>/study_<kind>",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    work = {"temperature": _temperature, "best-of-n": _best_of_n, "seeds": _seeds}[chosen.kind]
    return exit_status.answered(
        lambda: print(work(chosen)),  # noqa: T201
        memory=lambda: memory_advice.of_sampling(_options(chosen), getattr(chosen, "n", None)),
        interrupted="interrupted; the same command goes on where it was",
    )


def _options(chosen: argparse.Namespace, *assignments: Assignment) -> RunOptions:
    if chosen.weights is not None:
        assignments = (*assignments, Assignment("path.model_path", chosen.weights, "--weights"))
    options = load(chosen.opt, chosen.override, *assignments)
    amount.settle_threads(options, testing=True)
    return options


def _folder(chosen: argparse.Namespace, options: RunOptions) -> Path:
    if chosen.output is not None:
        return Path(chosen.output)
    return Path(options.path.results) / options.name / f"study_{chosen.kind.replace('-', '_')}"


def _temperature(chosen: argparse.Namespace) -> str:
    options = _options(chosen, Assignment("val.heats", chosen.heats, "--heats"))
    return study.by_temperature(evaluate.evaluate(options, None, _folder(chosen, options)))


def _best_of_n(chosen: argparse.Namespace) -> str:
    options = _options(chosen, Assignment("val.n_sample", chosen.n, "--n"))
    return study.best_of_n(evaluate.evaluate(options, None, _folder(chosen, options)))


def _seeds(chosen: argparse.Namespace) -> str:
    seeds: list[int] = chosen.seeds
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: expected seeds that differ, got {' '.join(map(str, seeds))}; leave out the repeated")
    # All are checked before the first is computed.
    of_seeds = {seed: _options(chosen, Assignment("val.seed", seed, "--seeds")) for seed in seeds}
    folder = _folder(chosen, of_seeds[seeds[0]])
    results = [evaluate.evaluate(options, None, folder / f"seed_{seed}") for seed, options in of_seeds.items()]
    text = study.over_seeds(results)
    write_atomically(folder / "summary.md", f"Seeds {seeds}: mean ± std.\n\n{text}\n".encode())
    return text
