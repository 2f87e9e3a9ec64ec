"""Flags that are given several times, and values that YAML would cut."""

import pytest

from robustflow.commands.arguments import Parser, add_override, read_options
from robustflow.commands.test import make_parser
from robustflow.options.load import OptionsError, load


@pytest.fixture
def parser():
    made = Parser()
    add_override(made)
    made.add_argument("--weights")
    made.add_argument("--n", type=int, default=3)
    made.add_argument("--list", nargs="+", action="extend", type=int, default=[1, 2])
    return made


def test_overrides_add_up_and_later_ones_win(write):
    flags = ["--override", "val.n_sample=1|val.seed=5", "--override", "val.heats=[0.3]", "--override", "val.seed=7"]
    options = read_options(make_parser().parse_args(["-opt", write(""), *flags]))
    assert (options.val.n_sample, options.val.heats, options.val.seed) == (1, (0.3,), 7)


def test_mistakes_of_all_overrides_are_reported(write):
    with pytest.raises(OptionsError) as caught:
        load(write(""), ["scale=5", "nitr=3"])
    assert all(text in str(caught.value) for text in ("--override: scale", "--override: nitr"))


def test_a_quote_that_is_not_closed_ends_with_its_flag(write):
    with pytest.raises(OptionsError, match="1 mistake"):
        load(write(""), ["path.results='it", "train.niter=7"])


def test_a_second_value_is_a_mistake(parser, capsys):
    for flags in (
        ["--weights", "a", "--weights", "b"],
        ["--n", "4", "--n", "5"],
        ["--n", "4", "--weights", "a", "--n", "3"],
    ):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(flags)
        assert caught.value.code == 2
        assert "expected once, got" in capsys.readouterr().err
    assert parser.parse_args(["--weights", "a", "--weights", "a"]).weights == "a"


def test_lists_add_up_in_place_of_the_default(parser):
    assert parser.parse_args([]).list == [1, 2]
    assert parser.parse_args(["--list", "5"]).list == [5]
    assert parser.parse_args(["--list", "1", "2", "--list", "2"]).list == [1, 2, 2]
    assert parser.parse_args([]).list == [1, 2]


def test_subcommands_keep_the_rule(capsys):
    parser = Parser()
    command = parser.add_subparsers().add_parser("fit")
    command.add_argument("--seed", type=int, default=0)
    assert parser.parse_args(["fit", "--seed", "1"]).seed == 1
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", "--seed", "1", "--seed", "2"])
    assert "--seed: expected once, got 1 and 2" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["my run #3", "#3", "[0.3, #0.5]", "{a: 1} # why", "it's #1"])
def test_a_value_is_not_cut_at_a_hash(write, value):
    with pytest.raises(OptionsError) as caught:
        load(write(""), f"path.results={value}|train.niter=7")
    (line,) = str(caught.value).splitlines()[1:]
    assert line.startswith("  --override: path.results: expected no comment")
    advised = line.split("quote what holds it: ")[1]
    assert load(write(""), advised).path.results == value


@pytest.mark.parametrize("value", ["'a #b'", '"a # b"', "C#", "a#b"])
def test_a_hash_that_begins_no_comment_is_text(write, value):
    assert load(write(""), f"path.results={value}").path.results == value.strip("'\"")


@pytest.mark.parametrize("value", [(0.0, 0.5), [0.0, 0.5]])
def test_lists_given_by_a_flag(write, value):
    assert load(write(""), None, ("val.heats", value, "--heats")).val.heats == (0.0, 0.5)
    with pytest.raises(OptionsError, match=r"--heats: val\.heats\[1\]: expected at least 0\.0, got -1"):
        load(write(""), None, ("val.heats", [0, -1], "--heats"))


@pytest.mark.parametrize(
    "text",
    ["plugins: [2024]", "path: {results: 1e5}", "path: {results: true}", "datasets: {val: {mode: bundled, name: 3}}"],
)
def test_a_number_where_text_is_wanted_is_to_be_quoted(write, text):
    with pytest.raises(OptionsError, match=r"expected text, got .*; quote it to make it text"):
        load(write(text))


def test_a_name_that_is_a_number_is_to_be_quoted(write):
    with pytest.raises(OptionsError, match="name: expected text, got 2024; quote it to make it text"):
        load(write("name: 2024\nmodel: SRFlow", complete=False))
    assert load(write("name: '2024'\nmodel: SRFlow", complete=False)).name == "2024"
