"""Flags of train and test."""

import pytest

from robustflow.commands import test, train
from robustflow.commands.arguments import read_options


def test_flags_become_options_as_they_are(write):
    path = write("path: null")
    options = read_options(train.make_parser().parse_args(["-opt", path, "--resume", "a|b: [.state"]))
    assert options.path.resume_state == "a|b: [.state"
    flags = ["--opt", path, "--weights", "1e5", "--input", "photos", "--output", "out"]
    chosen = test.make_parser().parse_args(flags)
    assert read_options(chosen).path.model_path == "1e5"
    assert (chosen.input, chosen.output) == ("photos", "out")


@pytest.mark.parametrize("command", [train, test])
def test_mistakes_end_the_program_with_the_report(write, caplog, command):
    with pytest.raises(SystemExit) as caught:
        command.main(["-opt", write("nitr: 3"), "--override", "scale=5"])
    assert caught.value.code == 2
    assert "run.yml:3: nitr" in caplog.text
    assert "--override: scale" in caplog.text
    assert "Traceback" not in caplog.text


def test_each_program_has_its_own_flags(capsys):
    for command, foreign in ((train, "--weights"), (test, "--resume")):
        with pytest.raises(SystemExit):
            command.make_parser().parse_args(["-opt", "a.yml", foreign, "x"])
        with pytest.raises(SystemExit):
            command.make_parser().parse_args([])
