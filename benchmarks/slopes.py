"""Affine, spline and soft affine maps, and their slopes: python -m benchmarks.slopes docs/soft_affine.png."""

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from robustflow.bijections.base import Elementwise
from robustflow.bijections.elementwise import Affine, RationalQuadratic, SoftAffine
from robustflow.report.plots import save_png


def draw_slopes(path: Path) -> None:
    """Draw what maps whose slope at zero is about 0.3 do with x, and their slopes."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)[None]
    logit = math.log(0.3 / 0.7) - 2
    maps: dict[str, tuple[Elementwise, list[float]]] = {
        "affine, s = 0.3": (Affine(), [0.0, logit]),
        "spline in ±0.5": (RationalQuadratic(), [0.0, 0.0, -1.0, 0.0]),
        "spline in ±3": (RationalQuadratic(bounds=(-3.0, 3.0)), [0.0, 0.0, -1.0, 0.0]),
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
    left.legend(fontsize="small", loc="upper left")
    save_png(figure, path)


if __name__ == "__main__":
    draw_slopes(Path(sys.argv[1]))
