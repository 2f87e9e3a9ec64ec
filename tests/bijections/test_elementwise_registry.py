import pytest

from robustflow.bijections.base import Elementwise
from robustflow.registry import ELEMENTWISE, Options, Registry


def test_builtin_maps_are_built_from_their_names():
    assert ELEMENTWISE.names() == ["affine", "rq_spline"]
    assert ELEMENTWISE.build(ELEMENTWISE.parse("affine")).eps == 1e-4
    spline = ELEMENTWISE.build(ELEMENTWISE.parse({"type": "rq_spline", "bounds": (-1.0, 2.0), "eps": 0.01}))
    assert (spline.bounds, spline.eps) == ((-1.0, 2.0), 0.01)


@pytest.mark.parametrize(("name", "suggestion"), [("afine", "affine"), ("rq-spline", "rq_spline")])
def test_unknown_coupling_suggests_the_nearest(name, suggestion):
    with pytest.raises(
        ValueError, match=f"unknown coupling '{name}', known: affine, rq_spline; did you mean '{suggestion}'"
    ):
        ELEMENTWISE.parse(name)


def test_unlike_names_get_no_suggestion():
    with pytest.raises(ValueError, match=r"known: affine, rq_spline$"):
        ELEMENTWISE.parse("neural")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "affine", "epsilon": 0.1},
        {"type": "affine", "eps": 0.0},
        {"type": "affine", "eps": "0.1"},
        {"type": "rq_spline", "bounds": (0.5, -0.5)},
        {"type": "rq_spline", "eps": 0.5},
        {"eps": 0.1},
        3,
    ],
)
def test_wrong_options_are_refused(value):
    with pytest.raises(ValueError):
        ELEMENTWISE.parse(value)


def test_own_map_registers_once():
    registry = Registry("coupling", "robustflow.bijections.elementwise")

    @registry.register("shift", Options)
    class Shift(Elementwise):
        num_params = 1

    assert registry.options_class("shift") is Options
    with pytest.raises(ValueError, match="'shift' is registered twice"):
        registry.register("shift", Options)
