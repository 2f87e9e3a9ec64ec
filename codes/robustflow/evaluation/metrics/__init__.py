"""Metrics of samples, a file for each kind: failures on float samples before clamping, fidelity on 8-bit images."""

# In the order of the tables.
from robustflow.evaluation.metrics import failures, fidelity, perceptual, diversity  # noqa: I001, F401
from robustflow.evaluation.metrics.base import Column, Metric, Sample, SampleMetric, SetMetric, Target, choose

__all__ = ["Column", "Metric", "Sample", "SampleMetric", "SetMetric", "Target", "choose"]
