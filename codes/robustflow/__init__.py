"""robustflow: conditional normalizing flows in imaging, with swappable couplings and measured robustness."""
