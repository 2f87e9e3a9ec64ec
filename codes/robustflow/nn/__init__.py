"""Helpers around torch that know nothing of flows."""
