"""Kinds of published option files beside NCSR's and LLFlow's; made here, of their keys."""

import logging

import pytest

from robustflow.options.load import OptionsError, dump, load

SRFLOW_8X = """
name: a
model: SRFlow
scale: 8
network_G: {which_model_G: SRFlowNet, nf: 8, nb: 1, flow: {K: 1, L: 4, coupling: CondAffineSeparatedAndCond}}
val: {heats: [0.0, 0.5], n_sample: 3}
test: {heats: [0.0, 0.7]}
"""
RRDB = """
name: b
model: SR
scale: 4
datasets:
  train: {mode: LRHR_PKL, dataroot_GT: x.pklv4, dataroot_LQ: y.pklv4, GT_size: 160}
network_G: {which_model_G: RRDBNet, use_orig: True, in_nc: 3, out_nc: 3, nf: 8, nb: 1}
train:
  lr_G: !!float 2e-4
  lr_scheme: CosineAnnealingLR_Restart
  T_period: [10, 10]
  restarts: [10]
  restart_weights: [1]
  eta_min: !!float 1e-7
  beta2: 0.99
  pixel_criterion: l1
  pixel_weight: 1.0
  niter: 20
"""
LOL_V2 = """
name: c
model: LLFlow
scale: 1
dataset: LoL_v2
datasets: {train: {root: LOLv2, GT_size: 32}, val: {root: LOLv2}}
network_G:
  which_model_G: LLFlow
  nf: 8
  nb: 1
  flow: {K: 1, L: 3, coupling: CondAffineSeparatedAndCond, split: {enable: false}}
"""


@pytest.fixture
def read(write, caplog):
    """Load an option file with lines exchanged; return the options and what was said of each key."""

    def reading(text, **exchanged):
        for old, new in exchanged.items():
            (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{old}:")]
            text = text.replace(line, new and f"  {new}")
        with caplog.at_level(logging.INFO):
            options = load(write(text, complete=False))
        assert load(write(dump(options), "resolved.yml", complete=False)) == options
        return options, dict(line.split("  ", 1) for line in caplog.text.splitlines() if "  " in line)

    return reading


def test_a_block_of_tests_is_left_out_with_a_note(read):
    options, notes = read(SRFLOW_8X)
    assert (options.val.heats, options.val.n_sample) == ((0.0, 0.5), 3)
    assert notes["test.heats"].strip() == "val.heats counts"


def test_other_keys_of_that_block_are_unknown(write):
    with pytest.raises(OptionsError, match="test: unknown key"):
        load(write(SRFLOW_8X.replace("test: {heats: [0.0, 0.7]}", "test: {heat: 3}"), complete=False))


def test_the_encoder_alone(read):
    options, notes = read(RRDB)
    assert options.model.model_dump() == {"type": "RRDB", "pixel_criterion": "l1", "residual": None}
    o = options.train
    assert (o.lr_scheme, o.T_period, o.restart_weights) == ("CosineAnnealingRestartLR", (10, 10), (1.0, 1.0))
    assert (o.lr_G, o.eta_min, o.beta2, o.niter) == (2e-4, 1e-7, 0.99, 20)
    told = ("train.lr_scheme", "train.restarts", "train.restart_weights", "train.pixel_weight", "network_G.use_orig")
    assert all(key in notes for key in told)
    # The published code obeys the betas here.
    assert "train.beta2" not in notes


@pytest.mark.parametrize("name", ["sr", "RRDB"])
def test_other_names_of_the_encoder_alone(read, name):
    options, _ = read(RRDB.replace("model: SR", f"model: {name}"), pixel_criterion="pixel_criterion: l2")
    assert options.model.model_dump() == {"type": "RRDB", "pixel_criterion": "l2", "residual": None}


@pytest.mark.parametrize("weights", ["weight_l1: 0", "weight_l1: 1.0", "weight_fl: 0"])
def test_weights_of_the_only_loss_of_the_encoder(read, weights):
    assert read(RRDB, pixel_weight=weights)[0].model.type == "RRDB"


@pytest.mark.parametrize(
    ("key", "line", "message"),
    [
        (
            "restarts",
            "restarts: [5]",
            r"train\.restarts: expected the ends of the periods in T_period, \[10\], got \[5\]",
        ),
        (
            "restart_weights",
            "restart_weights: [1, 1, 1]",
            r"train\.restart_weights: expected one for each of 2 periods",
        ),
        ("pixel_criterion", "pixel_criterion: cb", r"model\.pixel_criterion: expected 'l1' or 'l2', got 'cb'"),
        ("pixel_weight", "pixel_weight: 0", r"train\.pixel_weight: expected a weight above 0 of the only loss, got 0"),
        ("lr_scheme", "lr_scheme: StepLR", r"train\.lr_scheme: expected .*, got 'StepLR'"),
        ("T_period", "T_period: often", r"train\.T_period: expected a list, got 'often'"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_place(read, key, line, message):
    with pytest.raises(OptionsError, match=rf"run\.yml:\d+: {message}"):
        read(RRDB, **{key: line})


def test_steps_in_iterations(read):
    steps = RRDB.replace("CosineAnnealingLR_Restart", "MultiStepLR").replace(
        "T_period: [10, 10]", "lr_steps: [5, 10, 30]"
    )
    options, notes = read(steps, restarts="lr_gamma: 0.5", restart_weights="warmup_iter: -1", eta_min="")
    assert (options.train.lr_scheme, options.train.lr_steps_rel) == ("MultiStepLR", (0.25, 0.5))
    assert notes["train.lr_steps"].strip() == "lr_steps_rel, as fractions of niter"


def test_steps_beside_cosine_periods_have_no_effect(read):
    options, notes = read(RRDB, pixel_weight="lr_steps: [5]")
    assert options.train.lr_scheme == "CosineAnnealingRestartLR"
    assert notes["train.lr_steps"].strip() == "no effect in this scheme"


@pytest.mark.parametrize("value", ["0", "1", "null"])
def test_the_likelihood_has_weight_one(read, value):
    assert read(SRFLOW_8X + f"train: {{weight_fl: {value}, weight_l1: 0}}\n")[0].model.type == "SRFlow"


@pytest.mark.parametrize("key", ["weight_l1: 0.5", "weight_fl: 2", "weight_decay_G: 1e-4", "weight_l1: true"])
def test_losses_that_are_not_built_are_refused_with_the_reason(write, key):
    name = key.partition(":")[0]
    with pytest.raises(OptionsError, match=rf"run\.yml:\d+: train\.{name}: expected 0.*: .*, got "):
        load(write(SRFLOW_8X + f"train: {{{key}}}\n", complete=False))


def test_lol_v2_is_both_subsets(read):
    options, _ = read(LOL_V2)
    assert [(d.mode, d.subset, d.split) for d in options.datasets.values()] == [
        ("LoL_v2", None, "train"),
        ("LoL_v2", None, "test"),
    ]
