import pytest

from robustflow.bijections.base import Elementwise
from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
from robustflow.registry import ELEMENTWISE, Options, Registry


def test_builtin_maps_are_built_from_their_names():
    assert ELEMENTWISE.names() == ["affine", "exp_affine", "inverse_affine", "rq_spline", "soft_affine"]
    assert ELEMENTWISE.build(ELEMENTWISE.parse("affine")).eps == 1e-4
    spline = ELEMENTWISE.build(ELEMENTWISE.parse({"type": "rq_spline", "bounds": (-1.0, 2.0), "eps": 0.01}))
    assert (spline.bounds, spline.eps) == ((-1.0, 2.0), 0.01)
    assert isinstance(ELEMENTWISE.build(ELEMENTWISE.parse("exp_affine")), ExpAffine)
    assert ELEMENTWISE.build(ELEMENTWISE.parse({"type": "inverse_affine", "eps": 0.01})).eps == 0.01
    soft = ELEMENTWISE.build(ELEMENTWISE.parse({"type": "soft_affine", "B": 3.0}))
    assert (soft.B, soft.eps) == (3.0, 1e-4)


@pytest.mark.parametrize(
    ("name", "suggestion"), [("afine", "affine"), ("rq-spline", "rq_spline"), ("soft-affine", "soft_affine")]
)
def test_unknown_coupling_suggests_the_nearest(name, suggestion):
    with pytest.raises(
        ValueError, match=f"unknown coupling '{name}', known: affine, .*, soft_affine; did you mean '{suggestion}'"
    ):
        ELEMENTWISE.parse(name)


def test_unlike_names_get_no_suggestion():
    with pytest.raises(ValueError, match=r"known: affine, exp_affine, inverse_affine, rq_spline, soft_affine$"):
        ELEMENTWISE.parse("neural")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "affine", "epsilon": 0.1},
        {"type": "affine", "eps": 0.0},
        {"type": "affine", "eps": "0.1"},
        {"type": "rq_spline", "bounds": (0.5, -0.5)},
        {"type": "rq_spline", "eps": 0.5},
        {"type": "exp_affine", "eps": 0.1},
        {"type": "inverse_affine", "eps": 0.0},
        {"type": "soft_affine", "B": 0.0},
        {"type": "soft_affine", "B": float("inf")},
        {"type": "soft_affine", "eps": 1.0},
        {"eps": 0.1},
        3,
    ],
)
def test_wrong_options_are_refused(value):
    with pytest.raises(ValueError):
        ELEMENTWISE.parse(value)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (Affine, {"eps": -0.5}, "eps: Input should be greater than 0, got -0.5"),
        (Affine, {"eps": "a"}, "eps: Input should be a valid number, got 'a'"),
        (InverseAffine, {"eps": 0.0}, "eps: .*, got 0.0"),
        (SoftAffine, {"B": -1.0, "eps": 2.0}, "B: .*, got -1.0; eps: .*, got 2.0"),
        (RationalQuadratic, {"bounds": (0.5, -0.5)}, r"bounds: expected \[lower, upper\] with lower < upper, got"),
        (RationalQuadratic, {"bounds": 1.0}, "bounds: Input should be a valid tuple, got 1.0"),
        (RationalQuadratic, {"bounds": (-0.1, 0.1), "eps": 0.1}, "expected 2 eps < upper - lower"),
    ],
    ids=str,
)
def test_a_map_made_directly_refuses_what_its_options_do(make, values, message):
    """Some of it would compute, and be no bijection."""
    with pytest.raises(ValueError, match=message):
        make(**values)


def test_bounds_may_be_a_list():
    options = ELEMENTWISE.parse({"type": "rq_spline", "bounds": [-1.0, 1.0]})
    assert options == ELEMENTWISE.parse(RationalQuadratic(bounds=[-1.0, 1.0])) and options.bounds == (-1.0, 1.0)


def test_own_map_registers_once():
    registry = Registry("coupling", "robustflow.bijections.elementwise")

    @registry.register("shift", Options)
    class Shift(Elementwise):
        num_params = 1

    assert registry.options_class("shift") is Options
    with pytest.raises(ValueError, match="'shift' is registered twice"):
        registry.register("shift", Options)(ExpAffine)


def test_a_class_defined_again_takes_the_place_of_the_former():
    """As in a notebook, whose cells are run again."""
    registry = Registry("coupling", "robustflow.bijections.elementwise")

    def run_cell():
        @registry.register("shift", Options)
        class Shift(Elementwise):
            num_params = 1

        return Shift

    run_cell()
    newest = run_cell()
    assert registry.entries() == {"shift": newest}
