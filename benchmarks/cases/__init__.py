"""What is measured, by name."""

from collections.abc import Callable

from benchmarks.cases.busy import busy
from benchmarks.cases.dispatched import operations
from benchmarks.cases.elementwise import elementwise
from benchmarks.cases.floor import floor
from benchmarks.cases.flow import agree, sample, sample128
from benchmarks.cases.loader import loader
from benchmarks.cases.loop import loop
from benchmarks.cases.memory import large, memory, scaling
from benchmarks.cases.overhead import host
from benchmarks.cases.whole import headline, train
from benchmarks.setting import Setting

CASES: dict[str, Callable[[Setting], None]] = {
    "agree": agree,
    "sample": sample,
    "sample128": sample128,
    "train": train,
    "headline": headline,
    "memory": memory,
    "elementwise": elementwise,
    "scaling": scaling,
    "large": large,
    "floor": floor,
    "loader": loader,
    "loop": loop,
    "operations": operations,
    "busy": busy,
    "host": host,
}
DEFAULT = ("agree", "sample", "train", "memory", "elementwise", "floor", "loader")
