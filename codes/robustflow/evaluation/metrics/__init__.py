"""Metrics of samples: robustness (on float samples, before clamping) and fidelity (on 8-bit images)."""
