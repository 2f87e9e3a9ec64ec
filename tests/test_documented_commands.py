"""The commands of README.md and docs/, word by word, in this process; their option files are tiny here."""

import logging
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import readme
import tiny
import torch

from robustflow import cli
from robustflow.data.images import write_png
from robustflow.data.sources.bundled import BundledSource
from robustflow.interop import published
from robustflow.options.load import load

pytestmark = pytest.mark.long

SMALL = """
name: {name}
device: cpu
network_G: {{nf: 8, nb: 1, gc: 4, flow: {{K: 1, hidden_channels: 8}}}}
train: {{niter: 2, ood_patches: 10, val_freq: 2}}
val: {{heats: [0.9], n_sample: 2}}
"""
SUPER_RESOLUTION = """
base: small.yml
name: {name}
model: FS-NCSR
datasets:
  train: {{mode: bundled, split: train, GT_size: 16, batch_size: 2}}
  val: &test {{mode: bundled, split: test, GT_size: 16, n_crops: 2}}
  test_held_out: *test
network_G: {{flow: {{L: 2, S: [0, 1]}}}}
"""
LOW_LIGHT = """
base: small.yml
name: {name}
model: LLFlow
scale: 1
datasets:
  train: {{mode: bundled_low_light, split: train, GT_size: 16, batch_size: 2}}
  test_lol: {{mode: bundled_low_light, split: test, GT_size: 104, n_crops: 2}}
network_G: {{encoder: low_light, flow: {{L: 3, split: {{enable: false}}}}}}
val: {{protocol: llflow}}
"""
PUBLISHED = """
name: published
model: NCSR
divide_freq: true
scale: 4
gpu_ids: null
device: cpu
datasets:
  train: {mode: LRHR_IMG, dataroot_GT: my_photos, GT_size: 16, batch_size: 2}
network_G:
  which_model_G: NCSRNet
  nf: 8
  nb: 1
  flow: {K: 1, L: 2, S: [0, 1], coupling: CondAffineSeparatedAndCond, CondAffineSeparatedAndCond: {hidden_channels: 8}}
train: {niter: 1, ood_patches: 0}
val: {n_sample: 1}
"""
BICUBIC = """
base: demo.yml
name: bicubic_4x
model: bicubic
"""
ENCODER = """
base: demo.yml
name: rrdb_4x
model: RRDB
"""
# What examples.sh does before.
BEFORE = """
train.py -opt confs/demo.yml
test.py -opt confs/demo.yml
train.py -opt confs/demo.yml --override name=demo_runs/rq_spline --override network_G.flow.coupling=rq_spline
test.py -opt confs/demo.yml --override name=demo_runs/rq_spline --override network_G.flow.coupling=rq_spline
train.py -opt confs/fsncsr_4x_rq.yml --override name=full_size
train.py -opt confs/srflow_4x.yml
train.py -opt confs/rrdb_4x.yml
train.py -opt confs/lowlight_demo.yml --override network_G.flow.coupling=rq_spline|name=lowlight_runs/rq_spline
train.py -opt confs/robust_lol.yml
train.py -opt confs/llflow_lol.yml
-m robustflow.evaluation.ood fit -opt confs/robust_lol.yml --patch 100 --n-patches 20
-m robustflow.evaluation.ood fit -opt confs/llflow_lol.yml --patch 100 --n-patches 20
-m robustflow.evaluation.ood rank -opt confs/llflow_lol.yml
"""
# Lists given by flags, at once and one by one; what is documented elsewhere; and commands as they were spelt.
FURTHER = """
-m robustflow.evaluation.study temperature -opt confs/demo.yml --heats 0 0.5
-m robustflow.evaluation.study temperature -opt confs/demo.yml --heats 0 --heats 0.5
-m robustflow.evaluation.study seeds -opt confs/demo.yml --seeds 3 --seeds 4
-m robustflow.apply restore -opt confs/demo.yml --input photo.png --normalise spatial local
-m robustflow.apply restore -opt confs/demo.yml --input photo.png --normalise spatial --normalise local
-m robustflow.apply restore-study -opt confs/demo.yml --degrade noise=20 --degrade jpeg=10 --normalise global
-m robustflow.evaluation.ood plot results/llflow_lol --output one.svg
-m robustflow.evaluation.report_html results/demo
robustflow report results/demo
robustflow ood fit -opt confs/demo.yml --covariance empirical
robustflow ood rank -opt confs/demo.yml --input my_photos --patch 16 --stride 8 --n-patches 5
robustflow trace -opt confs/demo.yml
-m robustflow.options confs/demo.yml
-m robustflow.data.prepare datasets/DF2K/train_HR datasets/DF2K/again
-m robustflow.data.enhance datasets/Urban100/HR datasets/Enhanced
-m robustflow.interop.convert -opt published.yml --weights published_G.pth --output again.safetensors
-m robustflow.evaluation.compare results/demo_runs/affine results/demo_runs/rq_spline --output results/again
-m robustflow.training.replay experiments/demo/non_finite/00000123.safetensors
-m robustflow.applications.example images images
"""
# Flags that make a command take less time, or leave what others go on with where it is.
SHORTER = {
    "train.niter=200": ["--override", "train.niter=2|name=apart"],
    "--stride 80": ["--patch", "16"],
    "ood fit": ["--n-patches", "20"],
    "ood table": ["--n-patches", "20", "--patch", "16"],
    "restore-study": ["--input", "photos"],
}
# What single commands go on from, besides.
NEEDED = {
    "train_HR_prepared, GT_size": "robustflow prepare datasets/DF2K/train_HR datasets/DF2K/train_HR_prepared",
    "plot results/llflow_lol results/robust_lol": "robustflow ood rank -opt confs/robust_lol.yml",
    "plot results/demo/input": "robustflow ood rank -opt confs/demo.yml --input my_photos --n-patches 5 --patch 16",
    "--weights ours.safetensors": "robustflow convert -opt published.yml --weights published_G.pth "
    "--output ours.safetensors",
}
# What is not run here, and why.
NOT_RUN = {
    "bash examples.sh demo": "minutes of training; its parts are here",
    "bash examples.sh test": "this suite",
    "bash examples.sh latent": "minutes of training; its parts: tests/latent/test_example.py",
    "bash examples.sh lowlight": "minutes of training; its parts are here",
    "bash examples.sh remedies": "an hour of training; its options: tests/test_confs.py",
    "bash examples.sh toy2d": "minutes of training; in small: tests/toy/test_experiment.py",
    "bash examples.sh soft_affine": "an hour of training; its options: tests/test_reproduce.py",
    "bash examples.sh mini --data datasets/mini": "needs data, two hours of training; its options: tests/test_confs.py",
    "bash examples.sh table1 --small": "minutes of training; in small: tests/test_reproduce.py",
    "bash examples.sh table1": "needs data and GPUs; in small: tests/test_reproduce.py",
    "bash examples.sh rrdb_4x": "needs data",
    "bash examples.sh fsncsr_4x_rq": "needs data",
    "bash examples.sh robust_lol": "needs data",
    "bash examples.sh study temperature demo": "the command that it calls is here",
    "bash examples.sh bench": "measures, for minutes; its parts: tests/benchmarks",
    "bash examples.sh gpu": "needs a GPU",
    "python -m benchmarks busy": "measures, for minutes",
    "python -m benchmarks loader": "measures, for minutes",
    "python -m benchmarks operations --before 9e88994": "checks out an earlier commit; tests/benchmarks",
    "python -m benchmarks host --before eafd496": "checks out an earlier commit; tests/benchmarks",
    "source .venv/bin/activate": "of the shell",
    "pip install robustflow[iqa]": "needs a network",
    "robustflow fetch esrgan": "needs a network; from a server of its own: tests/downloads",
    "robustflow fetch iqa": "needs a network; from a server of its own: tests/downloads",
    "robustflow fetch div2k flickr2k urban100": "needs a network; from a server of its own: tests/downloads",
    "python test.py -opt confs/esrgan_4x.yml": "needs published weights; with others: tests/test_comparators.py",
    "python test.py -opt confs/rrdb_psnr_4x.yml": "needs published weights; with others: tests/test_comparators.py",
    "robustflow compare results/bicubic_4x results/esrgan_4x results/srflow_4x/study_temperature": (
        "needs published weights; with others: tests/test_comparators.py"
    ),
    "torchrun --standalone --nproc_per_node 4 train.py -opt confs/fsncsr_4x_rq.yml": (
        "several processes: tests/test_distributed.py"
    ),
    "torchrun --standalone --nproc_per_node 4 test.py -opt confs/fsncsr_4x_rq.yml": (
        "several processes: tests/test_distributed.py"
    ),
}
DUMP = "experiments/demo/non_finite/00000123.safetensors"
LINES = [words for words in readme.commands() if " ".join(words) not in NOT_RUN]
COMMANDS = [words[words[0] == "python" :] for words in LINES]
COMMANDS += map(str.split, FURTHER.strip().splitlines())
WITH_OPTIONS = {tuple(words[: words.index("-opt")]): words for words in COMMANDS if "-opt" in words}


def run(words, monkeypatch):
    """Exit status of a command."""
    monkeypatch.setattr(sys, "argv", words if words[0] != "-m" else words[1:])
    try:
        if words[0] == "robustflow":
            return cli.main(words[1:])
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(readme.ROOT / words[0]), run_name="__main__")
    except SystemExit as leaving:
        return leaving.code or 0
    return 0


def _images(place):
    photographs = BundledSource("test", 4)
    photo, other = (photographs.pair(index)[0][:, 60:108, 60:100] for index in (0, 1))
    mask = torch.zeros(3, 48, 40)
    mask[:, 5:20, 5:20] = 1
    large = photographs.pair(1)[0][:, :176, :176]
    images = dict.fromkeys(("photo", "noisy", "photos/a", "my_photos/a", "datasets/Urban100/HR/a"), photo)
    images |= dict.fromkeys(("large", "datasets/DF2K/train_HR/a", "datasets/DF2K/train_HR/b"), large)
    images |= {"other": other, "small": large[:, ::4, ::4], "mask": mask}
    for name, image in images.items():
        write_png(place / f"{name}.png", image)


def _published(place):
    """A published model of our own making: its option file and its weights."""
    (place / "published.yml").write_text(PUBLISHED)
    options = load(place / "published.yml")
    options = options.model_copy(update={"network_G": options.network_G.model_copy(update={"gc": 4})})
    torch.save(published.write_back(tiny.built(options, 0.01).network), place / "published_G.pth")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with all that the documented commands read."""
    place = tmp_path_factory.mktemp("place")
    (place / "confs").mkdir()
    (place / "confs" / "small.yml").write_text(SMALL.format(name="small"))
    for name in ("demo", "fsncsr_4x_rq"):
        (place / "confs" / f"{name}.yml").write_text(SUPER_RESOLUTION.format(name=name))
    (place / "confs" / "srflow_4x.yml").write_text(
        SUPER_RESOLUTION.format(name="srflow_4x").replace("FS-NCSR", "SRFlow").replace(", S: [0, 1]", "")
    )
    (place / "confs" / "bicubic_4x.yml").write_text(BICUBIC)
    (place / "confs" / "rrdb_4x.yml").write_text(ENCODER)
    for name in ("lowlight_demo", "robust_lol", "llflow_lol"):
        (place / "confs" / f"{name}.yml").write_text(LOW_LIGHT.format(name=name))
    for name in ("velol", "lolv2"):
        text = f"base: robust_lol.yml\nname: {name}\npath: {{model_path: experiments/robust_lol}}"
        (place / "confs" / f"{name}.yml").write_text(text)
    _images(place)
    _published(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("TORCH_COMPILE_DISABLE", "1")
        for line in BEFORE.strip().splitlines():
            assert run(line.split(), patch) == 0, line
        shutil.copytree("results/demo", "results/demo_runs/affine")
        # A step that is not finite.
        broken = "train.py -opt confs/demo.yml --override name=broken|train.lr_G=1e30|train.niter=9"
        assert run(broken.split(), patch) == 1
        (dump,) = Path("experiments/broken/non_finite").glob("*.safetensors")
        Path(DUMP).parent.mkdir()
        dump.rename(DUMP)
    return place


@pytest.fixture
def place(prepared, tmp_path, monkeypatch):
    """The working folder: a copy of its own for each test."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "place"))


def test_what_is_not_run_is_documented():
    assert set(NOT_RUN) - set(map(" ".join, readme.commands())) == set()
    assert all(words[0] in ("python", "robustflow") for words in LINES), "neither run nor listed with a reason"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_documented_command(place, monkeypatch, capsys, words):
    for part, needed in NEEDED.items():
        if part in " ".join(words):
            assert run(needed.split(), monkeypatch) == 0
    shorter = next((flags for part, flags in SHORTER.items() if part in " ".join(words)), [])
    assert run([*words, *shorter], monkeypatch) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", WITH_OPTIONS.values(), ids=map(" ".join, WITH_OPTIONS))
def test_every_override_of_a_command_counts(place, monkeypatch, capsys, words):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    flags = ["--override", "nitr=1", "--override", "scael=2"]
    assert run([*words, *flags], monkeypatch) == 2
    told = capsys.readouterr().err
    assert "--override: nitr: unknown key" in told and "--override: scael: unknown key" in told


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["temperature", "--heats", "0", "-1"], "--heats: val.heats[1]: expected at least 0"),
        (["temperature", "--heats", "0.5", "--heats", "0.5"], "--heats: val.heats: expected temperatures that differ"),
        (["seeds", "--seeds", "1", "-1"], "--seeds: val.seed: expected at least 0"),
        (["seeds", "--seeds", "1", "1"], "--seeds: expected seeds that differ, got 1 1"),
        (["best-of-n", "--n", "0"], "--n: val.n_sample: expected at least 1"),
    ],
)
def test_mistakes_in_lists_of_a_study(place, monkeypatch, caplog, flags, mistake):
    assert run(["-m", "robustflow.evaluation.study", flags[0], "-opt", "confs/demo.yml", *flags[1:]], monkeypatch) == 2
    assert mistake in caplog.text


def test_a_study_has_a_row_per_temperature_and_explains_bits_below_0(place, monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    run(COMMANDS[-len(FURTHER.strip().splitlines())], monkeypatch)
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows[2:]] == [["test_held_out", "0"], ["test_held_out", "0.5"]]
    assert caplog.text.count("+ 8 for 8-bit values") == 1
