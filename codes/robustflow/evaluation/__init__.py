"""Sampling, metrics and reports."""
