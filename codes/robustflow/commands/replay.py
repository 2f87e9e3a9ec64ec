"""Run a training step that was not finite again: robustflow replay experiments/NAME/non_finite/ITERATION.safetensors.

Prints loss, gradient norm and the first module or gradient that is not finite, as recorded and as found now.
"""

from collections.abc import Sequence
from pathlib import Path

from robustflow.commands.arguments import Parser, path
from robustflow.training.failures import dump, replay
from robustflow.utils.answer import DONE, FAILED, answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 reproduced, 1 not, 2 mistake (message on stderr)."""
    parser = Parser(prog="robustflow replay", description=__doc__)
    parser.add_argument("dump", metavar="DUMP", type=path, help="file of experiments/<name>/non_finite")
    chosen = parser.parse_args(arguments)
    return answer(lambda: _replay(chosen.dump))


def _replay(file: Path) -> int:
    recorded = dump.read(file)
    found = replay.replay(recorded)
    print(f"iteration {recorded.step.iteration}\n{replay.report(recorded, found)}")  # noqa: T201
    return FAILED if found.finite else DONE
