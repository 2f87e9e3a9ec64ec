"""Elementwise maps: the swappable part of every coupling and injector."""

from robustflow.bijections.elementwise.affine import Affine
from robustflow.bijections.elementwise.rational_quadratic import RationalQuadratic

__all__ = ["Affine", "RationalQuadratic"]
