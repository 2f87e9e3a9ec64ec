"""Networks that are at no special point: no layer is left at its initial identity."""

import torch

from robustflow import models


def built(run, std):
    """Task and network of options, in eval mode, all parameters moved by Gaussian noise; the same at each call."""
    torch.manual_seed(0)
    task = models.build(run)
    network = task.build_network(run.network_G).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += std * torch.randn(parameter.shape)
    return task, network
