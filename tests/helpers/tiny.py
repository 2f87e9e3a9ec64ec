"""Options of tiny models, and the models: one set for all tests."""

import torch

from robustflow import models
from robustflow.options.schema import FlowOptions, NetworkOptions, RunOptions


def merged(values, changes):
    """The values with changes, key by key where both are mappings."""
    both = {
        key: merged(values[key], changes[key])
        for key in values.keys() & changes.keys()
        if _mappings(values, changes, key)
    }
    return {**values, **changes, **both}


def _mappings(values, changes, key):
    return isinstance(values[key], dict) and isinstance(changes[key], dict)


def kind_of(model):
    return model if isinstance(model, str) else model["type"]


def options(model="FS-NCSR", **changes):
    """Options of a tiny model; changes are sections, and keys of network_G and of its flow: train={...}, K=2, nf=4."""
    is_low_light = kind_of(model) == "LLFlow"
    n_levels = changes.get("L", 2)
    noisy = (0, *[1] * (n_levels - 1)) if "NCSR" in kind_of(model) else (0,)
    flow = {"K": 1, "L": n_levels, "S": noisy, "hidden_channels": 8}
    network = {"encoder": "low_light" if is_low_light else "RRDB", "nf": 8, "nb": 1, "gc": 4}
    values = {"name": "tiny", "model": model, "scale": 1 if is_low_light else 4, "device": "cpu"}
    if is_low_light:
        flow["split"], values["val"] = {"enable": False}, {"protocol": "llflow"}
    of_flow = {key: changes.pop(key) for key in FlowOptions.model_fields if key in changes}
    of_network = {key: changes.pop(key) for key in NetworkOptions.model_fields if key in changes}
    network = {**network, **of_network, "flow": {**flow, **of_flow}}
    return RunOptions.model_validate(merged({**values, "network_G": network}, changes))


def crops(model="FS-NCSR", **changes):
    """A data set: small crops of the bundled photographs."""
    mode = "bundled_low_light" if kind_of(model) == "LLFlow" else "bundled"
    return {"mode": mode, "GT_size": 16, **changes}


def places(folder):
    """Where runs and results go."""
    return {"experiments": str(folder / "experiments"), "results": str(folder / "results")}


def training_options(folder, name="tiny", model="FS-NCSR", *, datasets=None, n_crops=2, **changes):
    """Options of a tiny training run in a folder; changes as those of `options`, and some of the training crops."""
    training = {"split": "train", "batch_size": 2, "n_workers": 0, "use_flip": True, "use_rot": True}
    training |= {key: changes.pop(key) for key in ("batch_size", "n_workers", "hr_shift") if key in changes}
    sets = {"train": crops(model, **training), "val": crops(model, split="test", n_crops=n_crops)}
    sections = {
        "path": places(folder),
        "train": {"niter": 6, "val_freq": 3, "lr_G": 1e-3, "max_grad_norm": 10.0, "ood_patches": 0},
        "val": {"n_sample": 2},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 3},
    }
    return options(model, name=name, datasets=sets if datasets is None else datasets, **merged(sections, changes))


def evaluation_options(folder, model="FS-NCSR", *, datasets=None, **val):
    """Options of a tiny model, tested on two crops of the bundled photographs, clean and noisy; keywords are of val."""
    clean = crops(model, split="test", n_crops=2)
    sets = {"test_clean": clean, "test_noisy": {**clean, "name": "noise 0.2", "lr_noise": 0.2}}
    sections = {"path": places(folder), "val": {"heats": (0.0, 0.9), "n_sample": 2, **val}}
    return options(model, datasets=sets if datasets is None else datasets, **sections)


def built(run, std):
    """Model of options at no special point: in eval mode, all parameters moved by noise, the same each time."""
    torch.manual_seed(0)
    model = models.build(run).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape)
    return model
