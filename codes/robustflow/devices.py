"""The device a run uses."""

import torch

from robustflow.errors import UserError


def choose(name: str) -> torch.device:
    """Device for the option ``device``: auto, cpu, cuda or cuda:N. UserError if CUDA is asked for and absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device: expected one of the {count} CUDA devices here, got {name}; use cpu or auto")
    return device
