"""Elementwise maps: the swappable part of every coupling and injector."""

from robustflow.bijections.elementwise.affine import Affine
from robustflow.bijections.elementwise.exp_affine import ExpAffine
from robustflow.bijections.elementwise.inverse_affine import InverseAffine
from robustflow.bijections.elementwise.rational_quadratic import RationalQuadratic
from robustflow.bijections.elementwise.soft_affine import SoftAffine

__all__ = ["Affine", "ExpAffine", "InverseAffine", "RationalQuadratic", "SoftAffine"]
