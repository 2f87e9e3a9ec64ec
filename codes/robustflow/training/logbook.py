"""Where a run's numbers go: progress bar, log file, TensorBoard."""

import contextlib
import datetime
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robustflow.models.protocol import DENSITY
from robustflow.utils import distributed
from robustflow.utils.files import explain_faults

log = logging.getLogger("robustflow")


class _LogFile(logging.FileHandler):
    """A log file that says so when it cannot be written, in place of a traceback per line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass on what the system says."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            with explain_faults(Path(self.baseFilename)):
                raise error
        super().handleError(record)


@contextlib.contextmanager
def _write_errors_unprinted() -> Iterator[None]:
    """Keep TensorBoard's thread from printing what the next call of its writer raises."""
    previous = threading.excepthook

    def report(given: threading.ExceptHookArgs) -> None:
        if not issubclass(given.exc_type, OSError):
            previous(given)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


class Logbook:
    """Progress bar with it/s, ETA and the loss; a line per ``print_freq`` iterations; TensorBoard scalars and images.

    What the package logs while it is open also goes to train.log. Of several processes the main one alone writes.

    Args:
        experiment: Folder for train.log and the TensorBoard files; made if need be.
        total: Iterations in all.
        print_freq: Iterations between log lines.
        loss_name: Name of the loss.

    Attributes:
        seconds: That the last iterations took, from one note to the next.
    """

    def __init__(self, experiment: Path, total: int, print_freq: int, loss_name: str) -> None:
        self.experiment, self.total, self.print_freq, self.loss_name = experiment, total, print_freq, loss_name
        self.seconds: deque[float] = deque(maxlen=1000)
        self._open = contextlib.ExitStack()
        self._writer: SummaryWriter | None = None
        self._recent: deque[float] = deque(maxlen=print_freq)

    def open(self) -> None:
        """Open train.log."""
        if not distributed.is_main():
            return
        with explain_faults(self.experiment / "train.log"):
            self.experiment.mkdir(parents=True, exist_ok=True)
            handler = _LogFile(self.experiment / "train.log", encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)
        self._open.callback(_close_quietly, handler)
        self._open.callback(log.removeHandler, handler)
        self._open.enter_context(logging_redirect_tqdm())

    def begin(self, first: int) -> None:
        """Start the progress bar and TensorBoard after ``first`` iterations done before."""
        quiet = None if distributed.is_main() else True
        self._bar = tqdm(total=self.total, initial=first, desc="train", unit="it", dynamic_ncols=True, disable=quiet)
        self._first, self._began = first, time.perf_counter()
        self._noted = self._began
        if distributed.is_main():
            with explain_faults(self.experiment / "tensorboard"):
                self._writer = SummaryWriter(str(self.experiment / "tensorboard"), purge_step=first + 1)
            self._open.enter_context(_write_errors_unprinted())
            self._open.callback(_close_quietly, self._writer)
        self._open.callback(self._bar.close)
        if self.loss_name == "bits_per_dim":
            log.info("%s: %s", self.loss_name, DENSITY)

    def iteration(self, iteration: int, loss: float, rate: float, grad_norm: float) -> None:
        """Note one training iteration; the line's mean is over losses that are finite."""
        now = time.perf_counter()
        self.seconds.append(now - self._noted)
        self._noted = now
        self._recent.append(loss)
        self._bar.set_postfix({self.loss_name: f"{loss:.3f}"}, refresh=False)
        self._bar.update()
        self._write({f"train/{self.loss_name}": loss, "train/lr": rate, "train/grad_norm": grad_norm}, iteration)
        if iteration % self.print_freq == 0 or iteration == self.total:
            finite = [value for value in self._recent if math.isfinite(value)]
            mean = sum(finite) / len(finite) if finite else math.nan
            speed = (iteration - self._first) / (now - self._began)
            left = datetime.timedelta(seconds=round((self.total - iteration) / speed))
            text = "iteration %d/%d: %s %.4f, lr %.2e, |grad| %.3g, %.3g it/s, %s left"
            log.info(text, iteration, self.total, self.loss_name, mean, rate, grad_norm, speed, left)

    def event(self, iteration: int, count: int) -> None:
        """Note that something was not finite, for the ``count``-th time in this run."""
        self._write({"train/non_finite": count}, iteration)

    def _write(self, scalars: Mapping[str, float], iteration: int, images: Mapping[str, Tensor] | None = None) -> None:
        if self._writer is None:
            return
        with explain_faults(self.experiment / "tensorboard"):
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)
            for name, image in (images or {}).items():
                self._writer.add_image(name, image.nan_to_num(nan=1, posinf=1, neginf=0).clamp(0, 1), iteration)

    def validation(self, iteration: int, scalars: Mapping[str, float | None], images: Mapping[str, Tensor]) -> None:
        """Note one validation: scalars by name, and image strips (3, H, W), clamped to [0, 1]."""
        known = {name: value for name, value in scalars.items() if value is not None}
        of_val = {f"val/{name}": value for name, value in known.items()}
        self._write(of_val, iteration, {f"val/{name}": image for name, image in images.items()})
        log.info("iteration %d: val %s", iteration, ", ".join(f"{name} {value:.4g}" for name, value in known.items()))

    def close(self) -> None:
        """Flush and close everything; what cannot be written any more is left out."""
        self._open.close()


def _close_quietly(file: SummaryWriter | logging.Handler) -> None:
    with contextlib.suppress(OSError):
        file.close()
