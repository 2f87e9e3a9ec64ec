"""Several processes compute what one does. Most are forked here, which is quick; one run is started by torchrun."""

import json
import os
import re
import runpy
import shutil
import signal
import sys
from pathlib import Path

import pytest
import tiny
import torch
from several import ROOT, forked, in_group, torchrun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robustflow import models
from robustflow.commands import evaluate as evaluation
from robustflow.data import TrainingCrops
from robustflow.data.images import write_png
from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import FlowModel, weights
from robustflow.options.load import load, save
from robustflow.training import checkpoint, engine
from robustflow.training.failures import dump, guard
from robustflow.training.loop import crop_numbers, train
from robustflow.utils import distributed
from robustflow.utils.errors import UserError

pytestmark = pytest.mark.forks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def make_options(folder):
    """Make the options of a tiny run."""
    # Adam's first steps are as long where a gradient is nothing but rounding, as that of ActNorm's bias once it is
    # initialised: short ones keep runs comparable.
    settings = {"niter": 10, "val_freq": 5, "lr_G": 1e-5, "max_grad_norm": 0.5, "ood_patches": 10}
    defaults = {"train": settings, "logger": {"save_checkpoint_freq": 5}, "batch_size": 4, "n_crops": 3}

    def make(name, model="FS-NCSR", **changes):
        return tiny.training_options(folder, name, model, **tiny.merged(defaults, changes))

    return make


def scalars(options, name="train/bits_per_dim"):
    events = EventAccumulator(str(folder_of(options) / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def folder_of(options):
    return Path(options.path.experiments) / options.name


def weights_at(options, iteration):
    return weights.read(checkpoint.weights_file(folder_of(options), iteration))[0]


# Training


def assert_same_losses(options, others):
    losses, other_losses = scalars(options), scalars(others)
    assert list(losses) == list(other_losses) == list(range(1, options.train.niter + 1))
    assert list(losses.values()) == pytest.approx(list(other_losses.values()), abs=1e-6)


def test_two_processes_train_as_one(make_options):
    one, two = make_options("one"), make_options("two")
    assert train(one)
    done = torchrun("train.py", two)
    assert done.returncode == 0, done.stderr

    assert_same_losses(two, one)
    norms, other_norms = scalars(two, "train/grad_norm"), scalars(one, "train/grad_norm")
    assert list(norms.values()) == pytest.approx(list(other_norms.values()), rel=1e-4)
    for name, tensor in weights_at(one, 10).items():
        torch.testing.assert_close(weights_at(two, 10)[name], tensor, rtol=1e-3, atol=2e-5)
    validations, others = scalars(two, "val/bits_per_dim"), scalars(one, "val/bits_per_dim")
    assert list(validations) == [5, 10]
    assert validations == pytest.approx(others, abs=1e-5)
    # Written once.
    kinds = [
        {str(file.relative_to(folder_of(o))) for file in folder_of(o).rglob("*") if "events" not in file.name}
        for o in (one, two)
    ]
    assert kinds[0] == kinds[1]
    assert len(list((folder_of(two) / "tensorboard").iterdir())) == 1
    for text in (done.stderr, (folder_of(two) / "train.log").read_text()):
        assert [int(number) for number in re.findall(r"iteration (\d+)/10: ", text)] == list(range(1, 11))
        assert text.count("iteration 10: val") == 1


@pytest.fixture(scope="module")
def pretrained(make_options, folder):
    options = make_options("encoder", "RRDB", train={"niter": 1, "ood_patches": 0})
    torch.manual_seed(0)
    model = models.build(options)
    weights.save(folder / "encoder_G.safetensors", model, options, 1)
    return str(folder / "encoder_G.safetensors")


def delayed(make_options, pretrained, name, **path):
    """An encoder that learns from iteration 6 on, shifts, batches in pieces, loader processes, no validation."""
    return make_options(
        name,
        n_workers=1,
        hr_shift=4,
        network_G={"train_RRDB_delay": 0.5},
        path={"pretrain_model_G": pretrained, **path},
        train={"micro_batch": 1, "val_freq": 100, "ood_patches": 0},
    )


def interrupt_second_process(monkeypatch, in_iteration):
    """Send SIGTERM to the second of several processes, once, in the middle of an iteration."""
    loss, calls = FlowModel.data_loss, []

    def interrupting(*arguments):
        calls.append(torch.is_grad_enabled())
        if distributed.rank() == 1 and sum(calls) == 2 * in_iteration:
            signal.raise_signal(signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(FlowModel, "data_loss", interrupting)


def test_an_interrupted_run_goes_on_with_any_number_of_processes(make_options, pretrained, monkeypatch):
    one, whole = (delayed(make_options, pretrained, name) for name in ("delayed_one", "delayed_two"))
    assert train(one)
    assert forked(in_group(lambda: train(whole))) == [True, True]
    assert_same_losses(whole, one)

    parts = delayed(make_options, pretrained, "delayed_parts")
    with monkeypatch.context() as patch:
        interrupt_second_process(patch, in_iteration=4)
        assert forked(lambda: engine.run(parts)) == [130, 130]
    assert [file.stem for file in (folder_of(parts) / "training_state").iterdir()] == ["00000004"]
    assert (folder_of(parts) / "train.log").read_text().count("interrupted: saved iteration 4") == 1
    shutil.copytree(folder_of(parts), folder_of(parts).with_name("delayed_mixed"))

    resumed = delayed(make_options, pretrained, "delayed_parts", resume_state="auto")
    assert forked(in_group(lambda: train(resumed))) == [True, True]
    assert_same_losses(resumed, one)
    end = weights_at(whole, 10)
    for name, tensor in weights_at(resumed, 10).items():
        assert torch.equal(tensor, end[name]), name

    mixed = delayed(make_options, pretrained, "delayed_mixed", resume_state="auto")
    assert train(mixed)
    assert_same_losses(mixed, one)


def test_a_validation_is_broken_off_in_all_processes(make_options, monkeypatch):
    def options_of(name, **path):
        return make_options(name, n_crops=5, train={"niter": 2, "val_freq": 1, "ood_patches": 0}, path=path)

    whole, parts = options_of("validated"), options_of("broken_off")
    assert forked(in_group(lambda: train(whole))) == [True, True]
    evaluate = Evaluator._evaluate_image
    with monkeypatch.context() as patch:
        patch.setattr(
            Evaluator, "_evaluate_image", lambda *given: (signal.raise_signal(signal.SIGTERM), evaluate(*given))[1]
        )
        assert forked(lambda: engine.run(parts)) == [130, 130]
    assert "iteration 1: val" not in (folder_of(parts) / "train.log").read_text()
    resumed = options_of("broken_off", resume_state="auto")
    assert forked(in_group(lambda: train(resumed))) == [True, True]
    assert scalars(resumed, "val/bits_per_dim") == scalars(whole, "val/bits_per_dim")


def test_three_processes_train_a_model_that_draws_no_level(make_options):
    one, three = (
        make_options(name, "SRFlow", batch_size=6, train={"niter": 3, "lr_G": 1e-7}) for name in ("noise_1", "noise_3")
    )
    assert train(one)
    assert forked(in_group(lambda: train(three)), 3) == [True] * 3
    assert_same_losses(three, one)


def test_low_light_trains_as_one_with_a_prior_mean_per_batch(make_options, folder):
    def low_light(name):
        return make_options(name, {"type": "LLFlow", "train_gt_ratio": 0.5}, L=3, train={"niter": 5})

    one, two = low_light("low_1"), low_light("low_2")
    assert train(one)
    assert forked(in_group(lambda: train(two))) == [True] * 2
    # Dark crops have likelihoods of tens of bits, and as large errors.
    for name in ("train/bits_per_dim", "val/bits_per_dim"):
        assert scalars(two, name) == pytest.approx(scalars(one, name), rel=1e-5)


def acting_alike(self, *event, act=guard.NonFiniteGuard._act):
    """Act, and compare the weights with which the processes go on."""
    act(self, *event)
    weights_there = distributed.gather([parameter.detach().clone() for parameter in self._run.model.parameters()])
    assert all(map(torch.equal, weights_there[0], weights_there[-1]))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("policy", "iteration"), [("rollback", 4), ("rollback", 5), ("skip", 1), ("skip", 3)])
def test_a_fault_in_one_process_is_answered_by_all(make_options, monkeypatch, policy, iteration, late):
    crop, assemble = TrainingCrops.crop, TrainingCrops.assemble

    def marked(self, number):
        # The last crop of the iteration, the second process's.
        return {**crop(self, number), "spoilt": torch.tensor(number == 4 * iteration - 1)}

    def spoiled(self, batch, device):
        gt, lr = assemble(self, batch, device)
        return (gt * float("nan") if any(bool(crops["spoilt"].any()) for crops in batch) else gt), lr

    monkeypatch.setattr(TrainingCrops, "crop", marked)
    monkeypatch.setattr(TrainingCrops, "assemble", spoiled)
    monkeypatch.setattr(guard.NonFiniteGuard, "_act", acting_alike)
    settings = {
        "train": {"niter": 6, "val_freq": 6, "ood_patches": 0, "non_finite": policy, "ema": 0.9, "lr_G": 1e-7},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
        "n_crops": 1,
    }
    one, two = (make_options(f"{policy}_{iteration}_{n}", **settings) for n in ("one", f"two_{late}"))
    # Alone, a run ends the same whether it settles late or not: tests/training/test_late_settling.py.
    assert folder_of(one).exists() or train(one)
    monkeypatch.setattr(guard, "settles_later", lambda device: late)
    assert forked(in_group(lambda: train(two))) == [True] * 2
    for file in (checkpoint.weights_file, checkpoint.ema_file):
        ours, theirs = (weights.read(file(folder_of(options), 6))[0] for options in (one, two))
        for name, tensor in ours.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    states = [torch.load(checkpoint.state_file(folder_of(options), 6), weights_only=True) for options in (one, two)]
    assert [state["non_finite"] for state in states] == [1, 1]
    rollback = (iteration, 4 if iteration > 4 else 2) if policy == "rollback" else None
    assert [state["rollback"] for state in states] == [rollback] * 2
    dumped = folder_of(two) / "non_finite" / f"{iteration:08d}.safetensors"
    assert len(dump.read(dumped).step.gt) == 4


def test_an_image_that_one_process_cannot_read_ends_all_and_what_is_learnt_is_saved(make_options, monkeypatch, capfd):
    read = TrainingCrops.crop

    def unreadable(self, number):
        # The last crop of iteration 3, the second process's.
        if number == 11:
            raise UserError("crop 11: damaged")
        return read(self, number)

    monkeypatch.setattr(TrainingCrops, "crop", unreadable)
    options = make_options("unreadable")
    statuses = forked(lambda: engine.run(options))
    assert len(set(statuses)) == 1
    assert statuses[0] in (1, 2), statuses
    assert weights_at(options, 2)
    stderr = capfd.readouterr().err
    assert stderr.count("error: crop 11: damaged\n  Saved iteration 2; go on with --resume auto.") == 1
    assert "Traceback" not in stderr
    assert stderr.count("damaged") == 1


def test_what_is_learnt_is_saved_when_another_process_dies(make_options, monkeypatch, capfd):
    read = TrainingCrops.crop

    def dying(self, number):
        if number == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, number)

    monkeypatch.setattr(TrainingCrops, "crop", dying)
    options = make_options("dying")
    assert forked(lambda: engine.run(options), dying=(1,)) == [1]
    assert weights_at(options, 2)
    stderr = capfd.readouterr().err
    assert stderr.count("saved iteration 2; go on with --resume auto\nerror: another process of this run ended or") == 1
    assert "Traceback" not in stderr


def test_a_batch_that_cannot_be_divided(make_options, capfd):
    options = make_options("odd", batch_size=5)
    statuses = forked(lambda: engine.run(options))
    assert len(set(statuses)) == 1
    assert statuses[0] in (1, 2), statuses
    assert capfd.readouterr().err.count("batch_size: expected a multiple of the 2 processes") == 1
    assert not folder_of(options).exists()


@pytest.mark.parametrize("model", ["SRFlow", "NCSR", "FS-NCSR", "RRDB"])
def test_noise_of_the_images_after_those_skipped(make_options, model):
    options = make_options("noise", "RRDB" if model == "RRDB" else model)
    built = models.build(options)
    images = torch.Generator().manual_seed(0)
    gt, lr = (torch.rand(5, 3, side, side, generator=images) for side in (16, 4))
    whole, part = (torch.Generator().manual_seed(1) for _ in range(2))
    built.skip_noise(gt[3:], lr[3:], part, 3)
    if isinstance(built, FlowModel):
        inputs, last = built.inputs(gt, lr, whole), built.inputs(gt[3:], lr[3:], part)
        assert torch.equal(last.x, inputs.x[3:])
    assert torch.equal(whole.get_state(), part.get_state())


def test_crops_are_distributed_in_order():
    shares = forked(in_group(lambda: list(crop_numbers(6, first=2, last=4))), 3)
    assert shares == [[12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    assert list(crop_numbers(6, first=2, last=4)) == list(range(12, 24))


# Evaluation


@pytest.fixture(scope="module")
def tested(make_options, folder):
    """Options to test seven images of different sizes, and the weights."""
    for number in range(7):
        size = (3, 20 + 4 * (number % 3), 40 if number % 2 else 16)
        write_png(folder / "HR" / f"{number}.png", torch.rand(size, generator=torch.Generator().manual_seed(number)))
    options = make_options("evaluated")
    sets = {"test_all": {"mode": "folder", "dataroot_GT": str(folder / "HR"), "name": "seven"}}
    torch.manual_seed(0)
    weights.save(checkpoint.weights_file(folder_of(options), 1), models.build(options), options, 1)
    return make_options("evaluated", datasets=sets, val={"heats": (0.0, 0.9)})


def contents(place):
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_two_processes_evaluate_as_one(tested, folder, monkeypatch, capfd):
    file = _saved(tested, folder)
    options = load(file)
    evaluation.evaluate(options, None, folder / "by one")
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["test.py", "-opt", str(file), "--output", str(folder / "by two")])
    said = forked(lambda: runpy.run_path(str(ROOT / "test.py"), run_name="__main__"))
    assert all(text.endswith("SystemExit: 0\n") for text in said), said
    done = capfd.readouterr()
    one, two = contents(folder / "by one"), contents(folder / "by two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert json.loads(two["metrics.json"])["datasets"]["seven"]["n_images"] == 7
    assert sum(name.startswith("records/") for name in two) == 7
    assert done.out.count("seven") == 2
    assert done.err.count("report: ") == 1


def _saved(options, folder):
    save(options, folder / "tested.yml")
    return folder / "tested.yml"


def test_an_error_in_one_process_ends_the_evaluation_of_all(tested, folder, monkeypatch, capfd):
    evaluated = evaluation.Evaluator._evaluate_image

    def failing(*arguments):
        if distributed.rank() == 1:
            raise UserError("the second process gives up")
        return evaluated(*arguments)

    monkeypatch.setattr(evaluation.Evaluator, "_evaluate_image", failing)
    arguments = (tested, None, str(folder / "failed"))
    statuses = forked(lambda: evaluation.run(*arguments))
    assert len(set(statuses)) == 1
    assert statuses[0] in (1, 2), statuses
    stderr = capfd.readouterr().err
    assert stderr.count("error: the second process gives up") == 1
    assert not (folder / "failed" / "metrics.json").exists()


def test_an_interruption_of_one_process_ends_the_evaluation_of_all(tested, folder, monkeypatch):
    evaluated = evaluation.Evaluator._evaluate_image

    def interrupting(*arguments):
        if distributed.rank() == 1:
            raise KeyboardInterrupt
        return evaluated(*arguments)

    monkeypatch.setattr(evaluation.Evaluator, "_evaluate_image", interrupting)
    statuses = forked(lambda: evaluation.run(tested, None, str(folder / "interrupted")))
    assert statuses == [1, 130]
