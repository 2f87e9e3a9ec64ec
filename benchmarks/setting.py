"""Where and how much is measured, and how results are printed."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from robustflow.utils import cpus

Row = dict[str, object]


@dataclass(frozen=True)
class Setting:
    """What all cases share.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads of torch.
        repeats: Timed calls of each way.
        tiny: Tiny networks and inputs: to try the program, not to measure.
        before: Commit whose operations are counted, or trainings timed, beside those of the code that is here.
    """

    device: str = "cpu"
    threads: int = 2
    repeats: int = 5
    tiny: bool = False
    before: str = "9e88994"

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"


def _cpu_info(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _device(setting: Setting) -> str:
    """Name of the device, and what it has for 16 bits and TF32."""
    if setting.on_cuda:
        return f"{torch.cuda.get_device_name(setting.device)}; TF32 on in plain and tf32, off in fp32 and bf16"
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return f"{name}; bf16 units: {', '.join(cpus.bf16_units() or ['none known'])}; no TF32"


def report(
    setting: Setting,
    title: str,
    rows: Sequence[Row],
    note: str = "",
    what: str = "full 4x network",
    numbers: str | None = None,
) -> None:
    """Print rows as a Markdown table under a line that says what was measured, and where.

    Args:
        setting: Where and how often.
        title: Of the table.
        rows: Of equal keys; None: nothing to show.
        note: Printed below.
        what: What was measured.
        numbers: What the numbers are; None: medians.
    """
    where = f"{setting.device} ({_device(setting)}), {setting.threads} threads, torch {torch.__version__}"
    what = "tiny: no measurement" if setting.tiny else what
    numbers = f"medians of {setting.repeats}" if numbers is None else numbers
    print(f"\n## {title}\n\n{where}, float32 unless said; {what}; {numbers}\n", flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", missingval="–"), flush=True)
    if note:
        print(f"\n{note}", flush=True)


@contextmanager
def reporting(setting: Setting, title: str, note: str, what: str = "full 4x network") -> Iterator[list[Row]]:
    """Give a list for rows, and print them in the end, or what there is of them if the program is ended before."""
    rows: list[Row] = []
    try:
        yield rows
    finally:
        if rows:
            report(setting, title, rows, note, what)
