"""Trained models, loaded to be used."""

import logging
from pathlib import Path

import torch

from robustflow import models
from robustflow.models import weights
from robustflow.models.base import Model
from robustflow.models.rrdb import RRDB, Residual
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.utils import devices, precision
from robustflow.utils.files import expand

log = logging.getLogger(__name__)


def load(source: str | Path, weights_file: str | Path | None = None, device: str | torch.device = "auto") -> Model:
    """Load a trained model, in eval mode.

    Args:
        source: Weights that say what they are of (a file that `Model.save` or a training wrote, or an experiment
            folder: its newest, averaged ones if there are any), or the option file of ``weights_file``, published
            or ours.
        weights_file: Weights of that option file, published (``.pth``) or ours.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: Nothing is there, or it does not fit.
    """
    if weights_file is None:
        file = weights.locate(expand(source))
        options = weights.read_options(file)
    else:
        file = weights.locate(expand(weights_file))
        options = options_load.load(source)
    return load_model(options, file, devices.choose(str(device)))


def load_model(options: RunOptions, file: Path | None = None, device: torch.device | None = None) -> Model:
    """Load the model that options describe, in eval mode; its ``options`` are completed from the weights.

    From here on this process computes with the precision that the options mean for evaluation.

    Args:
        options: Of the run.
        file: Its weights; None: those that `weights.locate_for_test` finds, if it has any.
        device: Another device than the options name.
    """
    file = weights.locate_for_test(options) if file is None else file
    if file is not None:
        options = weights.fit_options(options, file)
    device = device or devices.choose(options.device)
    precision.use(options.precision, training=False)
    precision.warn_if_slow(options.precision, device)
    model = models.build(options)
    model.options = options
    if file is not None:
        weights.load(file, model, options, encoder_suffices=False)
        model.file = file
        if isinstance(model, RRDB):
            _warn_of_residual(model, file)
    return model.to(device).eval()


def _warn_of_residual(model: RRDB, file: Path) -> None:
    """Warn of weights that clearly were trained with the other residual: their names do not say with which."""
    own: Residual = model.residual or "last_block"
    other: Residual = "last_block" if own == "first_conv" else "first_conv"
    found, better = model.lr_psnr(own), model.lr_psnr(other)
    if better > max(30, found + 10):
        log.warning(
            "%s: of a smooth image it makes one that is %.1f dB from its input when downsampled, with model: "
            "{type: RRDB, residual: %s} %.1f dB: that is what it was trained with",
            *(file, found, other, better),
        )
