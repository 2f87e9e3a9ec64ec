"""The device a run uses."""

import torch

from robustflow.utils.errors import UserError


def choose(name: str) -> torch.device:
    """Device for the option ``device``: auto, cpu, cuda or cuda:N. UserError if CUDA is asked for and absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    # torch itself takes numbers modulo 256.
    if kind == "cuda" and int(number or 0) >= count:
        known = f"cuda:0 to cuda:{count - 1}, which are here" if count > 0 else "cpu or auto: no CUDA device is here"
        raise UserError(f"device: expected {known}; got {name}")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def choose_one_each(name: str, local_rank: int) -> torch.device:
    """Device of one of several processes, number ``local_rank`` on this machine: the CPU, or a GPU of its own."""
    device = choose(name)
    if device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device: expected auto, cuda or cpu for several processes, got {name}: each takes its own GPU")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"device: expected a GPU for each process, got {count} GPUs here; lower torchrun's --nproc_per_node to "
            f"{count}, or set device: cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
