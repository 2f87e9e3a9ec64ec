import math

from robustflow.report import study, tables


def result(bits_per_dim, psnr, residual):
    protocol = {"protocol": "robustness"}
    keys = {*tables.columns_of({"protocol": protocol}), *study.FURTHER} - {"bits_per_dim"}
    of_heat = {**dict.fromkeys(keys, 0.0), "psnr": psnr, "max_residual": residual, "lpips": None}
    dataset = {"n_images": 2, "bits_per_dim": bits_per_dim, "heats": {"0.9": of_heat}}
    return {"protocol": protocol, "datasets": {"set": dataset}}


def test_mean_and_deviation_over_seeds():
    text = study.over_seeds([result(1.0, 30.0, 0.5), result(3.0, 34.0, math.inf)])
    titles, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    values = dict(zip(titles, row, strict=True))
    assert (values["data set"], values["τ"]) == ("set", "0.9")
    assert values["bits/dim"] == "2 ± 1.414"
    assert values["PSNR"] == "32 ± 2.828"
    assert values["max residual"] == "inf"
    assert values["LPIPS"] == "–"
