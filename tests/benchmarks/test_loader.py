from benchmarks.cases import CASES
from benchmarks.setting import Setting


def test_both_modes_and_ways_are_measured(capsys):
    CASES["loader"](Setting(threads=1, repeats=1, tiny=True))
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")]
    assert rows[0] == ["data", "processes", "way", "crops/s", "of crop by crop"]
    measured = {(mode, processes, way): float(rate) for mode, processes, way, rate, _ in rows[1:]}
    assert measured.keys() == {
        (mode, processes, way)
        for mode in ("folder", "prepared")
        for processes in ("0", "2")
        for way in ("crop by crop", "in batch", "cut alone")
    }
    assert all(rate > 0 for rate in measured.values())
    assert "Training takes 250 crops/s on a GPU that does 100 TFLOP/s" in printed
