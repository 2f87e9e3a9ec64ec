"""Torch helpers that know nothing of flows."""
