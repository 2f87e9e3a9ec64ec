"""The command `robustflow`, and the names that its commands had."""

import argparse
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from robustflow import cli

ROOT = Path(__file__).parents[1]


def test_it_lists_its_commands_and_answers_others(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    modules = {file.stem for file in (ROOT / "codes" / "robustflow" / "commands").glob("*.py")}
    assert modules - {"__init__", "arguments", "evaluate", "miniature"} == set(cli.COMMANDS)
    assert all(f"\n  {name} " in told for name in cli.COMMANDS)
    for words, message in ((["trian"], "invalid choice: 'trian'"), ([], "required: COMMAND")):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_its_name_and_explains_its_flags(command, monkeypatch):
    asked = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda parser: asked.append(parser))
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    for parser, name in walk(*asked, f"robustflow {command}"):
        assert parser.prog == name and parser.description
        for action in parser._actions:
            kinds = isinstance(action, argparse._SubParsersAction)
            assert kinds or action.help, f"{name}: {action.dest}"
            if action.option_strings and action.default not in (None, False, argparse.SUPPRESS):
                assert "default" in action.help, f"{name}: {action.dest}"


def walk(parser, name):
    yield parser, name
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for kind, below in action.choices.items():
                yield from walk(below, f"{name} {kind}")


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_scripts_have_their_names(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"usage: {script} [-h] -opt FILE ")


FORMER = {
    "apply": "apply",
    "applications.example": "example",
    "data.enhance": "enhance",
    "data.prepare": "prepare",
    "evaluation.compare": "compare",
    "evaluation.ood": "ood",
    "evaluation.report_html": "report",
    "evaluation.study": "study",
    "fetch": "fetch",
    "interop.convert": "convert",
    "options": "options",
    "training.replay": "replay",
}


@pytest.mark.parametrize(("former", "command"), FORMER.items())
def test_commands_go_by_the_names_they_had(former, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"robustflow.{former}", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith(f"usage: robustflow {command} ")


def test_a_former_name_in_a_process_of_its_own():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "codes")}
    words = [sys.executable, "-m", "robustflow.evaluation.report_html", "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: robustflow report ")


def test_threads_wait_as_the_command_says(monkeypatch, capsys):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_no_library_is_loaded_before_a_mistake_is_answered():
    code = "import sys\nfrom robustflow import cli\ntry:\n    cli.main(['train', '-opt', 'none.yml'])\n"
    code += "except SystemExit as ended:\n    sys.exit(ended.code if 'torch' not in sys.modules else 'torch')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no such file: none.yml" in done.stderr
