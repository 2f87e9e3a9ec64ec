"""Invertible maps with tractable log-determinants: the parts a flow is made of."""
