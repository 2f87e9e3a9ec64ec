"""Terminals whose encoding lacks characters: question marks in their place, and what was to be done is done."""

import io
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import results_folder

from robustflow import cli
from robustflow.commands import compare
from robustflow.commands.test import make_parser
from robustflow.report.results import read
from robustflow.training.logbook import Logbook
from robustflow.utils.answer import accept_all_characters

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["ascii", "cp1252"])
def printed_by(request, monkeypatch):
    """Run something with output of an encoding that lacks τ; return what it printed."""

    def run(function):
        streams = [io.TextIOWrapper(io.BytesIO(), request.param, newline="\n") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger(), "handlers", [])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            function()
            sys.stdout.write("τ ≥ – \udcff\n")
            sys.stdout.flush()
        return streams[0].buffer.getvalue().decode(request.param)

    return run


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_prints_whatever_it_has_to(command, printed_by):
    def tell():
        with pytest.raises(SystemExit) as leaving:
            cli.main([command, "--help"])
        assert leaving.value.code == 0

    assert printed_by(tell).splitlines()[-1] in ("? ? ? ?", "? ? – ?")


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_scripts_print_whatever_they_have_to(script, printed_by, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "-h"])

    def tell():
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / script), run_name="__main__")

    assert printed_by(tell).splitlines()[-1] in ("? ? ? ?", "? ? – ?")


def test_what_has_no_encoding_is_left_alone(monkeypatch):
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert make_parser().parse_args(["-opt", "x.yml"]).opt == "x.yml"


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_streams_that_are_closed_lead_nowhere():
    """What is printed, also by libraries to the streams' numbers, is in no file that is opened later."""
    code = (
        "import os, sys; from robustflow.commands.test import make_parser; make_parser(); "
        "print('text'); print('text', file=sys.stderr, flush=True); "
        "sys.exit(len({os.fstat(number).st_rdev for number in range(3)} - {os.stat(os.devnull).st_rdev}))"
    )
    command = f"'{sys.executable}' -c \"{code}\" <&- >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "codes")}
    assert subprocess.run(command, shell=True, env=environment, timeout=60).returncode == 0


def test_a_table_with_characters_that_are_not_there(printed_by, tmp_path):
    results_folder.make(tmp_path / "x")
    arguments = [str(tmp_path / "x"), "--output", str(tmp_path / "out")]
    assert "data set         ?    model" in printed_by(lambda: compare.main(arguments))
    assert "τ" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_in_a_process():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT / "codes")}
    command = [sys.executable, "-m", "robustflow", "options"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"integer ? 1" in done.stdout


def test_files_do_not_depend_on_the_terminal(tmp_path):
    folder = results_folder.make(tmp_path / "x")
    (folder / "options.yml").write_text("name: τ\n", encoding="utf-8")
    code = f"from robustflow.report.results import read; from pathlib import Path; read(Path({str(folder)!r}))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(ROOT / "codes")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert read(folder).options == "name: τ\n"


def test_the_log_file_is_in_utf_8(tmp_path, capsys, monkeypatch):
    accept_all_characters()
    # pytest keeps what is logged, and its processes send it to each other as UTF-8.
    monkeypatch.setattr(logging.getLogger("robustflow"), "propagate", False)
    book = Logbook(tmp_path, 1, 1, "nll")
    book.open()
    logging.getLogger("robustflow").info("τ ≥ 0.9 – \udcff")
    book.close()
    assert "τ ≥ 0.9 – \\udcff" in (tmp_path / "train.log").read_text(encoding="utf-8")
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_wants_no_more_is_no_failure():
    """More is printed than a pipe holds, and its first line is read."""
    words = [sys.executable, "-m", "robustflow", "options"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "# Options\n"
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0
