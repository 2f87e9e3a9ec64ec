import sys
from pathlib import Path

import pytest
import yaml

from robustflow.options.load import OptionsError, dump, load
from robustflow.utils import yaml_tree


def report(path, overrides=None):
    with pytest.raises(OptionsError) as caught:
        load(path, overrides)
    return str(caught.value).splitlines()[1:]


# Values


def test_numbers_follow_yaml_1_2(write):
    options = load(write("train: {lr_G: 2e-4, niter: 1e5, warmup_iter: 010, beta1: .5}\nval: {heats: [0, 1.5E-1]}"))
    assert (options.train.lr_G, options.train.niter, options.train.warmup_iter) == (2e-4, 100_000, 10)
    assert options.train.beta1 == 0.5
    assert options.val.heats == (0, 0.15)
    assert type(options.train.niter) is int


def test_yaml_1_1_words_and_times_are_text(write):
    path = write("name: run\nmodel: SRFlow\npath: {results: no, experiments: 2020-01-01}", complete=False)
    options = load(path)
    assert (options.path.results, options.path.experiments) == ("no", "2020-01-01")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {niter: true}", "train.niter: expected an integer, got true"),
        ("train: {niter: 1.5}", "train.niter: expected an integer, got 1.5"),
        ("train: {niter: 0}", "train.niter: expected at least 1, got 0"),
        ("train: {lr_G: fast}", "train.lr_G: expected a number, got 'fast'"),
        ("train: {lr_G: .inf}", "train.lr_G: expected a finite number, got inf"),
        ("train: [1]", "train: expected a mapping of keys to values, got [1]"),
        ("val: {save_images: 1}", "val.save_images: expected true or false, got 1"),
        ("val: {heats: 0.9}", "val.heats: expected a list, got 0.9; write [0.9]"),
        ("device: gpu", "device: expected auto, cpu, cuda or cuda:N, the GPU of number N, got 'gpu'"),
        ("val: {heats: [0.9, x]}", "val.heats[1]: expected a number, got 'x'"),
        ("network_G: {flow: {S: []}}", "network_G.flow.S: expected at least 1 value(s), got []"),
        ("val: {heats: [x]}", "val.heats[0]: expected a number, got 'x'"),
        ("path: {results: 3}", "path.results: expected text, got 3"),
        ("scale: 3", "scale: expected 1, 2, 4, 8 or 16, got 3"),
        (
            "datasets: {test: {mode: bundled, enhance: 3}}",
            "datasets.test.enhance: expected 'published' or 'unit' or true or false, got 3",
        ),
        ("network_G: {flow: {coupling: affin}}", "network_G.flow.coupling: unknown coupling 'affin', known: affine"),
    ],
)
def test_wrong_value_is_reported_in_plain_words(write, text, message):
    lines = report(write(text))
    assert len(lines) == 1
    assert lines[0].startswith(f"  run.yml:3: {message}")


def test_several_values_in_a_text_are_not_said_to_be_one_of_a_list(write):
    (line,) = report(write("val: {heats: 0.8 0.9}"))
    assert line.endswith("val.heats: expected a list, got '0.8 0.9'")


def test_missing_key_is_reported(write):
    assert report(write("model: SRFlow", complete=False)) == ["  run.yml: name: required, but not given"]


# Unknown keys


def test_several_mistakes_at_once_with_source_and_suggestion(write):
    path = write("scale: 3\nval:\n  heat: [0]\n")
    lines = report(path, "network_G.flow.couplng=affine|train.nitr=3")
    assert "  --override: network_G.flow.couplng: unknown key; did you mean 'coupling'?" in lines
    assert "  --override: train.nitr: unknown key; did you mean 'niter'?" in lines
    assert "  run.yml:5: val.heat: unknown key; did you mean 'heats'?" in lines
    assert "  run.yml:3: scale: expected 1, 2, 4, 8 or 16, got 3" in lines
    assert len(lines) == 4


def test_key_known_elsewhere_is_located(write):
    assert report(write("niter: 3")) == ["  run.yml:3: niter: unknown key here; known as train.niter"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network_G: {flow: {coupling: {type: affine, bounds: [-1, 1]}}}", "coupling.bounds: {} coupling rq_spline"),
        ("datasets: {test: {mode: folder, photons: 3}}", "test.photons: {} dataset mode bundled_low_light"),
        ("datasets: {test.x: {mode: bundled, degrade: [{type: invert, quality: 3}]}}", "quality: {} degradation jpeg"),
    ],
)
def test_key_of_another_entry_names_that_entry(write, text, message):
    assert report(write(text))[-1].endswith(message.format("unknown key here; known with"))


def test_key_like_no_other_lists_the_known_ones(write):
    assert "known here: print_freq, save_checkpoint_freq" in report(write("logger: {zzz: 3}"))[0]


def test_typos_inside_registry_entries_have_their_own_path(write):
    text = """
network_G:
  flow:
    coupling: {type: affine, epz: 0.1}
datasets:
  test_a:
    mode: bundled
    GT_sise: 32
"""
    lines = report(write(text))
    assert "  run.yml:6: network_G.flow.coupling.epz: unknown key; did you mean 'eps'?" in lines
    assert "  run.yml:10: datasets.test_a.GT_sise: unknown key; did you mean 'GT_size'?" in lines
    assert len(lines) == 2


def test_dataset_names_are_checked(write):
    [line] = report(write("datasets: {trian: {mode: bundled, GT_size: 32}}"))
    assert line == (
        "  run.yml:3: datasets.trian: expected train, val or a name that begins with test, "
        "got 'trian'; did you mean 'train'?"
    )


def test_unknown_key_set_to_null_is_still_a_mistake(write):
    assert "did you mean 'niter'" in report(write("train: {nitr: null}"))[0]


# Reading files


def test_duplicate_key_names_both_lines(write):
    [line] = report(write("train:\n  niter: 3\n  niter: 4"))
    assert line == "  run.yml:5: train.niter: given twice in one mapping, first at run.yml:4; keep one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2", "run.yml:2: not valid YAML"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),  # no character, and no number of C
        ('a: "\\U00110000"', "not valid YAML"),
        ("", "expected keys such as"),
        ("- name", "expected keys such as"),
        ("a: &x [*x]", "alias"),
        ("a: !!python/name:os.system x", "cannot read 'x'"),
    ],
)
def test_unusable_file(write, text, message):
    assert message in "\n".join(report(write(text, complete=False)))


def test_with_and_without_libyaml_the_same(monkeypatch):
    class Plain(yaml.SafeLoader):
        """As where PyYAML was built without it."""

    Plain.yaml_implicit_resolvers = yaml_tree.Loader.yaml_implicit_resolvers
    texts = [file.read_text() for file in (Path(__file__).parents[2] / "confs").rglob("*.yml")]
    texts += [
        'a: é # ü\nb: "日本 # x"\nc: [1, {d: &x 3, e: *x}]\n',
        "- |\n  a # b\n- 12e03\n- ~\n",
        "a: [",
        70 * "[",
        "a: *x",
        "a: 1\n--- \nb: 2",
    ]

    def read(text):
        mistakes = []
        try:
            return yaml_tree.Reader("f", mistakes).read(text), mistakes, yaml_tree.has_comment(text)
        except yaml_tree.OptionsError as error:
            return str(error)

    found = [read(text) for text in texts]
    monkeypatch.setattr(yaml_tree, "Loader", Plain)
    assert [read(text) for text in texts] == found
    assert "not valid YAML" in read('a: "\\UFFFFFFFF"')


def test_missing_file_suggests_its_neighbour(write):
    write("", file="confs/demo.yml")
    assert "did you mean confs/demo.yml?" in report("confs/demos.yml")[0]
    assert "give a path relative to the working directory" in report("nothing.yml")[0]


# Inheritance


def test_bases_come_first_recursively_and_relative_to_the_file(write):
    write("name: base\nmodel: SRFlow\ntrain: {niter: 1, val_freq: 1, warmup_iter: 1}", "confs/common/base.yml", False)
    write("base: base.yml\ntrain: {val_freq: 2, warmup_iter: 2}", "confs/common/middle.yml", False)
    write("val: {n_sample: 7}", "confs/other.yml", False)
    path = write("base: [common/middle.yml, other.yml]\ntrain: {warmup_iter: 3}", "confs/run.yml", False)
    options = load(path)
    assert (options.train.niter, options.train.val_freq, options.train.warmup_iter) == (1, 2, 3)
    assert (options.name, options.val.n_sample) == ("base", 7)


def test_mistake_in_a_base_names_the_base(write):
    write("train:\n  niter: x", "common/base.yml", False)
    assert report(write("base: common/base.yml"))[0].startswith("  common/base.yml:2: train.niter:")


def test_cycle_names_the_chain(write):
    write("base: run.yml", "b.yml", False)
    assert "run.yml -> b.yml -> run.yml" in report(write("base: b.yml", complete=False))[0]


def test_missing_base_names_the_line_that_asks_for_it(write):
    assert report(write("base: nowhere.yml"))[0].startswith("  run.yml:3: no such file: nowhere.yml")


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ("{type: affine, eps: 0.1}", "{type: rq_spline}", {"type": "rq_spline", "eps": 0.001, "bounds": (-0.5, 0.5)}),
        ("{type: affine, eps: 0.1}", "{type: affine}", {"type": "affine", "eps": 0.1}),
        ("{type: affine, eps: 0.1}", "affine", {"type": "affine", "eps": 1e-4}),
        ("rq_spline", "{type: affine, eps: 0.1}", {"type": "affine", "eps": 0.1}),
        ("affine", "{eps: 0.1}", {"type": "affine", "eps": 0.1}),
        ("null", "{eps: 0.1}", {"type": "affine", "eps": 0.1}),
        ("{type: affine, eps: 0.1}", "{eps: null}", {"type": "affine", "eps": 1e-4}),
        ("rq_spline", "null", {"type": "affine", "eps": 1e-4}),
    ],
)
def test_merging_of_entries(write, below, above, expected):
    write(f"network_G: {{flow: {{coupling: {below}}}}}", "base.yml")
    path = write(f"base: base.yml\nnetwork_G: {{flow: {{coupling: {above}}}}}", complete=False)
    assert load(path).network_G.flow.coupling.model_dump() == expected


def test_null_removes_a_section_or_a_dataset(write):
    write("train: {niter: 3}\ndatasets: {val: {mode: bundled}, test: {mode: bundled}}", "base.yml")
    options = load(write("base: base.yml\ntrain: null\ndatasets: {val: null}", complete=False))
    assert options.train.niter == 180_000
    assert list(options.datasets) == ["test"]


def test_another_mode_replaces_the_data_set(write):
    write("datasets: {val: {mode: folder, dataroot_GT: photos, GT_size: 32}}", "base.yml", False)
    path = write("base: base.yml\ndatasets: {val: {mode: bundled}}")
    assert load(path).datasets["val"].GT_size is None


def test_one_mode_under_two_names_is_no_other_mode(write):
    write("datasets: {val: {mode: folder, dataroot_GT: photos, GT_size: 32}}", "base.yml", False)
    path = write("base: base.yml\ndatasets: {val: {mode: LRHR_IMG, dataroot_GT: others}}")
    val = load(path).datasets["val"]
    assert (val.mode, val.dataroot_GT, val.GT_size) == ("LRHR_IMG", "others", 32)


def test_merge_key_fills_in_what_is_not_given(write):
    path = write("datasets:\n  test_a: &a {mode: bundled, seed: 3}\n  test_b:\n    <<: *a\n    lr_gain: 2.0")
    second = load(path).datasets["test_b"]
    assert (second.seed, second.lr_gain) == (3, 2.0)


# Overrides


def test_overrides_win_and_take_yaml_values(write):
    text = (
        " train.niter = 1e3 || network_G.flow.coupling={type: affine, eps: 0.1}|val.heats=[0, 0.5]|train.val_freq=null|"
    )
    options = load(write("train: {niter: 5, val_freq: 5}"), text)
    assert (options.train.niter, options.train.val_freq, options.val.heats) == (1000, 5000, (0, 0.5))
    assert options.network_G.flow.coupling.eps == 0.1


@pytest.mark.parametrize("coupling", ["", "network_G: {flow: {coupling: affine}}"])
def test_override_into_a_named_entry(write, coupling):
    options = load(write(coupling), "network_G.flow.coupling.eps=0.1")
    assert options.network_G.flow.coupling.model_dump() == {"type": "affine", "eps": 0.1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"a|b"', "a|b"), ("'it''s|b'", "it's|b"), ("it's", "it's"), ('"a=\\"|b"', 'a="|b'), ("a=b", "a=b"), ("'1'", "1")],
)
def test_quoting_in_overrides(write, value, expected):
    options = load(write(""), f"path.results={value}|train.niter=7")
    assert (options.path.results, options.train.niter) == (expected, 7)


@pytest.mark.parametrize("entry", ["train.niter", "=3", "train..niter=3", "train.niter="])
def test_malformed_override_is_reported_with_the_others(write, entry):
    lines = report(write("scale: 3"), f"val.seed=1|{entry}")
    assert len(lines) == 2
    assert lines[0].startswith("  --override: expected key.path=value")


@pytest.mark.parametrize("entry", ["path.results=d\udcff", "name='d\udcff'", "na\udcffme=x"])
def test_override_that_is_not_utf_8(write, entry):
    assert report(write(""), entry)[0].startswith(f"  --override: expected text in UTF-8, got {entry!r}")


def test_override_that_is_not_yaml(write):
    assert report(write(""), "scale=[1")[0].startswith("  --override: scale: not valid YAML")


# Plugins and contradictions


def test_plugin_registers_a_coupling(write, load_text, tmp_path, monkeypatch):
    source = """
from typing import Literal
from robustflow.registry import ELEMENTWISE, Options

class TestMapOptions(Options):
    type: Literal["test_map"] = "test_map"
    slope: float = 2.0

@ELEMENTWISE.register("test_map", TestMapOptions)
class TestMap: ...
"""
    (tmp_path / "test_map_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    options = load(write("plugins: [test_map_plugin]\nnetwork_G: {flow: {coupling: {type: test_map, slope: 3}}}"))
    assert options.network_G.flow.coupling.slope == 3
    assert load_text(dump(options)) == options
    [line] = report("run.yml", "network_G.flow.coupling.slop=3")
    assert line == "  --override: network_G.flow.coupling.slop: unknown key; did you mean 'slope'?"
    sys.modules.pop("test_map_plugin")


def test_plugin_that_cannot_be_imported(write):
    lines = report(write("plugins:\n  - no_such_module_at_all\n  - ../a.py"))
    assert lines[0].startswith("  run.yml:4: plugins: cannot import 'no_such_module_at_all'")
    assert lines[1].startswith("  run.yml:5: plugins: cannot import '../a.py': expected a module name")


def test_plugin_that_is_no_python(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_plugin.py").write_text("def f(:\n")
    [line] = report(write("plugins: [broken_plugin]"))
    assert line.startswith(
        "  run.yml:3: plugins: cannot import 'broken_plugin': invalid syntax (broken_plugin.py, line 1)"
    )


def test_contradictions_are_reported_together(write):
    text = "network_G:\n  flow:\n    K: 2\n    S: [1, 3]\ndatasets:\n  train:\n    mode: bundled\n    GT_size: 33"
    lines = report(write(text))
    assert "  run.yml:6: network_G.flow.S: expected one number or L = 3 of them, got 2" in lines
    assert "  run.yml:6: network_G.flow.S: expected at most K = 2 noise couplings per level, got 3" in lines
    assert "  run.yml:10: datasets.train.GT_size: expected a multiple of 8 (2^L and scale), got 33" in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "datasets: {train: {mode: bundled, GT_size: 32, batch_size: 4}}\ntrain: {micro_batch: 5}",
            "run.yml:4: train.micro_batch: expected at most datasets.train.batch_size = 4, got 5",
        ),
        ("train: {micro_batch: 0}", "run.yml:3: train.micro_batch: expected at least 1, got 0"),
        ("val: {tile_overlap: 8}", "run.yml:3: val.tile_overlap: expected val.tile beside it"),
        ("val: {tile: 0}", "run.yml:3: val.tile: expected at least 1, got 0"),
    ],
)
def test_memory_options_that_make_no_sense(write, text, message):
    [line] = report(write(text))
    assert line.startswith(f"  {message}")


def test_borders_leave_something_to_measure(write):
    text = "datasets: {train: {mode: bundled, GT_size: 8}, test: {mode: bundled, GT_size: 16}}\nval: {crop_border: 8}"
    [line] = report(write(text))
    assert line == "  run.yml:4: val.crop_border: expected less than half of datasets.test.GT_size = 16, got 8"
    assert load(write(text.replace("border: 8", "border: 7"))).val.crop_border == 7


def test_memory_options(write, load_text):
    options = load(
        write(
            "precision: bf16\ntrain: {micro_batch: 4, checkpointing: level}\nval: {tile: 64, tile_overlap: 0}\n"
            "datasets: {train: {mode: bundled, GT_size: 32, batch_size: 4}}"
        )
    )
    assert (options.precision, options.train.micro_batch, options.train.checkpointing) == ("bf16", 4, "level")
    assert (options.val.tile, options.val.tile_overlap) == (64, 0)
    assert load_text(dump(options)) == options
    options = load(write(""))
    assert (options.precision, options.train.micro_batch, options.train.checkpointing) == ("auto", None, "none")
    assert (options.val.tile, options.val.tile_overlap) == (None, None)
