import math

import pytest

from robustflow.report import tables


def result(bits_per_dim, psnr, residual):
    best = {"psnr": [psnr, psnr + 1], "lpips": [None, None], "psnr_y": [1.0, 2.0]}
    of_heat = {"psnr": psnr, "max_residual": residual, "lpips": None, "ssim": 0.5, "best_of_n": best}
    dataset = {"n_images": 2, "bits_per_dim": bits_per_dim, "heats": {"0.9": of_heat}}
    return {"protocol": {"protocol": "robustness"}, "datasets": {"set": dataset}}


def read(text):
    titles, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_mean_and_deviation_over_seeds():
    first, other = result(1.0, 30.0, 0.5), result(3.0, 34.0, math.inf)
    other["datasets"]["set"]["heats"]["0.9"]["ssim"] = None
    (values,) = read(tables.over_seeds([first, other]))
    assert (values["data set"], values["τ"]) == ("set", "0.9")
    assert values["bits/dim"] == "2 ± 1.414"
    assert values["PSNR"] == "32 ± 2.828"
    assert values["max residual"] == "inf"
    assert values["SSIM"] == "–"


def test_best_of_n_has_a_row_for_each_n():
    rows = read(tables.best_of_n(result(1.0, 30.0, 0.5)))
    assert rows == [
        {"data set": "set", "τ": "0.9", "best of": str(n), "PSNR": psnr} for n, psnr in ((1, "30"), (2, "31"))
    ]


@pytest.mark.parametrize("title", ["bits/dim", "PSNR", "max residual"])
def test_figures_against_the_temperature(title):
    assert title in tables.table(result(1.0, 30.0, 0.5), "markdown").splitlines()[0]
