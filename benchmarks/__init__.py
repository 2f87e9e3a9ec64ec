"""Ratios of time and memory between this implementation and the published way of computing the same network."""
