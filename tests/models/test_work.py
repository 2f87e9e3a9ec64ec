import torch
from torch import nn

from robustflow import models
from robustflow.bijections.analytic import AnalyticElementwise
from robustflow.models import work
from robustflow.options.load import load


def test_counts_what_elementwise_maps_see(monkeypatch):
    seen = []
    original = AnalyticElementwise._apply_in_rows
    monkeypatch.setattr(
        AnalyticElementwise,
        "_apply_in_rows",
        lambda self, x, params, inverse: seen.append(x.numel()) or original(self, x, params, inverse),
    )
    options = load("confs/demo.yml")
    task = models.build(options)
    network = task.build_network(options.network_G).eval()
    generator = torch.Generator().manual_seed(0)
    gt, lr = torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 8, 8, generator=generator)
    network.encode(gt, network.condition(lr))
    assert work.mapped_elements(network, 2 * 32 * 32) == sum(seen)
    assert work.mapped_elements(nn.Linear(1, 1), 10) == 0
