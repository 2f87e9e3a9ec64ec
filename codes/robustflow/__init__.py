"""robustflow: conditional normalizing flows in imaging, with swappable couplings and measured robustness."""

from pathlib import Path

__version__ = "0.1.0"
# ``python -m robustflow.apply`` and the like, as commands were spelt.
__path__.append(str(Path(__file__).parent / "former"))
