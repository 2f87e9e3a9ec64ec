"""Training: the loop, checkpoints, logs."""

from pathlib import Path

# ``python -m robustflow.training...``, as commands were spelt.
__path__.append(str(Path(__file__).parents[1] / "former" / "training"))
