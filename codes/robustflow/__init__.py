"""robustflow: conditional normalizing flows in imaging, with swappable couplings and measured robustness."""

__version__ = "0.1.0"
