"""Flags of train.py and test.py."""

import pytest

from robustflow.options.command_line import load_or_exit, parse


def test_flags_become_options_as_they_are(write):
    path = write("path: null")
    options = load_or_exit(parse(["-opt", path, "--resume", "a|b: [.state"], testing=False))
    assert options.path.resume_state == "a|b: [.state"
    namespace = parse(["--opt", path, "--weights", "1e5", "--input", "photos", "--output", "out"], testing=True)
    assert load_or_exit(namespace).path.model_path == "1e5"
    assert (namespace.input, namespace.output) == ("photos", "out")


def test_mistakes_end_the_program_with_the_report(write, capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit(parse(["-opt", write("nitr: 3"), "--override", "scale=5"], testing=False))
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "run.yml:3: nitr" in printed
    assert "--override: scale" in printed
    assert "Traceback" not in printed


def test_each_program_has_its_own_flags(capsys):
    for testing, foreign in ((False, "--weights"), (True, "--resume")):
        with pytest.raises(SystemExit):
            parse(["-opt", "a.yml", foreign, "x"], testing=testing)
        with pytest.raises(SystemExit):
            parse([], testing=testing)
