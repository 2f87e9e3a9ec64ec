"""Sampling and metrics."""

from pathlib import Path

# ``python -m robustflow.evaluation...``, as commands were spelt.
__path__.append(str(Path(__file__).parents[1] / "former" / "evaluation"))
