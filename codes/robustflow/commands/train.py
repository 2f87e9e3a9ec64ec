"""Train a model.

examples, where python train.py does the same as robustflow train:
  robustflow train -opt confs/demo.yml
  robustflow train -opt confs/demo.yml --override "train.niter=200|network_G.flow.coupling=rq_spline"
  robustflow train -opt confs/demo.yml --resume auto
  robustflow train -opt confs/demo.yml --check
  torchrun --standalone --nproc_per_node 4 train.py -opt confs/demo.yml

All keys: robustflow options
"""

from collections.abc import Sequence

from robustflow.commands.arguments import Parser, add_options, read_options_of_any
from robustflow.options.toy import ToyOptions
from robustflow.utils import cpus
from robustflow.utils.answer import answer, exit_on_mistake, require_one_process
from robustflow.utils.errors import UserError


def main(arguments: Sequence[str] | None = None, prog: str = "robustflow train") -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake, 130 interrupted and saved."""
    cpus.shorten_waits()
    with exit_on_mistake():
        chosen = make_parser(prog).parse_args(arguments)
        options = read_options_of_any(chosen)
        if isinstance(options, ToyOptions):
            require_one_process()
            if chosen.check:
                raise UserError(f"--check: expected a model of images, got {options.name}: it takes minutes, run it")
    # Imported after the options are read: a mistake in them is answered before the libraries are loaded.
    if isinstance(options, ToyOptions):
        return run_toy(options)
    cpus.settle(cpus.threads_for(options.layer_elements(testing=False)))
    from robustflow.training import engine

    return engine.run(options, check=chosen.check)


def run_toy(options: ToyOptions) -> int:
    """Train, sample, measure and draw the toy; return the exit status."""
    cpus.settle(1)
    from robustflow.toy.engine import experiment

    return answer(
        lambda: print(experiment(options), end=""),  # noqa: T201
        memory=lambda: "Lower train.batch_size, val.n_held_out, val.n_conditions, val.n_sample or n_workers.",
        interrupted="interrupted; nothing was written",
    )


def make_parser(prog: str = "robustflow train") -> Parser:
    """The command line."""
    parser = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_options(parser, weights=False)
    parser.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="continue a run: auto takes its newest checkpoint, FILE is a .state file or the folder of an experiment "
        "(sets path.resume_state)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="try everything before the run: data, a few steps, save, resume, validation; estimate time, memory and "
        "disk; nothing is left behind",
    )
    return parser
