"""Training: the loop, checkpoints, logs."""

from pkgutil import extend_path

# ``python -m robustflow.training...``, as commands were spelt.
__path__ = extend_path(__path__, __name__)
