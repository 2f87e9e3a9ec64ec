"""Where and how much is measured, and how results are printed."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

Row = dict[str, object]


@dataclass(frozen=True)
class Setting:
    """What all cases share.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads of torch.
        repeats: Timed calls of each way.
        tiny: Tiny networks and inputs: to try the program, not to measure.
    """

    device: str = "cpu"
    threads: int = 2
    repeats: int = 5
    tiny: bool = False

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"


def _device_name(setting: Setting) -> str:
    if setting.on_cuda:
        return torch.cuda.get_device_name(setting.device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def report(setting: Setting, title: str, rows: Sequence[Row], note: str = "", what: str = "full 4x network") -> None:
    """Print rows as a Markdown table under a line that says what was measured, and where."""
    tf32 = f", TF32 convolutions {'on' if torch.backends.cudnn.allow_tf32 else 'off'}" if setting.on_cuda else ""
    where = f"{setting.device} ({_device_name(setting)}), {setting.threads} threads, torch {torch.__version__}"
    what = "tiny: no measurement" if setting.tiny else what
    print(f"\n## {title}\n\n{where}, float32 unless said{tf32}; {what}; medians of {setting.repeats}\n", flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", missingval="–"), flush=True)
    if note:
        print(f"\n{note}", flush=True)
