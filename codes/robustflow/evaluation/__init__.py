"""Sampling and metrics."""

from pkgutil import extend_path

# ``python -m robustflow.evaluation...``, as commands were spelt.
__path__ = extend_path(__path__, __name__)
