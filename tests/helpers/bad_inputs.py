"""A corpus of mistakes: each spoils a working folder and says what is called and what the message must contain."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from spoiling import (
    LAUGHS,
    LONG,
    PUBLISHED,
    TEST,
    TRAIN,
    TRAINING_SET,
    Code,
    Spoil,
    added,
    both,
    compressed,
    cut,
    file,
    forged_png,
    image,
    linked,
    noise,
    nothing,
    option_file,
    other_weights,
    pickled,
    pickles,
    renamed,
    replaced,
    torch_file,
)


class Bad(NamedTuple):
    """One mistake: how to make it in the working folder, the command, and a part of the message."""

    name: str
    message: str
    command: Sequence[str]
    spoil: Spoil


def options(name: str, message: str, spoil: Spoil) -> Bad:
    return Bad(f"options: {name}", message, TRAIN, spoil)


def override(text: str, message: str) -> Bad:
    return Bad(f"override: {text[:40]}", message, (*TRAIN, "--override", text), nothing)


def training(name: str, message: str, spoil: Spoil) -> Bad:
    return Bad(f"training data: {name}", message, TRAIN, spoil)


def testing(name: str, message: str, spoil: Spoil, *more: str) -> Bad:
    return Bad(f"test data: {name}", message, (*TEST, *more), spoil)


def given(name: str, message: str, file: str, spoil: Spoil = nothing) -> Bad:
    return Bad(f"weights: {name}", message, ("test.py", "-opt", "run.yml", "--weights", file), spoil)


def of_both_layouts(override: str, message: str) -> list[Bad]:
    """Weights of other options: ours say how they were trained, published ones only that they do not fit."""
    ours, theirs = other_weights(override, "w.safetensors"), other_weights(override, "w.pth")
    return [
        given(override, message, "w.safetensors", ours),
        given(f"{override}, published layout", "of another network", "w.pth", theirs),
    ]


ARRAYS = [np.zeros((32, 32, 3), np.uint8)]
METRICS = '{"name": "x", "protocol": {}, "datasets": {"a": 3}}'
OURS, THEIRS = "w.safetensors", "w.pth"

OF_OPTIONS = [
    Bad("options: no file", "no such file: none.yml", ("train.py", "-opt", "none.yml"), nothing),
    Bad("options: folder", "cannot read hr: Is a directory", ("train.py", "-opt", "hr"), nothing),
    options("empty", "got an empty file", option_file("")),
    options("not UTF-8", "not UTF-8", option_file(b"name: \xff\xfe\n")),
    options("NUL", "not valid YAML", option_file(b"name: a\0b\n")),
    options("text alone", "expected keys such as", option_file("hello")),
    options("syntax", "not valid YAML", option_file("name: [")),
    options("tab", "not valid YAML", option_file("name:\n\tx: 1\n")),
    options("key twice", "given twice", added("name: other\n")),
    options("unknown key", "did you mean 'name'", added("nam: x\n")),
    options("no base", "no such file", added("base: none.yml\n")),
    options("base of itself", "inherit from each other", added("base: run.yml\n")),
    options("base with NUL", "expected a file name", added('base: "a\\0b"\n')),
    options("aliases of aliases", "expected at most 10000 values", added(LAUGHS)),
    options("alias inside itself", "alias", added("x: &x [*x]\n")),
    options("merge key inside itself", "alias", added("x: &x {<<: *x}\n")),
    options("deep", "nested too deeply", added("x: " + "[" * 9999 + "]" * 9999)),
    options("many values", "values", added("x: [" + "1," * 60000 + "]")),
    options("large", "at most 262144 characters", added("#" * 300_000)),
    Bad("options: endless", "at most 262144 characters", ("train.py", "-opt", "/dev/zero"), nothing),
    options("Python object", "python/object", added("x: !!python/object/apply:os.mkdir [code_was_run]\n")),
    options("Python name", "python/name", added("x: !!python/name:os.mkdir\n")),
    options("published keys", "val: expected a mapping", option_file(PUBLISHED)),
    override("train.niter", "expected key.path=value"),
    override(".".join("a" * 3000) + "=1", "nested too deeply"),
    override("model=SRFlo", "did you mean 'SRFlow'"),
    override("scale=3", "scale: expected 1, 2, 4, 8 or 16"),
    override("val.n_sample=0", "val.n_sample: expected at least 1, got 0"),
    override("val.heats=[-1]", "val.heats[0]: expected at least 0.0, got -1"),
    override("val.heats=[.nan]", "val.heats[0]: expected a finite number, got nan"),
    override("val.heats=[.inf]", "val.heats[0]: expected a finite number, got inf"),
    override("val.heats=[]", "val.heats: expected at least 1 value"),
    override("train.niter=1e300", "train.niter: expected less than 2^31"),
    override("train.niter=" + "9" * 5000, "cannot read '999"),
    override("train.manual_seed=10000000000000000000", "expected less than 2^63"),
    override("train.lr_G=.nan", "train.lr_G: expected a finite number"),
    override("datasets.train.GT_size=18", "expected a multiple of 4"),
    override("datasets.train.n_workers=100000", "expected at most 1024"),
    override("network_G.flow.coupling=rq_splin", "did you mean 'rq_spline'"),
    override("network_G.flow.K=1000000000", "expected at most 1000"),
    override("network_G.flow.L=1000000000", "expected at most 16"),
    override("network_G.nf=1000000", "expected at most 4096"),
    override("device=gpu", "device: expected"),
    override("device=cuda:7", "device: expected"),
    override("device=cuda:99999999999999999999", "device: expected"),
    override("plugins=[no_such_module]", "cannot import 'no_such_module'"),
    override("plugins=[../x]", "expected a module name"),
    override("name=../x", "name: expected letters"),
    override("name=/x", "name: expected letters"),
    override("name=.", "name: expected letters"),
    override("name=a/./b", "name: expected letters"),
    override('name="a\\0b"', "name: expected letters"),
    override("name=" + "a" * 300, "name: expected a name of at most 200 bytes"),
    override("datasets.test_few.name=a/b", "expected a name fit for a folder"),
    override("datasets.test_few.name=..", "expected a name fit for a folder"),
    override("datasets.test_few.name=" + "a" * 300, "at most 200 bytes"),
    override("datasets={test/../../x: {mode: bundled}}", "expected a name fit for a folder"),
    override('path.results="a\\0b"', "path.results: expected a file or folder"),
    override('datasets.train.dataroot_GT=""', "expected a file or folder"),
]

OF_DATA = [
    training("no folder", "none: expected a folder of images", replaced("dataroot_GT: hr,", "dataroot_GT: none,")),
    training("a file", "got a file", replaced("dataroot_GT: hr,", "dataroot_GT: run.yml,")),
    training(
        "empty folder",
        "found none",
        both(replaced("dataroot_GT: hr,", "dataroot_GT: e,"), lambda: Path("e").mkdir()),
    ),
    training("no set", "datasets.train: expected a training set", replaced(TRAINING_SET, "")),
    training("cut off PNG", "hr/1.png: expected a complete", cut("hr/1.png")),
    training(
        "cut off JPEG", "hr/x.jpg: expected a complete", both(image("hr/x.jpg", noise(64, 64)), cut("hr/x.jpg"))
    ),
    training(
        "cut off WebP", "hr/x.webp: expected a complete", both(image("hr/x.webp", noise(64, 64)), cut("hr/x.webp"))
    ),
    training(
        "cut off BMP", "hr/x.bmp: expected a complete", both(image("hr/x.bmp", noise(64, 64)), cut("hr/x.bmp"))
    ),
    training(
        "cut off TIFF", "hr/x.tif: expected a complete", both(image("hr/x.tif", noise(64, 64)), cut("hr/x.tif"))
    ),
    training("empty PNG", "hr/x.png: expected a complete", file("hr/x.png")),
    training("text", "another kind of file", file("hr/x.png", "hello")),
    training("60000 x 60000 pixels", "60000 x 60000 pixels, more than", file("hr/x.png", forged_png())),
    training("one pixel", "image 'x': expected at least 16 x 16", image("hr/x.png", noise(1, 1))),
    training("animated", "2 frames or pages", image("hr/x.png", noise(32, 32), noise(32, 32).rotate(90))),
    training("pages", "2 frames or pages", image("hr/x.tif", noise(32, 32), noise(32, 32))),
    training("pipe", "a pipe or device", lambda: os.mkfifo("hr/x.png")),
    training("broken link", "no such file", lambda: Path("hr/x.png").symlink_to("none")),
    training("two of one name", "distinct names", image("hr/1.bmp", noise(32, 32))),
    training("pickle that runs code", "asks for 'posix.mkdir' (refused", pickles([Code()])),
    training("pickle of floats", "dtype", pickles([np.zeros((32, 32, 3))])),
    training("pickle of text", "a value of type str", pickles("hello")),
    training("cut off pickle", "could not read it", both(pickles(ARRAYS), cut("h.pkl"))),
    training("pickles that do not pair", "expected 1 LR images", pickles(ARRAYS, ARRAYS * 2)),
    training("no pickle", "h.pkl: expected a pickle file", both(pickles(ARRAYS), lambda: Path("h.pkl").unlink())),
    testing("one LR image less", "found none for 1: 1.png", lambda: Path("lr_test/1.png").unlink()),
    testing("other LR names", "expected partners", renamed("lr_test/1.png", "lr_test/other.png")),
    testing("LR of scale 2", "scale: 2 would fit", image("lr_test/1.png", noise(16, 16))),
    testing("LR and HR exchanged", "are dataroot_GT and dataroot_LQ exchanged", both(
        image("hr_test/1.png", noise(32, 32)), image("lr_test/1.png", noise(128, 128)))),
    testing("LR turned", "expected 8 x 8 pixels", image("lr_test/1.png", noise(8, 9))),
    testing("long name", "at most 200 bytes", both(
        renamed("hr_test/1.png", f"hr_test/{LONG}.png"), renamed("lr_test/1.png", f"lr_test/{LONG}.png"))),
    testing("name not in UTF-8", "in UTF-8", both(
        renamed("hr_test/1.png", b"hr_test/\xff.png"), renamed("lr_test/1.png", b"lr_test/\xff.png"))),
    testing("line break in a name", "control characters", both(
        renamed("hr_test/1.png", "hr_test/a\nb.png"), renamed("lr_test/1.png", "lr_test/a\nb.png"))),
    testing("no input", "none: expected a folder of images", nothing, "--input", "none"),
    testing("input is text", "another kind of file", nothing, "--input", "run.yml"),
    testing("input is a device", "/dev/zero: expected", nothing, "--input", "/dev/zero"),
    testing("a set among other results", "a name other than 'apply'", replaced(
        "  test_few: {", "  test_few: {name: apply, ")),
    testing("no test set", "datasets: expected at least one", replaced("test_few", "val")),
    testing("two sets of one name", "names two data sets", replaced(
        "  test_few: {", "  test_b: {mode: folder, dataroot_GT: hr, name: test_few}\n  test_few: {")),
]  # fmt: skip

OF_WEIGHTS = [
    given("none", "none.safetensors: expected a .safetensors", "none.safetensors"),
    given("not trained yet", "expected a .safetensors", "hr"),
    given("suffix", "expected a .safetensors or published .pth file, got '.zip'", "state.zip"),
    given("cut off", "damaged or no safetensors file", "good.safetensors", cut("good.safetensors")),
    given("empty", "damaged or no safetensors file", OURS, file(OURS)),
    given("text", "damaged or no safetensors file", OURS, file(OURS, "hello " * 100)),
    given("aliases in metadata", "values", OURS, other_weights("", OURS, options=LAUGHS)),
    given("no YAML in metadata", "not valid YAML", OURS, other_weights("", OURS, options="[")),
    given("text in metadata", "metadata are damaged", OURS, other_weights("", OURS, options="hello")),
    given("width in metadata", "metadata are damaged", OURS, both(
        other_weights("", OURS, options="network_G: {gc: 1000000}"), replaced("gc: 4, ", ""))),
    given(".pth of text", "no .pth file", THEIRS, file(THEIRS, "hello")),
    given(".pth that runs code", "refused, nothing in it was run", THEIRS, torch_file(THEIRS, {"x": Code()})),
    given("pickle that runs code", "refused, nothing in it was run", THEIRS, pickled(THEIRS, Code())),
    given(".pth compressed", "got a compressed one", THEIRS, compressed(THEIRS)),
    given(".pth of a list", "expected a state dict", THEIRS, torch_file(THEIRS, [1])),
    given(".pth of numbers", "expected a state dict", THEIRS, torch_file(THEIRS, {"x": 1})),
    given(".pth without data", "not in the file", THEIRS, torch_file(THEIRS, {"x": torch.zeros(1).expand(10**12)})),
    given(".pth of a sparse tensor", "plain tensors", THEIRS, torch_file(THEIRS, {"x": torch.eye(3).to_sparse()})),
    given(".pth with forged names", "expected the checkpoint of a flow", THEIRS, torch_file(
        THEIRS, {"RRDB_trunk.999999999.RDB1.conv5.bias": torch.zeros(3), "conv5.bias": torch.zeros(())})),
    *of_both_layouts("network_G.flow.K=2", "network_G.flow.K: the weights were trained with 2, the options say 1"),
    *of_both_layouts("network_G.flow.L=3|network_G.flow.S=1", "network_G.flow.L: the weights were"),
    *of_both_layouts("network_G.nf=12", "network_G.nf: the weights were trained with 12"),
    *of_both_layouts("network_G.flow.coupling=rq_spline", "network_G.flow.coupling"),
    *of_both_layouts("scale=8", "scale: the weights were trained with 8, the options say 4"),
    given("of SRFlow", "model", OURS, other_weights("model=SRFlow|network_G.flow.S=0", OURS)),
    given("encoder alone", "of another network", OURS, other_weights("model=RRDB|network_G.flow.S=0", OURS)),
    Bad("start: code", "refused", (*TRAIN, "--override", "path.pretrain_model_G=w.pth"),
        torch_file(THEIRS, {"x": Code()})),
    Bad("start: other nf", "weights of another network",
        (*TRAIN, "--override", "path.pretrain_model_G=w.safetensors"),
        other_weights("network_G.nf=12", OURS)),
    Bad("resume: no file", "no such file", (*TRAIN, "--resume", "none.state"), nothing),
]  # fmt: skip

OF_FOLDERS = [
    Bad("results: a file", "cannot be written", TEST, file("results")),
    Bad("output: a file", "expected a folder for the results, got a file", (*TEST, "--output", "run.yml"), nothing),
    Bad("output: below a file", "run.yml", (*TEST, "--output", "run.yml/x"), nothing),
    Bad("experiments: a file", "cannot be written", TRAIN, file("experiments")),
    Bad("results: link out", "leads to", TEST, linked("results/tiny/test_few", "elsewhere")),
    Bad("records: link out", "leads to", TEST, linked("results/tiny/records", "elsewhere")),
    Bad("models: link out", "leads to", (*TRAIN, "--resume", "auto"),
        linked("experiments/tiny/models", "elsewhere")),
]  # fmt: skip

OF_COMMANDS = [
    Bad("compare: nothing", "metrics.json, found none", ("compare", "hr"), nothing),
    Bad("compare: no JSON", "expected JSON", ("compare", "x"), file("x/metrics.json", "{")),
    Bad("compare: not UTF-8", "expected JSON", ("compare", "x"), file("x/metrics.json", b"\xff")),
    Bad("compare: deep", "expected JSON", ("compare", "x"), file("x/metrics.json", "[" * 100_000)),
    Bad("compare: no figures", "expected", ("compare", "x"), both(
        file("x/metrics.json", METRICS), file("x/metrics.csv", "dataset,image\n"))),
    Bad("report: names that lead out", "expected", ("report", "x"), both(
        file("x/metrics.json", METRICS.replace("3", '{"heats": {}}')),
        file("x/metrics.csv", "dataset,image,heat,sample\na,../../secret,0.9,0\n"))),
    Bad("convert: suffix", "expected a .safetensors file",
        ("convert", "-opt", "run.yml", "--weights", "good.safetensors", "--output", "x.pth"), nothing),
    Bad("enhance: onto itself", "apart from", ("enhance", "hr", "hr"), nothing),
    Bad("enhance: link out", "leads to", ("enhance", "in", "out"), both(
        lambda: Path("in/a").mkdir(parents=True), image("in/a/0.png", noise(8, 8)), linked("out/a", "elsewhere"))),
    Bad("study: no samples", "val.n_sample", ("study", "best-of-n", "-opt", "run.yml", "--n", "0"), nothing),
    Bad("score: few patches", "--n-patches: expected at least", (
        "ood", "fit", "-opt", "run.yml", "--weights", "good.safetensors", "--n-patches", "1"), nothing),
    Bad("score: none", "expected the OOD score",
        ("ood", "rank", "-opt", "run.yml", "--weights", "good.safetensors"), nothing),
    Bad("options: none", "no such file", ("options", "none.yml"), nothing),
]  # fmt: skip

APART = "apart from"
OF_PATHS = [
    override("path.results=$NOT_SET/x", "path.results: expected a path, got '$NOT_SET/x': there is no variable"),
    override("path.experiments=~no_such_user/x", "there is no user ~no_such_user"),
    options("base of a variable", "there is no variable ${NOT_SET}", added("base: ${NOT_SET}/x.yml\n")),
    Bad("path: no options", "got an empty name", ("train.py", "-opt", ""), nothing),
    Bad("path: no state", "--resume: path.resume_state: expected", (*TRAIN, "--resume", ""), nothing),
    Bad("path: no weights", "--weights: path.model_path: expected", (*TEST[:3], "--weights", ""), nothing),
    testing("no name of an input", "--input: expected a file or folder, got an empty name", nothing, "--input", ""),
    testing("no name of an output", "--output: expected a file or folder, got an empty", nothing, "--output", ""),
    testing("output of a variable", "there is no variable $NOT_SET", nothing, "--output", "$NOT_SET"),
    testing("output is the input", APART, nothing, "--input", "lr_test", "--output", "lr_test"),
    testing("output in the input", APART, nothing, "--input", "lr_test", "--output", "lr_test/a/../b"),
    testing("results in the input", APART, nothing, "--input", "."),
    testing("input among the results", APART, both(
        lambda: Path("out/input").mkdir(parents=True), image("out/input/0.png", noise(8, 8))),
        "--input", "out/input", "--output", "out"),
    testing("trace in the input", APART, nothing, "--input", ".", "--trace"),
    testing("output in a test set", APART, nothing, "--output", "hr_test/x"),
    testing("output in the training set", APART, nothing, "--output", "hr/x"),
    testing("results in a test set", APART, replaced("dataroot_GT: hr_test, dataroot_LQ: lr_test", "dataroot_LQ: .")),
    Bad("rank: output in the input", APART, (
        "ood", "rank", "-opt", "run.yml", "--weights", "good.safetensors", "--input", "hr", "--output", "hr"), nothing),
    Bad("rank: no name of an output", "got an empty name", ("ood", "rank", "-opt", "run.yml", "--output", ""), nothing),
    Bad("study: output in a test set", APART, (
        "study", "seeds", "-opt", "run.yml", "--weights", "good.safetensors", "--output", "lr_test"), nothing),
    Bad("study: no name of an output", "got an empty", ("study", "seeds", "-opt", "run.yml", "--output", ""), nothing),
    Bad("compare: onto a result", APART, ("compare", "hr", "--output", "hr"), nothing),
    Bad("compare: no name", "got an empty name", ("compare", ""), nothing),
    Bad("enhance: into itself", APART, ("enhance", "hr", "hr/more"), nothing),
    Bad("enhance: no name", "got an empty name", ("enhance", "hr", ""), nothing),
    Bad("convert: onto itself", "another file than", ("convert", "-opt", "run.yml", "--weights", "good.safetensors",
        "--output", "./good.safetensors"), nothing),
    Bad("report: no name", "got an empty name", ("report", ""), nothing),
]  # fmt: skip

CORPUS = [*OF_OPTIONS, *OF_DATA, *OF_WEIGHTS, *OF_FOLDERS, *OF_COMMANDS, *OF_PATHS]
