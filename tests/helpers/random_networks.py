"""Networks that are at no special point: no layer is left at its initial identity."""

import torch

from robustflow import models


def built(run, std):
    """Model of options, in eval mode, all parameters moved by Gaussian noise; the same at each call."""
    torch.manual_seed(0)
    model = models.build(run).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape)
    return model
