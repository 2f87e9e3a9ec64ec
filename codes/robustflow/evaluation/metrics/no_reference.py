"""NIQE, BRISQUE and PIQE of samples alone, by pyiqa, which whoever wants them installs. A plug-in, off by itself::

    plugins: [robustflow.evaluation.metrics.no_reference]

All three are functions of MATLAB's toolbox: hence the variants that follow MATLAB, where pyiqa has several. It would
download parameters at first use; here nothing is ever downloaded: without its parameters a metric is not computed.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import math
import os
from pathlib import Path
from typing import Any

import torch

from robustflow.evaluation.metrics.base import Places, Sample, SampleMetric, Target
from robustflow.registry import METRICS

PACKAGE = "pyiqa"
PARAMETERS_LICENCE = "CC BY-NC-SA 4.0"


class NoReference(SampleMetric):
    """A metric of an 8-bit sample alone; lower is better.

    Attributes:
        variant: Its name in pyiqa.
        parameters: File of its parameters in the folder pyiqa of torch's hub cache; "" if it has none.
        block, n_blocks: Sides in pixels of the blocks that are measured, and how many an image has to have.
    """

    better = "low"
    places: Places = ("fidelity", "curves", "differences")
    variant: str
    parameters: str = ""
    block: int = 16
    n_blocks: int = 1

    def describe(self) -> dict[str, Any]:
        """Library, version and licence; or why it is not computed."""
        missing = _find_missing(self.parameters)
        if missing:
            return {self.name: f"not computed: {missing}"}
        about = importlib.metadata.metadata(PACKAGE)
        licence = next((about[key] for key in ("License-Expression", "License") if key in about), "licence not told")
        text = f"{PACKAGE} {about['Version']} ({licence}), {self.variant}, uint8, whole image"
        if self.parameters:
            digest = hashlib.sha256(_find_parameters(self.parameters).read_bytes()).hexdigest()
            text += f"; parameters {self.parameters} ({PARAMETERS_LICENCE}), sha256 {digest}"
        return {self.name: text}

    def of_sample(self, sample: Sample, target: Target) -> float | None:
        """The value; None without library or parameters, and for images that are too small, or have no texture."""
        height, width = sample.image.shape[-2:]
        if _find_missing(self.parameters) or (height // self.block) * (width // self.block) < self.n_blocks:
            return None
        device = target.upsampled.device
        try:
            value = float(_load(self.variant, device)(sample.image[None].to(device).float() / 255))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return None
        return value if math.isfinite(value) else None


@METRICS.register("niqe")
class NIQE(NoReference):
    """Natural image quality evaluator (Mittal, Soundararajan, Bovik, SPL 2013)."""

    label, variant, parameters, block, n_blocks = "NIQE", "niqe_matlab", "niqe_matlab_params.mat", 96, 2


@METRICS.register("brisque")
class BRISQUE(NoReference):
    """Blind/referenceless image spatial quality evaluator (Mittal, Moorthy, Bovik, TIP 2012)."""

    label, variant, parameters = "BRISQUE", "brisque_matlab", "brisque_matlab.mat"


@METRICS.register("piqe")
class PIQE(NoReference):
    """Perception-based image quality evaluator (Venkatanath et al., NCC 2015)."""

    label, variant = "PIQE", "piqe"


def _find_parameters(name: str) -> Path:
    """Where pyiqa keeps them."""
    return Path(torch.hub.get_dir()) / PACKAGE / name


def _find_missing(parameters: str) -> str:
    """What is to be done before a metric can be computed; "" for nothing."""
    reason = _find_fault()
    if reason:
        return f"{PACKAGE} {reason}, run: pip install 'robustflow[iqa]'"
    if parameters and not os.access(_find_parameters(parameters), os.R_OK):
        return "its parameters are missing, run 'robustflow fetch iqa'"
    return ""


@functools.cache
def _find_fault() -> str:
    """Why the library cannot be used; "" if it can. It takes seconds to load."""
    try:
        importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        return "is not installed" if error.name == PACKAGE else f"lacks {error.name}"
    except ImportError as error:
        return f"cannot be imported ({error})"
    return ""


@functools.cache
def _load(variant: str, device: torch.device) -> Any:
    """A network of the library, once its parameters are there: then it downloads nothing."""
    return importlib.import_module(PACKAGE).create_metric(variant, device=device)
