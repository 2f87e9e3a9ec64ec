"""What several processes exchange goes over NCCL between GPUs: here in a group of one, for which one GPU is enough."""

import os
import subprocess
import sys

from several import ROOT, free_port

CHILD = """
import sys, torch
from robustflow.utils import distributed
device = torch.device(sys.argv[1])
distributed.size = lambda: 2
with distributed.joined():
    distributed.size = lambda: 1
    tensors = [torch.full((2, 3), 2.0, device=device), torch.tensor(3.0, device=device)]
    distributed.average(tensors)
    network = torch.nn.Conv2d(3, 4, 3).to(device)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    distributed.share(network)
    assert all(map(torch.equal, before, network.parameters()))
    print([tensor.tolist() for tensor in tensors], distributed.gather(distributed.rank()))
    print(torch.distributed.get_backend_config())
"""


def test_averages_and_states(device):
    numbers = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "test",
    }
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT / "codes")}
    child = [sys.executable, "-c", CHILD, device.type]
    done = subprocess.run(
        child, env={**os.environ, **numbers, **place}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    exchanged, backends = done.stdout.splitlines()[-2:]
    assert exchanged == "[[[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], 3.0] [0]"
    assert ("cuda:nccl" in backends) == (device.type == "cuda")
