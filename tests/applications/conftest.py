import pytest
from random_networks import built

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
        return built(run, 0.03)

    return make
