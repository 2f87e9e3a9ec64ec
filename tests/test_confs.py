import re

import pytest
import readme
import torch

from robustflow import cli, models
from robustflow.data.bicubic import downsample
from robustflow.options.load import dump, load, load_any
from robustflow.registry import ELEMENTWISE
from robustflow.testing import check_elementwise

ROOT = readme.ROOT
CONFS = sorted((ROOT / "confs").glob("*.yml"))
MINI = sorted(file for file in (ROOT / "confs" / "mini").glob("*.yml") if file.stem not in ("common", "network"))
FULL_SIZE = "path.pretrain_model_G=null|network_G.train_RRDB_delay=0"


@pytest.mark.parametrize("conf", [*CONFS, *MINI], ids=lambda conf: conf.stem)
def test_option_file_is_valid_and_its_resolved_form_runs_again(conf, tmp_path):
    options = load_any(conf)
    assert options.name == conf.relative_to(ROOT / "confs").with_suffix("").as_posix()
    resolved = tmp_path / "options.yml"
    resolved.write_text(dump(options))
    assert load_any(resolved) == options


def test_every_coupling_has_its_experiment():
    for family in ("fsncsr_4x", "fsncsr_8x", "celeba_8x"):
        affine, bounded, spline = (
            load(ROOT / "confs" / f"{family}_{kind}.yml").network_G.flow.coupling.model_dump()
            for kind in ("affine", "bounded", "rq")
        )
        assert affine == {"type": "affine", "eps": 1e-4}
        assert bounded == {"type": "affine", "eps": 0.1}
        assert spline["type"] == "rq_spline"


def test_couplings_are_compared_with_the_same_permutations():
    """Fixed ones at 8x; learned ones, as of published affine weights, go by another name."""
    for family in ("fsncsr_8x", "celeba_8x"):
        for kind in ("affine", "bounded", "rq"):
            assert not load(ROOT / "confs" / f"{family}_{kind}.yml").network_G.flow.permutation_train
        for kind in ("affine", "bounded"):
            fixed, learned = (load(ROOT / "confs" / f"{family}_{kind}{end}.yml") for end in ("", "_learned"))
            assert learned.network_G.flow.permutation_train
            assert learned.network_G.flow.coupling == fixed.network_G.flow.coupling


def test_faces_by_bilinear_downsampling_are_so_everywhere():
    for name in ("rrdb_celeba_8x_bilinear", "srflow_celeba_8x_bilinear"):
        datasets = load(ROOT / "confs" / f"{name}.yml").datasets
        assert {key: dataset.downsampling for key, dataset in datasets.items()} == dict.fromkeys(
            ("train", "val", "test_celeba"), "bilinear"
        )


TRAINED = [conf for conf in (*CONFS, *MINI) if not conf.stem.startswith(("toy2d", "bicubic", "box_4x"))]


def narrow(conf):
    """Options of an experiment whose network is as small as its kind may be."""
    small = (
        "network_G.nf=4|network_G.nb=1|network_G.gc=2|network_G.flow.K=1|network_G.flow.hidden_channels=4|device=cpu"
    )
    small += "|network_G.flow.stackRRDB.blocks=[0]|" + FULL_SIZE
    noisy = load(conf).network_G.flow.S
    return load(conf, f"{small}|network_G.flow.S={[min(1, n) for n in noisy]}")


@pytest.mark.parametrize("conf", TRAINED, ids=lambda conf: conf.stem)
def test_a_narrow_network_takes_a_step(conf):
    options = narrow(conf)
    model = models.build(options)
    gt = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lr = 0.1 * gt if options.scale == 1 else downsample(gt, options.scale, options.datasets["train"].downsampling)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), options.train.lr_G)
    loss = model.loss(gt, model.condition_of(lr), torch.Generator().manual_seed(0))
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) > 20
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# 41.7 M and 46.6 M are published; 0.6-0.8 M of them are parameters that the published network never uses.
@pytest.mark.parametrize(("name", "published"), [("fsncsr_4x_affine", 41.7e6), ("fsncsr_4x_rq", 46.6e6)])
def test_full_size_parameter_count(name, published):
    options = load(ROOT / "confs" / f"{name}.yml")
    with torch.device("meta"):
        network = models.build(options)
    dead = published - sum(parameter.numel() for parameter in network.parameters())
    assert 0.5e6 < dead < 0.9e6


def test_full_size_network_trains_and_samples():
    options = load(ROOT / "confs" / "fsncsr_4x_rq.yml", FULL_SIZE)
    model = models.build(options)
    gt, lr = torch.rand(1, 3, 80, 80), torch.rand(1, 3, 20, 20)
    optimizer = torch.optim.Adam(model.parameters(), options.train.lr_G)
    losses = []
    for _ in range(2):
        loss = model.loss(gt, lr, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        sample = model.eval().prepare(lr)(0.9, [torch.Generator().manual_seed(0)])
    assert sample.shape == (1, 3, 80, 80)
    assert sample.isfinite().all()


DOCUMENTED = [words for words in readme.commands() if words[0] not in ("pip", "source")]


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_documented_command_is_valid(words):
    if words[0] == "torchrun":
        words = words[next(i for i, word in enumerate(words) if word.endswith(".py")) - 1 :]
    program, rest = words[1], words[2:]
    if words[0] == "bash":
        assert program == "examples.sh"
        names = {conf.stem for conf in (*CONFS, *(ROOT / "confs" / "recipes").glob("*.yml"))}
        cases = re.findall(r"^    ([\w |]+)\) ", (ROOT / "examples.sh").read_text(), re.MULTILINE)
        assert rest[0] in names | set(re.findall(r"\w+", " ".join(cases))) and (rest[0] != "study" or rest[2] in names)
        return
    known = {*cli.COMMANDS, "--help"}
    assert program in known if words[0] == "robustflow" else program == "-m" or (ROOT / program).is_file()
    if "-opt" in rest and "published.yml" not in rest:
        override = rest[rest.index("--override") + 1] if "--override" in rest else None
        load_any(ROOT / rest[rest.index("-opt") + 1], override)


def test_documented_coupling_keeps_the_contract(tmp_path, monkeypatch):
    code = next(block for block in readme.EXTENDING.split("```python\n")[1:] if block.startswith("# my_maps.py")).split(
        "```"
    )[0]
    (tmp_path / "my_maps.py").write_text(code)
    (tmp_path / "run.yml").write_text(
        "name: run\nmodel: SRFlow\nplugins: [my_maps]\nnetwork_G: {flow: {coupling: {type: shift, limit: 0.5}}}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    coupling = load(tmp_path / "run.yml").network_G.flow.coupling
    check_elementwise(ELEMENTWISE.build(coupling))
