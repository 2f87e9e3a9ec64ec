"""Sampling and metrics."""
