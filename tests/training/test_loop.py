import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_equal, assert_same_end, folder_of, weights_at

from robustflow.evaluation.evaluator import Evaluator
from robustflow.flows import builder
from robustflow.models import FlowModel, weights
from robustflow.options.load import load
from robustflow.training import checkpoint, engine
from robustflow.training.failures.guard import TrainingStopped
from robustflow.training.gradients import Gradients, Step
from robustflow.training.logbook import Logbook
from robustflow.training.loop import is_done, train
from robustflow.utils.errors import UserError


def changed(tensors, others, of_encoder):
    return {
        name for name in tensors if name.startswith("encoder.") == of_encoder and (tensors[name] != others[name]).any()
    }


# Resuming


@pytest.mark.parametrize(("n_workers", "hr_shift"), [(0, 0), (2, 4)])
def test_a_resumed_run_equals_an_uninterrupted_one(make_options, interrupt, validations, n_workers, hr_shift):
    settings = {"n_workers": n_workers, "hr_shift": hr_shift, "train": {"val_freq": 2, "warmup_iter": 4}}
    assert train(make_options("whole", **settings))
    whole = validations.copy()
    validations.clear()

    interrupt(3)
    assert not train(make_options("parts", **settings))
    interrupt(None)
    assert train(make_options("parts", path={"resume_state": "auto"}, **settings))

    assert_same_end(make_options("whole"), make_options("parts"))
    assert [iteration for iteration, _ in whole] == [2, 4, 6]
    assert validations == whole
    assert whole[0][1] != whole[1][1]


@pytest.mark.parametrize("interrupted", [1, 3, 5])
def test_a_run_resumed_with_a_delayed_encoder(make_options, interrupt, pretrained, interrupted):
    settings = {"network_G": {"train_RRDB_delay": 0.5}, "train": {"val_freq": 100}}
    assert train(make_options("whole", path={"pretrain_model_G": pretrained}, **settings))
    interrupt(interrupted)
    assert not train(make_options("parts", path={"pretrain_model_G": pretrained}, **settings))
    interrupt(None)
    assert train(make_options("parts", path={"resume_state": "auto"}, **settings))
    assert_same_end(make_options("whole"), make_options("parts"))


def test_loader_processes_do_not_change_what_is_learnt(make_options):
    for name, n_workers in (("here", 0), ("there", 1)):
        assert train(make_options(name, n_workers=n_workers, train={"niter": 2}))
    assert_equal(weights_at(make_options("here"), 2), weights_at(make_options("there"), 2))


def test_resuming_a_finished_run_does_nothing(make_options, caplog):
    options = make_options(train={"niter": 1}, path={"resume_state": "auto"})
    assert train(options)
    file = checkpoint.weights_file(folder_of(options), 1)
    before = file.stat().st_mtime_ns
    assert train(options)
    assert file.stat().st_mtime_ns == before
    assert "all 1 iterations are done; raise train.niter to go on" in caplog.text


def test_resuming_where_nothing_is_starts_from_scratch(make_options, caplog):
    options = make_options(train={"niter": 1}, path={"resume_state": "auto"})
    assert train(options)
    assert "no checkpoint to resume; starting at iteration 1" in caplog.text
    assert weights_at(options, 1)


def test_a_new_run_keeps_the_old_one(make_options, caplog):
    first, second = (make_options(train={"niter": 1, "manual_seed": seed}) for seed in (0, 1))
    assert train(first)
    before = weights_at(first, 1)
    assert train(second)
    (archived,) = folder_of(first).parent.glob("tiny_archived_*")
    assert_equal(weights.read(archived / "models" / "00000001_G.safetensors")[0], before)
    assert changed(weights_at(second, 1), before, of_encoder=False)
    assert f"it is now {archived}" in caplog.text


def test_a_run_can_start_from_its_own_older_weights(make_options):
    assert train(make_options(train={"niter": 1}))
    options = make_options(train={"niter": 1, "lr_G": 1e-9}, path={"pretrain_model_G": str(folder_of(make_options()))})
    assert train(options)
    (archived,) = folder_of(options).parent.glob("tiny_archived_*")
    old = weights.read(archived / "models" / "00000001_G.safetensors")[0]
    for name, tensor in weights_at(options, 1).items():
        torch.testing.assert_close(tensor, old[name], rtol=0, atol=1e-6)


# Interruption


def test_interruption_saves_and_says_so(make_options, interrupt, caplog):
    interrupt(2)
    options = make_options()
    assert engine.run(options) == 130
    assert weights_at(options, 2)
    assert checkpoint.find(folder_of(options), "auto") == checkpoint.state_file(folder_of(options), 2)
    assert "interrupted: saved iteration 2; go on with --resume auto" in caplog.text


def test_interruption_in_a_validation_saves_what_it_says(make_options, monkeypatch, caplog):
    note = Logbook.validation

    def interrupting(self, iteration, *values):
        note(self, iteration, *values)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Logbook, "validation", interrupting)
    options = make_options(train={"val_freq": 1}, logger={"save_checkpoint_freq": 100})
    assert not train(options)
    newest = checkpoint.find(folder_of(options), "auto")
    assert newest is not None
    assert f"interrupted: saved iteration {int(newest.stem)}; go on" in caplog.text


@pytest.mark.parametrize("at", [2, 6])
def test_a_validation_that_a_signal_breaks_off_is_made_up_for(make_options, monkeypatch, validations, caplog, at):
    """After the image under way: a batch system kills what has not ended soon."""
    settings = {"n_crops": 3, "train": {"val_freq": 2}, "logger": {"save_checkpoint_freq": 100}}
    whole = make_options("whole", **settings)
    assert train(whole)
    expected = validations.copy()
    validations.clear()

    evaluated, evaluate, before = [], Evaluator._evaluate_image, 3 * (at // 2 - 1)

    def interrupting(self, *arguments):
        evaluated.append(arguments)
        if len(evaluated) in (before + 2, before + 3):
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, *arguments)

    monkeypatch.setattr(Evaluator, "_evaluate_image", interrupting)
    parts = make_options("parts", path={"resume_state": "auto"}, **settings)
    # In the second image and, once that run goes on, in the first.
    for number in (1, 2):
        assert engine.run(parts) == 130
        assert len(evaluated) == before + 1 + number
        assert [iteration for iteration, _ in validations] == list(range(2, at, 2))
        assert caplog.text.count(f"interrupted: saved iteration {at}; go on") == number
        assert not is_done(parts)
    assert engine.run(parts) == 0
    assert validations == expected
    assert_same_end(whole, parts)


# Encoder


def test_encoder_learns_after_its_delay(make_options, pretrained):
    options = make_options(
        network_G={"train_RRDB_delay": 0.5},
        path={"pretrain_model_G": pretrained},
        train={"niter": 4, "val_freq": 4},
        logger={"save_checkpoint_freq": 2},
    )
    assert train(options)
    given, half, end = weights.read(Path(pretrained))[0], weights_at(options, 2), weights_at(options, 4)
    shared = {name: tensor for name, tensor in given.items() if name in half}
    assert {name for name in half if name.startswith("encoder.")} - shared.keys() == set()
    assert not changed(shared, half, of_encoder=True)
    assert changed(half, end, of_encoder=True)
    assert changed(half, end, of_encoder=False)


def test_frozen_encoder_never_learns(make_options, pretrained):
    options = make_options(
        network_G={"train_RRDB": False}, path={"pretrain_model_G": pretrained}, train={"niter": 2, "val_freq": 2}
    )
    assert train(options)
    given, end = weights.read(Path(pretrained))[0], weights_at(options, 2)
    assert not changed({name: given[name] for name in given if name in end}, end, of_encoder=True)


@pytest.mark.parametrize("network", [{"train_RRDB_delay": 0.5}, {"train_RRDB": False}], ids=str)
def test_frozen_encoder_without_weights(make_options, network):
    options = make_options(network_G=network)
    with pytest.raises(UserError, match=r"frozen with random weights; give path\.pretrain_model_G"):
        train(options)
    assert not folder_of(options).exists()


def test_weights_that_do_not_fit_stop_before_anything_is_moved(make_options, pretrained):
    assert train(make_options(train={"niter": 1}))
    with pytest.raises(UserError, match="nf: the weights were trained with 8, the options say 16"):
        train(make_options(network_G={"nf": 16}, path={"pretrain_model_G": pretrained}))
    assert [folder.name for folder in folder_of(make_options()).parent.iterdir()] == ["tiny"]


# Pieces of a batch


@pytest.fixture
def gradients(make_options, make_model, perturb):
    """Loss and gradients, by name, of a batch of four for a micro_batch; ActNorms are initialised."""

    def of(model, micro_batch):
        noisy = {"flow": {"K": 2, "L": 2, "S": (0,) if model == "SRFlow" else (0, 1), "hidden_channels": 8}}
        options = make_options(model=model, network_G=noisy)
        options = options.model_copy(update={"train": options.train.model_copy(update={"micro_batch": micro_batch})})
        built = make_model(options)
        perturb(built.network, std=0.05).train()
        for name, buffer in built.network.named_buffers():
            if name.endswith("initialized"):
                buffer.fill_(True)
        images = torch.Generator().manual_seed(1)
        gt, lr = (torch.rand(4, 3, side, side, generator=images, dtype=torch.float64) for side in (16, 4))
        loss = Gradients(built, options).compute_uncaptured(Step(1, gt, lr, seed=2))
        return loss, {name: parameter.grad for name, parameter in built.network.named_parameters()}

    return of


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
@pytest.mark.parametrize("model", ["SRFlow", "FS-NCSR", "RRDB"])
def test_pieces_give_the_gradients_of_the_whole_batch(gradients, model, micro_batch):
    (loss, whole), (in_pieces, summed) = gradients(model, None), gradients(model, micro_batch)
    assert not loss.requires_grad
    torch.testing.assert_close(in_pieces, loss, rtol=1e-12, atol=0)
    for name, gradient in whole.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().max() > 0, name


def test_pieces_train_the_same_network(make_options, validations):
    settings = {"train": {"niter": 2, "val_freq": 2}}
    start = make_options("start", train={"niter": 1})
    assert train(start)
    settings["path"] = {"pretrain_model_G": str(folder_of(start))}
    assert train(make_options("whole", **settings))
    settings["train"]["micro_batch"] = 1
    assert train(make_options("pieces", **settings))
    whole, pieces = (weights_at(make_options(name), 2) for name in ("whole", "pieces"))
    for name, tensor in whole.items():
        # Adam divides by the gradient's size: where that is rounding, so is the step, at most lr_G each.
        assert (pieces[name].double() - tensor.double()).abs().mean() < 1e-4, name
    assert validations[-1][1]["bits_per_dim"] == pytest.approx(validations[-2][1]["bits_per_dim"], rel=1e-3)


def test_network_is_built_as_the_options_say(make_options, monkeypatch):
    built = []
    build = builder.build
    monkeypatch.setattr(builder, "build", lambda *arguments, **named: built.append(named) or build(*arguments, **named))
    options = make_options(train={"niter": 1, "checkpointing": "step"}).model_copy(update={"precision": "bf16"})
    assert train(options)
    assert built == [{"precision": "bf16", "checkpointing": "step"}]


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", (True, False)), ("tf32", (True, True)), ("fp32", (False, False))]
)
def test_training_and_validation_each_have_their_precision(make_options, monkeypatch, precision, expected):
    """Looked at where it is used: on CPUs it makes no difference."""
    seen = {"data_loss": set(), "likelihood": set(), "prepare": set()}
    for name, found in seen.items():
        call = getattr(FlowModel, name)

        def watched(*arguments, call=call, found=found, **keywords):
            found.add(torch.backends.cudnn.allow_tf32)
            return call(*arguments, **keywords)

        monkeypatch.setattr(FlowModel, name, watched)
    options = make_options(train={"niter": 2, "val_freq": 1}).model_copy(update={"precision": precision})
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        assert train(options)
    training, validation = expected
    assert seen == {"data_loss": {training}, "likelihood": {validation}, "prepare": {validation}}
    log = (Path(options.path.experiments) / options.name / "train.log").read_text(encoding="utf-8")
    assert ", precision: fp32\n" in log


# Failure


@pytest.mark.parametrize(
    "spoil",
    [lambda loss: loss * float("nan"), lambda loss: loss + float("inf"), lambda loss: loss + (0 * loss).sqrt()],
    ids=["NaN", "Inf", "finite with NaN gradient"],
)
@pytest.mark.parametrize("max_grad_norm", [None, 10.0])
def test_a_loss_that_is_not_finite_stops_before_the_update(make_options, monkeypatch, spoil, max_grad_norm):
    loss_of = FlowModel.data_loss
    models = []

    def spoiled(self, inputs):
        models.append(self)
        loss = loss_of(self, inputs)
        return spoil(loss) if len(models) == 2 else loss

    monkeypatch.setattr(FlowModel, "data_loss", spoiled)
    options = make_options(train={"max_grad_norm": max_grad_norm}, logger={"save_checkpoint_freq": 1})
    with pytest.raises(TrainingStopped) as caught:
        train(options)
    message = str(caught.value)
    hints = ("iteration 2", "train.lr_G", "train.warmup_iter", "train.max_grad_norm", "rq_spline", "00000001.state")
    assert all(hint in message for hint in hints)
    assert_equal(models[-1].network.state_dict(), weights_at(options, 1))
    assert not checkpoint.weights_file(folder_of(options), 2).exists()


def test_failure_is_answered_with_status_1(make_options, monkeypatch, caplog):
    monkeypatch.setattr(FlowModel, "data_loss", lambda self, inputs: next(self.parameters()).sum() * float("nan"))
    assert engine.run(make_options()) == 1
    assert "error: iteration 1: loss nan" in caplog.text
    assert "Newest checkpoint: none yet" in caplog.text


def test_no_training_set(make_options):
    with pytest.raises(UserError, match=r"datasets\.train: expected a training set, got none"):
        train(make_options(datasets={}))


# Numbers


def test_log_file_tensorboard_and_options(make_options):
    options = make_options(train={"niter": 4, "val_freq": 2}, logger={"print_freq": 2})
    assert train(options)
    folder = folder_of(options)

    log = (folder / "train.log").read_text()
    assert [f"iteration {k}/4: bits_per_dim" in log for k in (1, 2, 3, 4)] == [False, True, False, True]
    assert "iteration 2: val bits_per_dim" in log

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/bits_per_dim", "train/lr", "train/grad_norm", "val/bits_per_dim", "val/psnr_t0.9"} <= set(scalars)
    assert [event.step for event in events.Scalars("train/bits_per_dim")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("val/inf_pct_t0.9")] == [2, 4]
    figures = {name.removesuffix("_t0.9") for name in scalars if name.endswith("_t0.9")}
    assert figures == {f"val/{key}" for key in ("psnr", "lr_psnr_mean", "pixel_error_pct", "inf_pct")}
    (picture,) = events.Tags()["images"]
    assert (events.Images(picture)[0].width, events.Images(picture)[0].height) == (3 * 16, 16)

    assert load(folder / "options.yml") == options


def test_validation_does_not_change_training(make_options):
    for name, val_freq in (("often", 1), ("never", 100)):
        assert train(make_options(name, train={"niter": 2, "val_freq": val_freq}))
    assert_equal(weights_at(make_options("often"), 2), weights_at(make_options("never"), 2))


def test_training_without_validation(make_options):
    options = make_options()
    options = options.model_copy(update={"datasets": {"train": options.datasets["train"]}})
    assert train(options)
    assert weights_at(options, 6)


def test_the_encoder_alone_is_trained_likewise(make_options, interrupt, validations):
    options = make_options(model="RRDB", train={"niter": 2})
    assert train(options)
    assert [scalars["bits_per_dim"] for _, scalars in validations] == [None]
    assert "l1" in (folder_of(options) / "train.log").read_text()
    assert train(make_options("flow", train={"niter": 1}, path={"pretrain_model_G": str(folder_of(options))}))


def test_bits_per_dimension_are_explained_before_the_first_are_shown(make_options, caplog):
    assert train(make_options(train={"niter": 2}))
    explained = caplog.text.index("bits_per_dim: of a density on [0, 1], so below 0 is usual; + 8 for 8-bit values")
    assert explained < caplog.text.index("iteration 1/2: bits_per_dim")
    assert caplog.text.count("of a density") == 1
