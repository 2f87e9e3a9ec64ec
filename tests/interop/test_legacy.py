"""Option files written for the published code."""

import logging
import re

import pytest
import yaml

from robustflow.interop import option_files
from robustflow.options.load import OptionsError, dump, load
from robustflow.utils.yaml_tree import node_of, plain

NCSR = """
name: train_4x
use_tb_logger: true
model: NCSR
distortion: sr
scale: 4
divide_freq: true
gpu_ids: [0]
std: 0.04
mode: softflow
LRnoise: true
prob: 1.0
lr: 5e-6
datasets:
  train:
    name: DF2K_tr
    mode: LRHR_IMG
    dataroot_GT: datasets/DF2K-tr
    quant: 32
    use_shuffle: true
    n_workers: 4
    batch_size: 4
    GT_size: 160
    use_flip: true
    use_rot: true
    color: RGB
  val:
    name: DIV2K_va
    mode: LRHR_IMG
    dataroot_GT: datasets/DIV2K-va
    GT_size: 160
    quant: 32
    n_max: 20
    n_workers: 1
model_path: ./experiments/train_4x/models/latest_G.pth
network_G:
  which_model_G: NCSRNet
  in_nc: 3
  out_nc: 3
  nf: 64
  nb: 23
  upscale: 4
  train_RRDB: false
  train_RRDB_delay: 0.5
  flow:
    K: 16
    L: 3
    S: [0, 16, 16]
    noInitialInj: true
    std_channels: 3
    coupling: COUPLING
    additionalFlowNoAffine: 2
    split: {enable: true}
    fea_up0: true
    stackRRDB: {blocks: [1, 8, 15, 22], concat: true}
path:
  pretrain_model_G: ./pretrained_weights/RRDB_DF2K_4X.pth
  strict_load: true
  resume_state: auto
train:
  manual_seed: 10
  lr_G: 2e-4
  weight_decay_G: 0
  beta1: 0.9
  beta2: 0.99
  lr_scheme: MultiStepLR
  warmup_iter: -1
  lr_steps_rel: [0.5, 0.75, 0.9, 0.95]
  lr_gamma: 0.5
  weight_l1: 0
  niter: 180000
  val_freq: 10000
val:
  heats: [0.9]
  n_sample: 1
logger:
  print_freq: 100
  save_checkpoint_freq: 1e3
"""
AFFINE = "CondAffineSeparatedAndCond\n    CondAffineSeparatedAndCond: {eps: 0.1, hidden_channels: 48}"
SPLINE = "CondRQsplineSeparatedAndCond\n    CondAffineSeparatedAndCond: {eps: 1e-4, hidden_channels: 48}"


@pytest.fixture
def published(tmp_path):
    def write(coupling=AFFINE, more=""):
        (tmp_path / "x.yml").write_text(NCSR.replace("COUPLING", coupling) + more)
        return tmp_path / "x.yml"

    return write


def test_keys_are_translated(published):
    options = load(published())
    assert options.model.model_dump() == {"noise_max": 0.04, "type": "FS-NCSR"}
    assert options.network_G.flow.coupling.model_dump() == {"type": "affine", "eps": 0.1}
    assert options.network_G.flow.hidden_channels == 48
    assert options.network_G.flow.S == (0, 16, 16)
    assert options.network_G.flow.stackRRDB.blocks == (1, 8, 15, 22)
    assert options.path.model_path == "./experiments/train_4x/models/latest_G.pth"
    assert options.path.pretrain_model_G == "./pretrained_weights/RRDB_DF2K_4X.pth"
    assert (options.train.warmup_iter, options.logger.save_checkpoint_freq) == (0, 1000)
    assert options.datasets["train"].mode == "LRHR_IMG"
    assert options.datasets["val"].n_crops == 20


def test_resolved_options_run_again(published, tmp_path):
    options = load(published())
    (tmp_path / "resolved.yml").write_text(dump(options))
    assert load(tmp_path / "resolved.yml") == options


@pytest.mark.parametrize(
    ("own", "bounds"),
    [
        ("", (-0.5, 0.5)),
        ("\n    CondRQsplineSeparatedAndCond: {left: -1.0, righ: 0.75}", (-1.0, 0.75)),
        ("\n    CondRQsplineSeparatedAndCond: {bottom: -0.25, top: 0.25}", (-0.25, 0.25)),
    ],
)
def test_spline(published, own, bounds):
    flow = load(published(SPLINE + own)).network_G.flow
    assert flow.coupling.model_dump() == {"type": "rq_spline", "bounds": bounds, "eps": 1e-3}
    assert flow.hidden_channels == 48


def test_inverse_affine(published):
    name = "CondAffineReparamSeparatedAndCond"
    flow = load(published(f"{name}\n    {name}: {{eps: 0.01, hidden_channels: 48}}")).network_G.flow
    assert (flow.coupling.model_dump(), flow.hidden_channels) == ({"type": "inverse_affine", "eps": 0.01}, 48)


def test_box_that_is_no_bijection(published):
    path = published(SPLINE + "\n    CondRQsplineSeparatedAndCond: {left: -0.5, right: 0.5, bottom: -1.0, top: 0.5}")
    with pytest.raises(OptionsError, match=r"left and bottom to be equal, got -0\.5 and -1\.0"):
        load(path)


def test_table_says_what_became_of_each_key(published, caplog):
    with caplog.at_level(logging.INFO):
        load(published())
    for key in ("lr", "prob", "network_G.upscale", "network_G.flow.noInitialInj", "datasets.*.quant", "train.beta2"):
        line = next(line for line in caplog.text.splitlines() if line.split("  ")[0] == key)
        assert "no effect in the published code" in line
    assert "val.n_workers" in caplog.text


def test_as_published(published):
    options = load(published(more="as_published: true\n"))
    assert (options.train.beta1, options.train.beta2) == (0.9, 0.999)
    assert options.network_G.train_RRDB
    assert options.network_G.train_RRDB_delay == 0
    assert options.val.quantize == "floor"
    assert load(published()).train.beta2 == 0.99


def test_as_published_yields_to_the_command_line(published):
    options = load(published(), "as_published=true|train.beta2=0.9|val.quantize=round")
    assert (options.train.beta2, options.val.quantize) == (0.9, "round")
    assert options.network_G.train_RRDB_delay == 0


def test_as_published_srflow_trains_without_noise(tmp_path):
    (tmp_path / "x.yml").write_text("name: x\nmodel: SRFlow\nas_published: true")
    assert load(tmp_path / "x.yml").model.noise_std == 0
    assert load(tmp_path / "x.yml", "as_published=false").model.noise_std > 0


def test_as_published_is_true_or_false(tmp_path):
    (tmp_path / "x.yml").write_text("name: x\nmodel: SRFlow\nas_published: perhaps")
    with pytest.raises(OptionsError, match=r"x\.yml:3: as_published: expected true or false, got 'perhaps'"):
        load(tmp_path / "x.yml")


def test_mistakes_keep_their_place(published):
    path = published(more="trian: {niter: 3}\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(OptionsError, match=rf"x\.yml:{line}: trian: unknown key; did you mean 'train'"):
        load(path)


def test_loss_that_is_not_supported(published):
    path = published()
    path.write_text(path.read_text().replace("weight_l1: 0", "weight_l1: 0.5"))
    with pytest.raises(
        OptionsError, match=r"train\.weight_l1: expected 0: flows learn by likelihood alone; .* got 0\.5"
    ):
        load(path)


def test_folders_at_the_top_are_a_test_set(published):
    options = load(published(more="dataroot_GT: hr\ndataroot_LR: lr\nheat: 0.8\n"))
    assert options.datasets["test"].dataroot_LQ == "lr"
    assert options.val.heats == (0.8,)


LLFLOW = """
name: low
model: LLFlow
distortion: sr
scale: 1
dataset: LoL
optimize_all_z: false
cond_encoder: ConEncoder1
train_gt_ratio: 0.2
avg_color_map: false
concat_histeq: true
histeq_as_input: false
concat_color_map: false
gray_map: false
align_condition_feature: false
align_weight: 0.001
align_maxpool: true
to_yuv: false
encode_color_map: false
le_curve: false
datasets: {DATASETS}
dataroot_unpaired: /photos
heat: 0
network_G:
  which_model_G: LLFlow
  in_nc: 3
  out_nc: 3
  nf: 32
  nb: 4
  train_RRDB: false
  train_RRDB_delay: 0.5
  flow:
    K: 4
    L: 3
    noInitialInj: true
    coupling: COUPLING
    additionalFlowNoAffine: 2
    conditionInFeaDim: 64
    split: {enable: false}
    fea_up0: true
    stackRRDB: {blocks: [1], concat: true}
path: {strict_load: true, resume_state: auto}
train:
  lr_G: 5e-4
  beta1: 0.9
  beta2: 0.99
  warmup_iter: -1
  lr_steps_rel: [0.5, 0.75, 0.9, 0.95]
  lr_gamma: 0.5
  weight_l1: 0
  weight_fl: 1
  niter: 45000
val: {n_sample: 4}
test: {heats: [0.0, 0.7]}
"""
LOL = """
  train:
    root: LOLdataset
    quant: 32
    use_shuffle: true
    n_workers: 1
    batch_size: 16
    use_flip: true
    color: RGB
    use_crop: true
    GT_size: 160
    noise_prob: 0
    noise_level: 5
    log_low: true
    gamma_aug: false
  val:
    root: LOLdataset
    n_workers: 1
    quant: 32
    n_max: 20
    batch_size: 1
    log_low: true
"""


@pytest.fixture
def low_light(tmp_path):
    def write(coupling=AFFINE, **replaced):
        text = LLFLOW.replace("{DATASETS}", "{}").replace("COUPLING", coupling)
        for key, value in replaced.items():
            text = re.sub(rf"\b{key}: .*", f"{key}: {value}", text)
        (tmp_path / "low.yml").write_text(text)
        return tmp_path / "low.yml"

    return write


@pytest.mark.parametrize(("coupling", "kind"), [(AFFINE, "affine"), (SPLINE, "rq_spline")])
def test_llflow(low_light, coupling, kind, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        options = load(low_light(coupling))
    network = options.network_G
    assert options.model.model_dump() == {"type": "LLFlow", "train_gt_ratio": 0.2}
    assert options.val.protocol == "llflow"
    assert (options.scale, network.encoder.type, network.flow.coupling.type) == (1, "low_light", kind)
    assert (network.nf, network.nb, network.flow.K, network.flow.n_splits) == (32, 4, 4, 0)
    assert network.flow.stackRRDB.blocks == (1,)
    # No pretrained encoder exists that could stay frozen.
    assert (network.train_RRDB, network.train_RRDB_delay) == (True, 0)
    assert options.val.heats == (0,)
    for key in (
        "to_yuv: false",
        "concat_histeq: true",
        "train.weight_fl: 1",
        "align_weight",
        "test.heats",
        "train_gt_ratio",
    ):
        assert any(line.split("  ")[0] == key for line in caplog.text.splitlines()), key
    (tmp_path / "resolved.yml").write_text(dump(options))
    assert load(tmp_path / "resolved.yml") == options


def test_llflow_data_sets():
    values = plain(option_files.translate(node_of(yaml.safe_load(LLFLOW.replace("{DATASETS}", LOL)), "x.yml"))[0])
    shared = {"mode": "LoL", "root": "LOLdataset"}
    train = {**shared, "split": "train", "n_workers": 1, "batch_size": 16, "use_flip": True, "GT_size": 160}
    assert values["datasets"] == {"train": train, "val": {**shared, "split": "test"}}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("to_yuv", "true", "false"), ("concat_histeq", "false", "true"), ("cond_encoder", "NoEncoder", "'ConEncoder1'")],
)
def test_llflow_variants_that_are_not_built(low_light, key, value, expected):
    with pytest.raises(OptionsError, match=rf"low\.yml:\d+: {key}: expected {expected}, the only value supported, got"):
        load(low_light(**{key: value}))


def test_llflow_switches_are_unknown_to_other_models(published):
    with pytest.raises(OptionsError, match="to_yuv: unknown key"):
        load(published(more="to_yuv: false\n"))
