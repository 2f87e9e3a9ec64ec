"""The training loop."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robustflow import data, devices, tasks
from robustflow.data.seeds import derive_seed
from robustflow.errors import UserError
from robustflow.evaluation import ood
from robustflow.evaluation.evaluate import Evaluator
from robustflow.evaluation.sampler import draw_samples
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.tasks import Task, weights
from robustflow.training import checkpoint, optimizer
from robustflow.training.interruption import Interruption, leave_signals_to_main
from robustflow.training.logbook import Logbook

log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class _Run(NamedTuple):
    """All that a training run is made of."""

    options: RunOptions
    task: Task
    network: nn.Module
    adam: torch.optim.Adam
    crops: data.TrainingCrops
    validation: data.EvaluationSet | None
    experiment: Path


def train(options: RunOptions) -> bool:
    """Train as the options say. Return False if a signal ended the run early, after a checkpoint was saved.

    Writes experiments/<name>/: options.yml, models/, training_state/, tensorboard/, train.log.
    """
    run, state = _prepare(options)
    options, task, network, adam, crops, validation, experiment = run
    o, device = options.train, next(network.parameters()).device

    logbook = Logbook(experiment, o.niter, options.logger.print_freq, task.loss_name)
    try:
        first = iteration = _start(run, state)
        if first >= o.niter:
            log.info("%s: all %d iterations are done; raise train.niter to go on", experiment, o.niter)
            _fit_ood_score(run, first)
            return True
        logbook.begin(first)
        network.train()
        with Interruption() as interruption, _saving_what_is_learnt(run, interruption, lambda: iteration):
            for batch in _loader(crops, options, first, pin_memory=device.type == "cuda"):
                # Set what learns now, and how fast.
                number = iteration + 1
                rate = optimizer.learning_rate(o, number)
                optimizer.set_learning_rate(adam, rate)
                _freeze_encoder(task.encoder(network), options, number)

                # Forward and backward.
                gt, lr = (batch[key].to(device, non_blocking=True) for key in ("gt", "lr"))
                generator = torch.Generator(device).manual_seed(derive_seed(o.manual_seed, "noise", number))
                adam.zero_grad(set_to_none=True)
                loss = accumulate_gradients(task, network, gt, lr, generator, o.micro_batch)
                limit = float("inf") if o.max_grad_norm is None else o.max_grad_norm
                grad_norm = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
                measured, norm = torch.stack([loss, grad_norm]).tolist()
                _require_finite(number, measured, norm, experiment)

                # Update weights.
                adam.step()
                iteration = number

                # Log, save, validate.
                logbook.iteration(iteration, measured, rate, norm)
                last, leave = iteration == o.niter, interruption.requested
                if iteration % options.logger.save_checkpoint_freq == 0 or last or leave:
                    checkpoint.save(experiment, network, adam, options, iteration)
                if validation is not None and (last or (iteration % o.val_freq == 0 and not leave)):
                    _validate(run, validation, logbook, iteration)
                if leave and not last:
                    log.info("interrupted: saved iteration %d; go on with --resume auto", iteration)
                    return False
    finally:
        logbook.close()
    if iteration == o.niter:
        _fit_ood_score(run, iteration)
    return iteration == o.niter


def accumulate_gradients(
    task: Task, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator, micro_batch: int | None
) -> Tensor:
    """Add the gradients of a batch's mean loss, piece by piece of at most ``micro_batch`` crops; return that loss."""
    size, losses = len(gt) if micro_batch is None else micro_batch, []
    for gt_piece, lr_piece in zip(gt.split(size), lr.split(size), strict=True):
        share = len(gt_piece) / len(gt)
        loss = share * task.loss(network, gt_piece, lr_piece, generator)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _fit_ood_score(run: _Run, iteration: int) -> None:
    """Fit the out-of-distribution score on training patches of the size trained on, beside the last weights.

    Nothing to do if it is there already.
    """
    file, size = checkpoint.weights_file(run.experiment, iteration), run.options.datasets["train"].GT_size
    if run.options.train.ood_patches == 0 or ood.file_beside(file).is_file():
        return
    try:
        ood.fit_and_save(run.options, file, run.task, run.network, n_patches=run.options.train.ood_patches, patch=size)
    except UserError as error:
        # The training itself is done and saved.
        log.warning("no out-of-distribution score: %s", error)


def _prepare(options: RunOptions) -> tuple[_Run, Path | None]:
    """Check the data, build the model, find the state to resume; nothing is written before all of it is right."""
    device = devices.choose(options.device)
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    seed, scale = options.train.manual_seed, options.scale
    whole = tasks.build(options).whole_image_condition
    crops = data.build_training(options.datasets["train"], scale, seed, whole)
    validation = data.build_evaluation(options.datasets["val"], scale, whole) if "val" in options.datasets else None
    options = _fitting(options)
    # The same model for one seed, whatever the coupling.
    torch.manual_seed(seed)
    task = tasks.build(options)
    network = task.build_network(options.network_G, options.precision, options.train.checkpointing).to(device)
    experiment = Path(options.path.experiments) / options.name
    state = _make_ready(experiment, network, options)
    adam = optimizer.build(network, options.train)
    return _Run(options, task, network, adam, crops, validation, experiment), state


def _fitting(options: RunOptions) -> RunOptions:
    """The options with sizes that were not given taken from the weights that training starts or goes on from."""
    state = checkpoint.find(Path(options.path.experiments) / options.name, options.path.resume_state)
    if state is not None and state.stem.isdigit():
        file = checkpoint.weights_file(state.parent.parent, int(state.stem))
        return weights.fitting(options, file) if file.is_file() else options
    start = options.path.pretrain_model_G
    return options if start is None else weights.fitting(options, weights.locate(start))


@contextlib.contextmanager
def _saving_what_is_learnt(run: _Run, interruption: Interruption, iteration: Callable[[], int]) -> Iterator[None]:
    """Save when an image turns out unreadable in mid-training, or a signal to all processes ended a loader process."""

    def save() -> None:
        if iteration() > 0:
            checkpoint.save(run.experiment, run.network, run.adam, run.options, iteration())

    try:
        yield
    except UserError as error:
        save()
        # A loader process sends its whole traceback as the message.
        message = str(error).strip().rsplit("UserError: ", 1)[-1]
        saved = f"\n  Saved iteration {iteration()}; go on with --resume auto." if iteration() > 0 else ""
        raise UserError(f"{message}{saved}") from error
    except RuntimeError as error:
        if not interruption.requested or "DataLoader worker" not in str(error):
            raise
        save()
        log.info("interrupted: saved iteration %d; go on with --resume auto", iteration())


def _loader(
    crops: data.TrainingCrops, options: RunOptions, first: int, pin_memory: bool
) -> DataLoader[dict[str, Tensor]]:
    """Batches of the iterations after ``first``; which crops they hold depends on the iteration alone."""
    training = options.datasets["train"]
    return DataLoader(
        crops,
        training.batch_size,
        sampler=range(first * training.batch_size, options.train.niter * training.batch_size),
        num_workers=training.n_workers,
        worker_init_fn=leave_signals_to_main,
        pin_memory=pin_memory,
    )


def _make_ready(experiment: Path, network: nn.Module, options: RunOptions) -> Path | None:
    """Find the state to resume; else check and load the weights to start from, and move an older experiment aside."""
    state = checkpoint.find(experiment, options.path.resume_state)
    if state is None:
        _load_pretrained(network, options)
    elsewhere = state is not None and state.resolve().parent.parent != experiment.resolve()
    if options.path.resume_state is None or elsewhere:
        archived = checkpoint.make_room(experiment)
        if archived is not None:
            log.info("an experiment of this name exists; it is now %s", archived)
    return state


def _start(run: _Run, state: Path | None) -> int:
    """Resume if there is a state; return the number of iterations already done."""
    experiment, options, network, first = run.experiment, run.options, run.network, 0
    if state is not None:
        first = checkpoint.resume(state, network, run.adam, options)
        log.info("resumed %s at iteration %d", state, first)
        aside = checkpoint.set_aside_newer(experiment, first)
        if aside is not None:
            log.info("newer checkpoints are now in %s", aside)
    elif options.path.resume_state is not None:
        log.info("%s: no checkpoint to resume; starting at iteration 1", experiment)
    options_load.save(options, experiment / "options.yml")
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %.2f M parameters, %s", experiment, n_parameters / 1e6, next(network.parameters()).device)
    return first


def _load_pretrained(network: nn.Module, options: RunOptions) -> None:
    path = options.path.pretrain_model_G
    if path is not None:
        file = weights.locate(path)
        loaded = weights.load(file, network, options, encoder_suffices=True)
        log.info("loaded %s from %s", loaded, file)
    elif options.network_G.train_RRDB_delay > 0 or not options.network_G.train_RRDB:
        raise UserError(
            "network_G.train_RRDB_delay, train_RRDB: the encoder would be frozen with random weights; give "
            "path.pretrain_model_G (an encoder trained with model: RRDB), or train it from the start with "
            "train_RRDB: true and train_RRDB_delay: 0"
        )


def _freeze_encoder(encoder: nn.Module, options: RunOptions, iteration: int) -> None:
    """Let the encoder learn from train_RRDB_delay·niter on; frozen, it runs without autograd."""
    network = options.network_G
    learns = network.train_RRDB and iteration > network.train_RRDB_delay * options.train.niter
    encoder.requires_grad_(learns)


def _require_finite(iteration: int, loss: float, grad_norm: float, experiment: Path) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    newest = checkpoint.find(experiment, "auto")
    raise TrainingStopped(
        f"iteration {iteration}: loss {loss:g}, gradient norm {grad_norm:g}; weights were not updated.\n"
        "  Look at: train.lr_G (lower it), train.warmup_iter (lengthen it), train.max_grad_norm (set it), "
        "network_G.flow.coupling (rq_spline is the stable one), and the training images.\n"
        f"  Newest checkpoint: {newest or 'none yet'}; go on from it with --resume auto."
    )


def _validate(run: _Run, items: data.EvaluationSet, logbook: Logbook, iteration: int) -> None:
    """Evaluate the validation set and note its figures and, of the first image, input, sample and ground truth."""
    task, network, options = run.task, run.network, run.options
    network.eval()
    summary, _ = Evaluator(task, network, options.scale, options.val, None).evaluate("val", items)
    scalars = {"bits_per_dim": summary["bits_per_dim"]}
    for heat, values in summary["heats"].items():
        scalars |= {f"{key}_t{heat}": values[key] for key in ("psnr", "lr_psnr_mean", "pixel_error_pct", "inf_pct")}
    logbook.validation(iteration, scalars, _picture(task, network, items[0], options))
    network.train()


def _picture(task: Task, network: nn.Module, item: data.EvaluationItem, options: RunOptions) -> dict[str, Tensor]:
    device = next(network.parameters()).device
    drawn = draw_samples(
        task,
        network,
        item.condition.to(device),
        name=item.name,
        heats=options.val.heats[-1:],
        n=1,
        seed=options.val.seed,
        batch=1,
        tile=options.val.tile,
        overlap=options.val.tile_overlap,
    )
    samples = [sample[0].cpu() for _, sample in drawn]
    enlarged = item.lr.repeat_interleave(options.scale, 1).repeat_interleave(options.scale, 2)
    strip = [enlarged, *samples, *([] if item.gt is None else [item.gt])]
    return {item.name: torch.cat(strip, dim=2)}
