"""The device a run uses."""

import torch

from robustflow.utils import distributed
from robustflow.utils.errors import UserError


def choose(name: str) -> torch.device:
    """Device for the option ``device``: auto, cpu, cuda or cuda:N; of several processes each has a GPU of its own.

    UserError if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    # torch itself takes numbers modulo 256.
    if kind == "cuda" and int(number or 0) >= count:
        known = f"cuda:0 to cuda:{count - 1}, which are here" if count > 0 else "cpu or auto: no CUDA device is here"
        raise UserError(f"device: expected {known}; got {name}")
    if kind == "cuda" and distributed.size() > 1:
        return _own_gpu(name, count)
    return torch.device(kind, int(number)) if number else torch.device(kind)


def _own_gpu(name: str, count: int) -> torch.device:
    rank = distributed.rank("LOCAL_RANK")
    if name != "cuda":
        raise UserError(f"device: expected auto, cuda or cpu for several processes, got {name}: each takes its own GPU")
    if rank >= count:
        raise UserError(
            f"device: expected a GPU for each process, got {count} GPUs here; lower torchrun's --nproc_per_node to "
            f"{count}, or set device: cpu"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)
