"""The training loop."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from robustflow import data, devices, tasks
from robustflow.data.seeds import derive_seed
from robustflow.errors import UserError
from robustflow.evaluation.evaluate import Evaluator
from robustflow.evaluation.sampler import draw_samples
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.tasks import Task, weights
from robustflow.training import checkpoint, optimizer
from robustflow.training.interruption import Interruption, ignore_interrupt
from robustflow.training.logbook import Logbook

log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


def train(options: RunOptions) -> bool:
    """Train as the options say. Return False if a signal ended the run early, after a checkpoint was saved.

    Writes experiments/<name>/: options.yml, models/, training_state/, tensorboard/, train.log.
    """
    o = options.train
    device = devices.choose(options.device)
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    # Check the data before anything is written.
    crops = data.build_training(options.datasets["train"], options.scale, o.manual_seed)
    validation = data.build_evaluation(options.datasets["val"], options.scale) if "val" in options.datasets else None

    # Build the model, the same for one seed whatever the coupling.
    torch.manual_seed(o.manual_seed)
    task = tasks.build(options)
    network = task.build_network(options.network_G).to(device)
    adam = optimizer.build(network, o)
    experiment = Path(options.path.experiments) / options.name
    state = _make_ready(experiment, network, options)

    logbook = Logbook(experiment, o.niter, options.logger.print_freq, task.loss_name)
    try:
        first = _start(experiment, state, network, adam, options)
        if first >= o.niter:
            log.info("%s: all %d iterations are done; raise train.niter to go on", experiment, o.niter)
            return True
        loader = _loader(crops, options, first, pin_memory=device.type == "cuda")
        logbook.begin(first)
        with Interruption() as interruption:
            network.train()
            for iteration, batch in enumerate(loader, start=first + 1):
                # Set what learns now, and how fast.
                rate = optimizer.learning_rate(o, iteration)
                optimizer.set_learning_rate(adam, rate)
                _freeze_encoder(task.encoder(network), options, iteration)

                # Forward and backward.
                gt, lr = (batch[key].to(device, non_blocking=True) for key in ("gt", "lr"))
                generator = torch.Generator(device).manual_seed(derive_seed(o.manual_seed, "noise", iteration))
                loss = task.loss(network, gt, lr, generator)
                adam.zero_grad(set_to_none=True)
                loss.backward()
                limit = float("inf") if o.max_grad_norm is None else o.max_grad_norm
                grad_norm = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
                _require_finite(iteration, loss, grad_norm, experiment)

                # Update weights.
                adam.step()

                # Log, validate, save.
                logbook.iteration(iteration, loss.item(), rate, grad_norm.item())
                last, leave = iteration == o.niter, interruption.requested
                if validation is not None and (last or (iteration % o.val_freq == 0 and not leave)):
                    _validate(task, network, validation, options, logbook, iteration)
                if iteration % options.logger.save_checkpoint_freq == 0 or last or leave:
                    checkpoint.save(experiment, network, adam, options, iteration)
                if leave and not last:
                    log.info("interrupted: saved iteration %d; go on with --resume auto", iteration)
                    return False
    finally:
        logbook.close()
    return True


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
        worker_init_fn=ignore_interrupt,
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


def _start(
    experiment: Path, state: Path | None, network: nn.Module, adam: torch.optim.Adam, options: RunOptions
) -> int:
    """Resume if there is a state; return the number of iterations already done."""
    first = 0
    if state is not None:
        first = checkpoint.resume(state, network, adam, options)
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


def _require_finite(iteration: int, loss: Tensor, grad_norm: Tensor, experiment: Path) -> None:
    if torch.isfinite(loss) and torch.isfinite(grad_norm):
        return
    newest = checkpoint.find(experiment, "auto")
    raise TrainingStopped(
        f"iteration {iteration}: loss {loss.item():g}, gradient norm {grad_norm.item():g}; weights were not updated.\n"
        "  Look at: train.lr_G (lower it), train.warmup_iter (lengthen it), train.max_grad_norm (set it), "
        "network_G.flow.coupling (rq_spline is the stable one), and the training images.\n"
        f"  Newest checkpoint: {newest or 'none yet'}; go on from it with --resume auto."
    )


def _validate(
    task: Task,
    network: nn.Module,
    items: data.EvaluationSet,
    options: RunOptions,
    logbook: Logbook,
    iteration: int,
) -> None:
    """Evaluate the validation set and note its figures and, of the first image, input, sample and ground truth."""
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
        item.lr.to(device),
        name=item.name,
        heats=options.val.heats[-1:],
        n=1,
        seed=options.val.seed,
        batch=1,
    )
    samples = [sample[0].cpu() for _, sample in drawn]
    enlarged = item.lr.repeat_interleave(options.scale, 1).repeat_interleave(options.scale, 2)
    strip = [enlarged, *samples, *([] if item.gt is None else [item.gt])]
    return {item.name: torch.cat(strip, dim=2)}
