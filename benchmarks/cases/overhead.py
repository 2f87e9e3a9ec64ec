"""What the host does in an iteration of train.py besides forward and backward pass."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import revisions
from benchmarks.networks import COUPLINGS, ROOT
from benchmarks.setting import Row, Setting, report

NEVER = 1_000_000
# Numbers of layers and parameters of the full network; with few channels, a CPU computes little more than it launches.
NARROW = ("network_G.nf=8", "network_G.gc=4", "network_G.flow.hidden_channels=8")
CROPS = "{mode: bundled, split: train, GT_size: 32, batch_size: 1, use_flip: true, use_rot: true}"
NOTE = (
    "ms: per iteration, for data, noise, loss of the weights, clipping, Adam, moving average and log. On a GPU that "
    "runs while the step before is computed, if nothing waits for the device. In processes of their own, in turns."
)


def host(setting: Setting) -> None:
    """Time of the host per training iteration, forward and backward left out, and that of --before."""
    with TemporaryDirectory() as folder:
        missing = revisions.extract(setting.before, Path(folder))
        if not missing and not Path(folder, "codes/robustflow/training/gradients.py").is_file():
            missing = f"\n{setting.before}: not measured, its steps are not captured"
        codes = {"now": ROOT} if missing else {setting.before: Path(folder), "now": ROOT}
        rows = [row for coupling in COUPLINGS for row in _rows(setting, coupling, codes)]
    title = "host: training iteration without forward and backward"
    report(setting, title, rows, f"{NOTE}{missing}", "full 4x network, narrow")


def _rows(setting: Setting, coupling: str, codes: Mapping[str, Path]) -> list[Row]:
    measured: dict[str, list[float]] = {code: [] for code in codes}
    for _ in range(setting.repeats):
        for code, root in codes.items():
            measured[code].append(_measure(setting, coupling, root))
    medians = {code: statistics.median(seconds) for code, seconds in measured.items()}
    first = next(iter(medians.values()))
    return [
        {
            "coupling": coupling,
            "code": code,
            "ms": 1e3 * seconds,
            "of before": seconds / first if len(codes) > 1 else None,
        }
        for code, seconds in medians.items()
    ]


def _measure(setting: Setting, coupling: str, root: Path) -> float:
    """Seconds per iteration in a process of its own, with the package of ``root``."""
    with TemporaryDirectory() as folder:
        changes = (
            *(*NARROW, "name=host", f"path.experiments={folder}", f"device={setting.device}"),
            *(f"datasets.train={CROPS}", "datasets.val=null", "train.ood_patches=0"),
            *(
                f"train.niter={20 if setting.tiny else 60}",
                "train.lr_G=1e-9",
                "train.ema=0.999",
                "train.max_grad_norm=10",
            ),
            *(f"logger.print_freq={NEVER}", f"logger.save_checkpoint_freq={NEVER}"),
        )
        return float(revisions.run("host_child.py", root, coupling, setting, changes))
