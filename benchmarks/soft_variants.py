"""A soft affine map whose B is learned, as a plugin (``plugins: [benchmarks.soft_variants]``), and the maps' slopes.

python -m benchmarks.soft_variants docs/soft_affine.png    draws c and c' of affine, spline and soft affine maps
"""

import math
import sys
from pathlib import Path
from typing import Literal

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from robustflow.bijections.base import Elementwise, InverseBound
from robustflow.bijections.elementwise import Affine, RationalQuadratic, SoftAffine
from robustflow.bijections.elementwise.soft_affine import scale_softly, unscale_softly
from robustflow.registry import ELEMENTWISE, Options
from robustflow.report.plots import save_png


class LearnedSoftAffineOptions(Options):
    """Options of the soft affine map whose B is learned."""

    type: Literal["learned_soft_affine"] = "learned_soft_affine"
    B: float = Field(1.0, gt=0, description="Where scaling ends, before training; in units of x.")
    limit: float = Field(30.0, gt=0, description="What B stays below.")
    eps: float = Field(1e-4, gt=0, lt=1, description="Smallest slope, reached at zero.")


@ELEMENTWISE.register("learned_soft_affine", LearnedSoftAffineOptions)
class LearnedSoftAffine(Elementwise):
    """The soft affine map with a B of its own in each layer, learned: limit·σ(b), so that the bound stays additive."""

    num_params = 2

    def __init__(self, B: float = 1.0, limit: float = 30.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.limit, self.eps = limit, eps
        self.raw = nn.Parameter(torch.tensor(math.log(B / (limit - B))))

    @property
    def B(self) -> Tensor:
        """Where scaling ends at present."""
        return self.limit * torch.sigmoid(self.raw)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|."""
        return scale_softly(x + params[:, 0], torch.sigmoid(params[:, 1] + 2) + self.eps, self.B)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""
        u, log_slope = unscale_softly(y, torch.sigmoid(params[:, 1] + 2) + self.eps, self.B)
        return u - params[:, 0], log_slope

    def inverse_bound(self) -> InverseBound:
        """As that of `SoftAffine`."""
        return InverseBound(1.0, 2 * float(self.B.detach()) * (1 - self.eps))


def draw_slopes(path: Path) -> None:
    """Draw what maps whose slope at zero is about 0.3 do with x, and their slopes."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)[None]
    logit = math.log(0.3 / 0.7) - 2
    maps: dict[str, tuple[Elementwise, list[float]]] = {
        "affine, s = 0.3": (Affine(), [0.0, logit]),
        "modified RQ-spline": (RationalQuadratic(), [0.0, 0.0, -1.0, 0.0]),
        "soft affine, B = 10": (SoftAffine(B=10.0), [0.0, logit]),
        "soft affine, B = 3": (SoftAffine(B=3.0), [0.0, logit]),
        "soft affine, B = 1": (SoftAffine(B=1.0), [0.0, logit]),
    }
    for label, (elementwise, values) in maps.items():
        params = torch.tensor(values, dtype=x.dtype)[None, :, None].expand(1, -1, x.shape[1])
        with torch.no_grad():
            y, log_slope = elementwise(x, params.contiguous())
        left.plot(x[0], y[0], label=label)
        right.plot(x[0], log_slope[0].exp(), label=label)
    left.set(xlabel="x", ylabel="c(x)")
    right.set(xlabel="x", ylabel="slope c'(x)", ylim=(0, 1.6))
    right.legend(fontsize="small")
    save_png(figure, path)


if __name__ == "__main__":
    draw_slopes(Path(sys.argv[1]))
