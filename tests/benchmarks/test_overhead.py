from pathlib import Path

from benchmarks.cases import overhead
from benchmarks.networks import ROOT
from benchmarks.setting import Setting

TINY = Setting(threads=1, repeats=3, tiny=True, before="abc")


def test_an_iteration_is_measured():
    assert 0 < overhead._measure(TINY, "affine", ROOT) < 60


def test_table_has_medians_and_ratios(monkeypatch, capsys):
    seconds = {ROOT: [0.01, 0.03, 0.02] * 2, None: [0.04, 0.05, 0.9] * 2}
    monkeypatch.setattr(
        overhead, "_measure", lambda setting, coupling, root: seconds[root if root == ROOT else None].pop(0)
    )

    def extract(revision, folder):
        file = Path(folder, "codes/robustflow/training/gradients.py")
        file.parent.mkdir(parents=True)
        file.touch()
        return ""

    monkeypatch.setattr(overhead.revisions, "extract", extract)
    overhead.host(TINY)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    expected = [[coupling, *row] for coupling in ("affine", "rq") for row in (["abc", "50", "1"], ["now", "20", "0.4"])]
    assert rows[2:] == expected


def test_a_commit_without_captured_steps_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "_measure", lambda *_: 0.01)
    monkeypatch.setattr(overhead.revisions, "extract", lambda revision, folder: "")
    overhead.host(TINY)
    printed = capsys.readouterr().out
    assert "abc: not measured" in printed
    assert "| now    |   10 | –" in printed
