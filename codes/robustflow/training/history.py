"""Which options a run has had: told, and kept, when it is resumed with others."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint
from robustflow.utils import files
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_KEPT = "options_until_"


def changes(state: Path, iteration: int, options: RunOptions) -> list[str]:
    """What differs from the options that a state was reached with, last and before, in lines; none if nothing does."""
    experiment = state.parent.parent
    now = weights.changes(weights.options_text(checkpoint.weights_file(experiment, iteration)), options)
    lines = ["options differ from those of the run so far:", *now] if now else []
    for until, file in _kept(experiment):
        then = _changes(file, options) if until < iteration else []
        lines += [f"options were others until iteration {until} ({file}):", *then] if then else []
    return lines


def replace_options(experiment: Path, iteration: int, options: RunOptions) -> None:
    """Write options.yml; if the run had others until this iteration, keep their file."""
    file = experiment / "options.yml"
    if file.is_file() and _changes(file, options):
        kept = files.unused(experiment / f"{_KEPT}{iteration:08d}", ".yml")
        with files.answering(kept):
            file.rename(kept)
        log.info("the options until now are kept in %s", kept)
    options_load.save(options, file)


def _kept(experiment: Path) -> Iterator[tuple[int, Path]]:
    for file in sorted(experiment.glob(f"{_KEPT}*.yml")):
        match = re.match(rf"{_KEPT}(\d+)_", file.name)
        if match is not None:
            yield int(match[1]), file


def _changes(file: Path, options: RunOptions) -> list[str]:
    try:
        return weights.changes(file.read_text(encoding="utf-8"), options)
    except (UserError, UnicodeDecodeError):
        return ["not readable any more"]
