import pytest
import torch

from robustflow import tasks
from robustflow.options.schema import RunOptions


@pytest.fixture
def make_model():
    """Make a tiny task and flow whose weights are random, float32."""

    def make(model="FS-NCSR", *, coupling="affine", scale=4, L=2, splits=True):
        noisy = {"SRFlow": (0,)}.get(model, (0, *[1] * (L - 1)))
        flow = {"K": 1, "L": L, "S": noisy, "hidden_channels": 8, "coupling": coupling}
        flow["split"] = {"enable": splits, "correct_splits": True}
        run = RunOptions.model_validate(
            {"name": "tiny", "model": model, "scale": scale, "network_G": {"nf": 8, "nb": 1, "gc": 4, "flow": flow}}
        )
        torch.manual_seed(0)
        task = tasks.build(run)
        network = task.build_network(run.network_G).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.03 * torch.randn(parameter.shape)
        return task, network

    return make
