"""How much a run computes, as far as its options tell: before torch is loaded, and before images are read."""

from robustflow.options.schema import RunOptions
from robustflow.options.toy import ToyOptions
from robustflow.utils import cpus

# Side of HR images whose size the options do not tell.
USUAL_SIDE = 256


def settle_threads(options: RunOptions | ToyOptions, *, testing: bool) -> None:
    """Compute with as many threads as pay for networks and images of this size; see `cpus.settle`."""
    elements = 0 if isinstance(options, ToyOptions) else layer_elements(options, testing=testing)
    cpus.settle(cpus.threads_for(elements))


def layer_elements(options: RunOptions, *, testing: bool) -> int:
    """Elements of a hidden layer's activations in the finest level, of all that is computed at once."""
    training, val = options.datasets.get("train"), options.val
    if testing or training is None:
        sides = [dataset.GT_size or USUAL_SIDE for key, dataset in options.datasets.items() if key.startswith("test")]
        images, side = min(val.n_sample, val.sample_batch), max(sides, default=USUAL_SIDE)
    else:
        images, side = options.train.micro_batch or training.batch_size, training.GT_size or USUAL_SIDE
    return images * (side // 2) ** 2 * options.network_G.flow.hidden_channels


def training_pixels(options: RunOptions) -> int:
    """HR pixels of all iterations of a training."""
    training = options.datasets["train"]
    return options.train.niter * training.batch_size * (training.GT_size or USUAL_SIDE) ** 2
