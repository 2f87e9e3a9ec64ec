import pytest

from robustflow.commands import apply, study
from robustflow.commands import evaluate as testing
from robustflow.options import memory_advice
from robustflow.options.load import load
from robustflow.training import engine as training

TEXT = """name: x
model: SRFlow
device: cpu
datasets:
  train: {mode: bundled, split: train, GT_size: 160, batch_size: 16, n_workers: 3}
  val: {mode: bundled, split: test}
  test_a: {mode: bundled, split: test}
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text(TEXT)
    return lambda overrides="": load("x.yml", overrides)


def test_what_is_not_set_is_to_be_set_and_what_is_large_to_be_lowered(make):
    said, of_validation = memory_advice.of_training(make()).split(" In validation (the iteration is saved): ")
    assert said == (
        "Set train.micro_batch (below 16), train.checkpointing: step or level; lower datasets.train.batch_size "
        "(now 16), datasets.train.GT_size (now 160), datasets.train.n_workers (now 3), "
        "network_G.flow.projection_memory (now 1024); or use a smaller network."
    )
    assert (
        of_validation
        == memory_advice.of_sampling(make())
        == (
            "Set val.tile and val.tile_overlap; lower val.sample_batch (now 10), "
            "network_G.flow.projection_memory (now 1024); or use smaller images."
        )
    )


@pytest.mark.parametrize(
    ("overrides", "said", "unsaid"),
    [
        ("train.micro_batch=4", "train.micro_batch (now 4)", ["below", "batch_size"]),
        ("train.micro_batch=1", "checkpointing", ["micro_batch", "batch_size"]),
        ("datasets.train.batch_size=1", "GT_size (now 160)", ["micro_batch", "batch_size"]),
        ("train.checkpointing=step", "train.checkpointing: level;", ["step or"]),
        ("train.checkpointing=level", "micro_batch", ["checkpointing"]),
        ("datasets.train.n_workers=0", "GT_size", ["n_workers"]),
        ("datasets.train.GT_size=8", "n_workers", ["GT_size"]),
        ("network_G.flow.projection_memory=1", "n_workers", ["projection_memory"]),
        ("datasets.val=null", "n_workers", ["validation", "val."]),
    ],
)
def test_training(make, overrides, said, unsaid):
    text = memory_advice.of_training(make(overrides))
    assert said in text
    assert not [words for words in unsaid if words in text]


@pytest.mark.parametrize(
    ("overrides", "said", "unsaid"),
    [
        ("val.tile=64", "Set val.tile_overlap (without it", ["Set val.tile and"]),
        ("val.tile=64", "val.tile (now 64)", []),
        ("val.tile=64|val.tile_overlap=8", "val.tile (now 64), val.tile_overlap (now 8)", ["et val.tile"]),
        ("val.tile=64|val.tile_overlap=0", "val.tile (now 64)", ["val.tile_overlap"]),
        ("val.sample_batch=1", "smaller images", ["sample_batch"]),
        ("val.n_sample=1", "smaller images", ["sample_batch"]),
        ("val.n_sample=3", "sample_batch (now 3)", []),
    ],
)  # fmt: skip
def test_sampling(make, overrides, said, unsaid):
    text = memory_advice.of_sampling(make(overrides))
    assert said in text
    assert not [words for words in unsaid if words in text]


def test_nothing_is_left(make):
    text = memory_advice.of_images(make("network_G.flow.projection_memory=1"))
    assert text == "Use smaller images."


def test_commands_say_what_fits_their_options(make, monkeypatch, caplog):
    def fail(*_arguments, **_more):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    overrides = "val.tile=64|val.tile_overlap=8|train.micro_batch=4|train.checkpointing=level"
    monkeypatch.setattr(training, "prepare", fail)
    monkeypatch.setattr(testing, "evaluate", fail)
    monkeypatch.setattr(apply, "_require_apart", fail)
    image = ["-opt", "x.yml", "--override", overrides, "--input", "x.yml"]
    of_tiles = "val.tile (now 64), val.tile_overlap (now 8)"
    for call, said in (
        (lambda: training.run(make(overrides)), "train.micro_batch (now 4)"),
        (lambda: testing.run(make(overrides), None, None), of_tiles),
        (lambda: study.main(["best-of-n", "-opt", "x.yml", "--override", overrides]), of_tiles),
        (lambda: apply.main(["sample", *image, "--n", "4"]), "val.sample_batch (now 4)"),
        (lambda: apply.main(["encode", *image]), "Lower network_G.flow.projection_memory (now 1024); or use"),
    ):
        caplog.clear()
        assert call() == 1
        assert "too little memory: CUDA out of memory" in caplog.text
        assert said in caplog.text
