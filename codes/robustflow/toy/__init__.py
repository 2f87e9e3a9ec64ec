"""The 2-D toy experiment: why the affine coupling explodes out of distribution, in minutes and with a known truth."""
