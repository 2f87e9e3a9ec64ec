"""Where a run's numbers go: progress bar, log file, TensorBoard."""

import contextlib
import datetime
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("robustflow")


class Logbook:
    """Progress bar with it/s, ETA and the loss; a line per ``print_freq`` iterations; TensorBoard scalars and images.

    What the package logs while it is open also goes to train.log.

    Args:
        experiment: Folder for train.log and the TensorBoard files; made if need be.
        total: Iterations in all.
        print_freq: Iterations between log lines.
        loss_name: Name of the loss.
    """

    def __init__(self, experiment: Path, total: int, print_freq: int, loss_name: str) -> None:
        self.experiment, self.total, self.print_freq, self.loss_name = experiment, total, print_freq, loss_name
        experiment.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(experiment / "train.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)
        self._open = contextlib.ExitStack()
        self._open.enter_context(logging_redirect_tqdm())
        self._recent: list[float] = []

    def begin(self, first: int) -> None:
        """Start the progress bar and TensorBoard after ``first`` iterations done before."""
        self._writer = SummaryWriter(str(self.experiment / "tensorboard"), purge_step=first + 1)
        self._bar = tqdm(total=self.total, initial=first, desc="train", unit="it", dynamic_ncols=True, disable=None)
        self._open.callback(self._writer.close)
        self._open.callback(self._bar.close)
        self._first, self._began = first, time.perf_counter()

    def iteration(self, iteration: int, loss: float, rate: float, grad_norm: float) -> None:
        """Note one training iteration."""
        self._recent = [*self._recent[-(self.print_freq - 1) :], loss] if self.print_freq > 1 else [loss]
        self._bar.set_postfix({self.loss_name: f"{loss:.3f}"}, refresh=False)
        self._bar.update()
        self._writer.add_scalar(f"train/{self.loss_name}", loss, iteration)
        self._writer.add_scalar("train/lr", rate, iteration)
        self._writer.add_scalar("train/grad_norm", grad_norm, iteration)
        if iteration % self.print_freq == 0 or iteration == self.total:
            mean = sum(self._recent) / len(self._recent)
            speed = (iteration - self._first) / (time.perf_counter() - self._began)
            left = datetime.timedelta(seconds=round((self.total - iteration) / speed))
            text = "iteration %d/%d: %s %.4f, lr %.2e, |grad| %.3g, %.3g it/s, %s left"
            log.info(text, iteration, self.total, self.loss_name, mean, rate, grad_norm, speed, left)

    def validation(self, iteration: int, scalars: Mapping[str, float | None], images: Mapping[str, Tensor]) -> None:
        """Note one validation: scalars by name, and image strips (3, H, W), clamped to [0, 1]."""
        known = {name: value for name, value in scalars.items() if value is not None}
        for name, value in known.items():
            self._writer.add_scalar(f"val/{name}", value, iteration)
        for name, image in images.items():
            self._writer.add_image(f"val/{name}", image.nan_to_num(nan=1, posinf=1, neginf=0).clamp(0, 1), iteration)
        log.info("iteration %d: val %s", iteration, ", ".join(f"{name} {value:.4g}" for name, value in known.items()))

    def close(self) -> None:
        """Flush and close everything."""
        self._open.close()
        log.removeHandler(self._handler)
        self._handler.close()
