"""How many operations torch is asked for in a training step: what the host pays for on a GPU."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import revisions
from benchmarks.networks import COUPLINGS, ROOT
from benchmarks.setting import Row, Setting, report

TOP = 10
SIDE, TINY_SIDE = 40, 8
NOTE = (
    "Exact counts, on the CPU, of what torch dispatches below autograd for one crop. Views (detach "
    "included) and allocations are apart. What is handed to torch.compile counts as one operation, before and now: "
    "with a compiler it is one kernel. MB: of the tensors that all operations but convolutions read and write."
)
Counts = dict[str, Any]


def operations(setting: Setting) -> None:
    """Operations dispatched in a training step, forward and backward, and those of an earlier commit."""
    with TemporaryDirectory() as folder:
        missing = revisions.extract(setting.before, Path(folder))
        before = None if missing else Path(folder)
        counts: dict[str, dict[str, Counts | None]] = {
            coupling: {
                setting.before: None if before is None else _count(setting, coupling, before),
                "now": _count(setting, coupling, ROOT),
            }
            for coupling in COUPLINGS
        }
    rows = [row for coupling, of_coupling in counts.items() for row in _rows(coupling, of_coupling)]
    report(setting, "operations: training step, one 160×160 crop", rows, f"{NOTE}{missing}", numbers="counts")
    top = [row for coupling, of_coupling in counts.items() for row in _top(coupling, of_coupling)]
    report(setting, f"operations: the {TOP} most frequent now", top, numbers="counts")


def _count(setting: Setting, coupling: str, root: Path) -> Counts:
    """Count in a process of its own, with the package of ``root``."""
    side = str(TINY_SIDE if setting.tiny else SIDE)
    counts: Counts = json.loads(revisions.run("operations_child.py", root, coupling, setting, (), side))
    return counts


def _rows(coupling: str, counts: dict[str, Counts | None]) -> list[Row]:
    columns = ("forward", "backward", "total", "views", "allocations")
    before = next(iter(counts.values()))
    return [
        {
            "coupling": coupling,
            "code": code,
            **{column: found and found[column] for column in columns},
            "of before": found and before and found["total"] / before["total"],
            "MB": found and sum(_megabytes(found, name) for name in found["moved"] if "convolution" not in name),
        }
        for code, found in counts.items()
    ]


def _top(coupling: str, counts: dict[str, Counts | None]) -> list[Row]:
    before, now = counts.values()
    assert now is not None, "today's code is always there"
    names = sorted(now["operations"], key=lambda name: (-now["operations"][name], name))[:TOP]
    return [
        {
            "coupling": coupling,
            "operation": name,
            **dict(zip(counts, (before and before["operations"].get(name, 0), now["operations"][name]), strict=True)),
            "MB now": _megabytes(now, name),
        }
        for name in names
    ]


def _megabytes(found: Counts, name: str) -> int:
    return round(found["moved"][name] / 1e6)
