"""Checks for bijections and elementwise maps of one's own: call them in a test.

Example::

    def test_my_map():
        check_elementwise(MyMap())
        check_bijection(Injector(MyMap(), network).double(), x, cond)
"""

import dataclasses
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from robustflow.bijections.base import Bijection, Elementwise

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
ElementMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

LARGEST_JACOBIAN = 1024
# Of central differences; the best counts: curvature or a kink nearby spoils a large one, rounding a small one.
STEPS = (1e-6, 1e-7, 1e-8)


def take_item(cond: Any, index: int) -> Any:
    """Condition of one item, as a batch of 1: slices tensors (b, ...), tuples and dataclasses of them; None stays."""
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return cond[index : index + 1]
    if isinstance(cond, tuple):
        return getattr(cond, "_make", tuple)(take_item(part, index) for part in cond)
    if dataclasses.is_dataclass(cond) and not isinstance(cond, type):
        fields = {field.name: getattr(cond, field.name) for field in dataclasses.fields(cond)}
        return dataclasses.replace(cond, **{name: take_item(part, index) for name, part in fields.items()})
    raise ValueError(f"cannot slice a condition of type {type(cond).__name__}: give a function as `take_cond`")


def check_bijection(
    bijection: Bijection,
    x: Tensor,
    cond: Any = None,
    *,
    inverse_tolerance: float = 1e-9,
    log_det_tolerance: float = 1e-8,
    gradient_tolerance: float = 1e-5,
    take_cond: Callable[[Any, int], Any] = take_item,
    dead_parameters: Container[str] = (),
) -> None:
    """Check that a bijection keeps its contract; AssertionError says what was measured and what that usually means.

    Shapes and dtypes, round trip, log-determinants (the two directions against each other, and against autograd's
    full Jacobian), items alone, gradients by inputs and (of forward) parameters, ``torch.no_grad``.

    Args:
        bijection: In float64, in the mode to be checked. Give its parameters values that are not special: where the
            last layer of a network is zero, the layers before it receive no gradient.
        x: Sample (b, c, *spatial), float64, b ≥ 2, at most 1024 values per item.
        cond: Condition of batch b.
        inverse_tolerance: Largest |difference| / (1 + |expected value|) of tensors.
        log_det_tolerance: The same for log-determinants.
        gradient_tolerance: The same for derivatives along a direction, against central differences.
        take_cond: Called as take_cond(cond, index), returns the condition of one item as a batch of 1.
        dead_parameters: Names of parameters that rightly receive no gradient.

    Raises:
        ValueError: x is not such a sample.
        AssertionError: A check failed.
    """
    _check_sample(x)
    before = x.clone()
    z, log_det = _checked_outputs(partial(bijection, cond=cond), x, "forward")
    back, inverse_log_det = _checked_outputs(partial(bijection.inverse, cond=cond), z, "inverse")
    _require(torch.equal(x, before), "forward or inverse changed its input in place: work on a copy")
    _check_round_trip(x, back, inverse_tolerance)
    _expect(
        "log-det of inverse against minus log-det of forward",
        (inverse_log_det, -log_det),
        log_det_tolerance,
        "a wrong sign: each direction returns the log-det of the direction evaluated",
    )
    outputs = (z, log_det, back, inverse_log_det)
    for index in range(len(x)):
        own, cond_i = slice(index, index + 1), take_cond(cond, index)
        of_item, where = [value[own] for value in outputs], f", item {index} alone against the same item in its batch"
        _check_outputs(bijection, (x[own], z[own], cond_i), of_item, where, inverse_tolerance)
        _expect(
            f"log-det of item {index} against log|det| of autograd's Jacobian",
            (log_det[own], _jacobian_log_det(partial(bijection, cond=cond_i), x[own])),
            log_det_tolerance,
            "a missing term, a wrong sign, or positions or channels not counted",
        )
    parameters = _check_parameters_learn(bijection, x, cond, dead_parameters)
    _check_derivative(partial(bijection, cond=cond), x, parameters, "forward", gradient_tolerance)
    _check_derivative(partial(bijection.inverse, cond=cond), z, [], "inverse", gradient_tolerance)
    with torch.no_grad():
        _check_outputs(bijection, (x, z, cond), outputs, " under torch.no_grad against without", inverse_tolerance)


def check_elementwise(
    elementwise: Elementwise,
    *,
    scales: tuple[float, ...] = (0.3, 1.0, 2.0),
    x_range: float = 1.0,
    tolerance: float = 1e-9,
    gradient_tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Check that an elementwise map keeps its contract; AssertionError says what was measured.

    For random parameters: shapes, for images and vectors, with and without a leading dimension of samples that share
    the parameters; c(c⁻¹(y)) = y; the log-slopes of both directions; c increasing; elements alone and without autograd;
    gradients by input and parameters, of forward against finite differences, of inverse against those of forward
    (implicit function theorem); an ``inverse_bound``, also for parameters ten times as large. For zero parameters:
    finite, slopes between 1/e and e.

    Args:
        elementwise: The map; if it holds tensors, in float64.
        scales: Standard deviations of the parameters.
        x_range: Inputs are uniform in [−x_range, x_range].
        tolerance: Largest |difference| / (1 + |expected value|).
        gradient_tolerance: The same for gradients.
        seed: Of parameters and inputs. A finite difference across a kink can fail by bad luck: try another.
    """
    generator = torch.Generator().manual_seed(seed)
    for scale in scales:
        cases = list(_element_cases(elementwise.num_params, x_range, scale, generator))
        for x, params in cases:
            _check_element_values(elementwise, x, params, tolerance)
        _check_increasing(elementwise, x_range, scale, generator)
        _check_bound(elementwise, x_range, 10 * scale, generator)
        _check_forward_gradients(elementwise, x_range, scale, generator, gradient_tolerance)
        for x, params in cases:
            if x.dim() == params.dim():
                _check_sharing(elementwise, x, params, tolerance)
            else:
                _check_elements_alone(elementwise, x, params, tolerance)
                _check_inverse_gradients(elementwise, x, params, gradient_tolerance)
    for x, params in _element_cases(elementwise.num_params, x_range, 0.0, generator):
        _check_zero_parameters(elementwise, x, params)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _expect(what: str, values: tuple[Tensor, Tensor], limit: float, usual_cause: str) -> None:
    """Require |actual − expected| ≤ limit·(1 + |expected|); NaN fails."""
    actual, expected = (value.detach() for value in values)
    difference = float(((actual - expected).abs() / (1 + expected.abs())).max())
    _require(difference <= limit, f"{what}: difference {difference:.2g}, limit {limit:.2g}; usually {usual_cause}")


def _check_sample(x: Tensor) -> None:
    if x.dtype != torch.float64 or x.dim() < 2 or x.shape[0] < 2 or x[0].numel() > LARGEST_JACOBIAN:
        raise ValueError(
            f"expected x (b, c, *spatial) in float64 with b >= 2 and at most {LARGEST_JACOBIAN} values per item, "
            f"got shape {tuple(x.shape)} in {x.dtype}"
        )


def _checked_outputs(direction: Map, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Outputs of a direction, once their shapes, dtypes and finiteness are checked."""
    outputs = direction(x)
    is_pair = isinstance(outputs, tuple) and len(outputs) == 2 and all(isinstance(o, Tensor) for o in outputs)
    _require(is_pair, f"{name} must return (tensor, log_det), got {type(outputs).__name__}")
    y, log_det = outputs
    keeps_size = y.shape[:1] == x.shape[:1] and y.numel() == x.numel()
    _require(keeps_size, f"{name} must keep the number of values per item: {tuple(x.shape)} became {tuple(y.shape)}")
    _require(
        log_det.shape == x.shape[:1],
        f"{name}: log_det must have shape ({len(x)},), one value per item, got {tuple(log_det.shape)}",
    )
    for what, value in (("tensor", y), ("log_det", log_det)):
        _require(value.dtype == x.dtype, f"{name} returned the {what} in {value.dtype} for an input in {x.dtype}")
        _require(bool(value.isfinite().all()), f"{name} returned a {what} that is not finite")
    return y, log_det


def _check_round_trip(x: Tensor, back: Tensor, limit: float) -> None:
    _require(back.shape == x.shape, f"inverse returned shape {tuple(back.shape)} for x of shape {tuple(x.shape)}")
    _expect(
        "inverse(forward(x)) against x",
        (back, x),
        limit,
        "the directions see different parameters (random ones? the half that is mapped?), or run in float32",
    )


def _jacobian_log_det(direction: Map, x: Tensor) -> Tensor:
    """log|det dz/dx| of one item (1, c, *spatial), as (1,), from the full Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda value: direction(value)[0], x)
    return torch.linalg.slogdet(jacobian.reshape(1, x.numel(), x.numel()))[1]


def _check_outputs(
    bijection: Bijection, inputs: tuple[Tensor, Tensor, Any], expected: Sequence[Tensor], where: str, limit: float
) -> None:
    """Compare what the directions make of x and z, given a condition, with what they should."""
    found = (*bijection(inputs[0], inputs[2]), *bijection.inverse(inputs[1], inputs[2]))
    names = ("z of forward", "log_det of forward", "x of inverse", "log_det of inverse")
    for name, *values in zip(names, found, expected, strict=True):
        _expect(name + where, (values[0], values[1]), limit, "statistics over the batch, or a stale cache")


def _generic_loss(outputs: tuple[Tensor, Tensor]) -> Tensor:
    """Scalar that depends on every value of both outputs with weights of its own."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device) for value in outputs]
    return sum(((weight * value).sum() for weight, value in zip(weights, outputs, strict=True)), torch.zeros(()))


def _check_parameters_learn(bijection: Bijection, x: Tensor, cond: Any, dead: Container[str]) -> list[Tensor]:
    """Return the parameters that a loss must reach, and does."""
    named = {name: p for name, p in bijection.named_parameters() if p.requires_grad and name not in dead}
    loss = _generic_loss(bijection(x, cond))
    _require(
        not named or loss.requires_grad,
        "forward cuts the graph: no parameter receives a gradient (detach, no_grad, .data?)",
    )
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True) if named else ()
    for name, grad in zip(named, grads, strict=True):
        unused = grad is None or not bool(grad.abs().max() > 0 or grad.isnan().any())
        _require(not unused, f"parameter {name} receives no gradient: unused, detached, or behind a zero layer")
        _require(grad is not None and bool(grad.isfinite().all()), f"gradient of parameter {name} is not finite")
    return list(named.values())


def _check_derivative(direction: Map, at: Tensor, parameters: list[Tensor], name: str, limit: float) -> None:
    """Compare a generic loss's derivative along a random direction of input and parameters with central differences."""
    generator, at = torch.Generator().manual_seed(2), at.detach().clone().requires_grad_()
    variables = [at, *parameters]
    along = [torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device) for v in variables]
    loss = _generic_loss(direction(at))
    _require(loss.requires_grad, f"{name} is not differentiable by its input: the graph is cut")
    grads = torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True)
    slope = torch.stack([(grad * by).sum() for grad, by in zip(grads, along, strict=True)]).sum()

    @torch.no_grad()
    def central_difference(step: float) -> Tensor:
        before, losses = [variable.clone() for variable in variables], []
        for signed in (step, -step, 0):  # at last as they were
            for variable, value, by in zip(variables, before, along, strict=True):
                variable.copy_(value + signed * by)
            losses.append(_generic_loss(direction(at)))
        return (losses[0] - losses[1]) / (2 * step)

    title = f"{name}: derivative by the input{' and parameters' if parameters else ''} against central differences"
    nearest = min(map(central_difference, STEPS), key=lambda estimate: float((estimate - slope).abs()))
    _expect(title, (slope, nearest), limit, "a detached intermediate or a wrong hand-written backward")


def _random_elements(
    x_shape: tuple[int, ...], batch: int, num_params: int, x_range: float, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return x of shape (b, ...) or (n, b, ...), and params (b, num_params, ...)."""
    x = x_range * (2 * torch.rand(x_shape, generator=generator, dtype=torch.float64) - 1)
    rest = x_shape[1:] if x_shape[0] == batch else x_shape[2:]
    params = scale * torch.randn(batch, num_params, *rest, generator=generator, dtype=torch.float64)
    return x, params


def _element_cases(
    num_params: int, x_range: float, scale: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    for x_shape in ((2, 3), (3, 2, 3), (2, 3, 4, 5), (3, 2, 3, 4, 5)):
        yield _random_elements(x_shape, 2, num_params, x_range, scale, generator)


def _check_element_values(elementwise: Elementwise, x: Tensor, params: Tensor, tolerance: float) -> None:
    x = x.clone().requires_grad_()
    y, log_slope = _checked_element_outputs(elementwise, x, params, "forward")
    (slope,) = _gradients(y, x)
    cause = "a missing term or a wrong sign"
    _expect("log-slope of forward against autograd", (log_slope, slope.log()), tolerance, cause)
    back, inverse_log_slope = _checked_element_outputs(elementwise.inverse, y.detach(), params, "inverse")
    again, log_slope = elementwise(back, params)
    _expect("c(c⁻¹(y)) against y", (again, y), tolerance, "cancellation, or a root of the wrong branch")
    _expect("log-slope of inverse against −log-slope of forward", (inverse_log_slope, -log_slope), tolerance, cause)


def _checked_element_outputs(direction: ElementMap, x: Tensor, params: Tensor, name: str) -> tuple[Tensor, Tensor]:
    y, log_slope = direction(x, params)
    shapes = tuple(y.shape), tuple(log_slope.shape)
    _require(
        shapes == (x.shape, x.shape),
        f"{name} of shape {tuple(x.shape)} returned {shapes}, expected the shape of x twice",
    )
    return y, log_slope


def _check_elements_alone(elementwise: Elementwise, x: Tensor, params: Tensor, tolerance: float) -> None:
    """Compare each element as an item of its own, without autograd."""
    of_elements = params.movedim(1, -1).reshape(x.numel(), -1, 1)
    for name, direction in (("forward", elementwise), ("inverse", elementwise.inverse)):
        with torch.no_grad():
            alone = direction(x.reshape(-1, 1), of_elements)
        for what, *values in zip(("value", "log-slope"), alone, direction(x, params), strict=True):
            title = f"{name}: {what} of an element alone under torch.no_grad against among others with autograd"
            _expect(title, (values[0].view(x.shape), values[1]), tolerance, "others, or their number, count")


def _check_sharing(elementwise: Elementwise, x: Tensor, params: Tensor, tolerance: float) -> None:
    """Samples x (n, b, ...) that share params must give what each of them gives alone."""
    for name, direction in (("forward", elementwise), ("inverse", elementwise.inverse)):
        alone = [_values_and_gradient(direction, sample, params) for sample in x]
        expected = [torch.stack(values) for values in zip(*alone, strict=True)]
        expected[2] = expected[2].sum(0)
        found = _values_and_gradient(direction, x, params)
        for what, *values in zip(("values", "log-slopes", "gradient by parameters"), found, expected, strict=True):
            title = f"{name}: {what} of samples (n, b, c, ...) sharing parameters against one by one"
            _expect(title, (values[0], values[1]), tolerance, "broadcasting or summing along the wrong dimension")


def _values_and_gradient(direction: ElementMap, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    params = params.detach().clone().requires_grad_()
    y, log_slope = direction(x, params)
    (gradient,) = _gradients(y + log_slope, params)
    return y.detach(), log_slope.detach(), gradient


def _check_increasing(elementwise: Elementwise, x_range: float, scale: float, generator: torch.Generator) -> None:
    _, params = _random_elements((2, 50), 2, elementwise.num_params, x_range, scale, generator)
    grid = torch.linspace(-x_range, x_range, 201, dtype=torch.float64)[:, None, None].expand(-1, 2, 50)
    for name, direction in (("forward", elementwise), ("inverse", elementwise.inverse)):
        smallest = float(direction(grid, params)[0].detach().diff(dim=0).min())
        _require(smallest > 0, f"{name} must increase: it changes by {smallest:.2g} from one grid point to the next")


def _check_bound(elementwise: Elementwise, x_range: float, scale: float, generator: torch.Generator) -> None:
    """Differences of inverses, over all pairs of a grid that reaches three times as far as the inputs."""
    bound = elementwise.inverse_bound()
    if bound is None:
        return
    _, params = _random_elements((2, 20), 2, elementwise.num_params, x_range, scale, generator)
    y = 3 * x_range * torch.linspace(-1, 1, 101, dtype=torch.float64)
    x = elementwise.inverse(y[:, None, None].expand(-1, 2, 20), params)[0].detach()
    allowed = bound.factor * (y[:, None] - y).abs() + bound.offset
    excess = float(((x[:, None] - x).abs() - allowed[:, :, None, None]).max())
    _require(excess < 1e-9, f"inverse_bound {bound} is exceeded: inverses are farther apart by {excess:.2g}")


def _check_forward_gradients(
    elementwise: Elementwise, x_range: float, scale: float, generator: torch.Generator, limit: float
) -> None:
    x, params = _random_elements((3, 2, 2), 2, elementwise.num_params, x_range, scale, generator)
    x, params = x.requires_grad_(), params.requires_grad_()
    try:
        # Stacked: gradcheck passes over an output without graph.
        gradcheck(lambda *at: torch.stack(elementwise(*at)), (x, params), atol=limit, rtol=limit)
    except GradcheckError as error:
        raise AssertionError(f"forward: gradients by input or parameters, scale {scale}: {error}") from error


def _gradients(value: Tensor, *variables: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the sum of value; zero where the graph does not reach a variable."""
    anchored = value.sum() + sum(0 * variable.sum() for variable in variables)
    return torch.autograd.grad(anchored, variables, retain_graph=True)


def _derivatives(direction: ElementMap, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of the value by x and params, of the log-slope by x and params; those by x as (b, 1, c, ...)."""
    x, params = x.detach().clone().requires_grad_(), params.detach().clone().requires_grad_()
    y, log_slope = direction(x, params)
    y_x, y_p = _gradients(y, x, params)
    l_x, l_p = _gradients(log_slope, x, params)
    return y_x.unsqueeze(1), y_p, l_x.unsqueeze(1), l_p


def _check_inverse_gradients(elementwise: Elementwise, y: Tensor, params: Tensor, limit: float) -> None:
    """For x = c⁻¹(y; p): x_y = 1/c_x, x_p = −c_p/c_x, and the inverse's log-slope is −l(x(y, p), p)."""
    y_x, y_p, l_x, l_p = _derivatives(elementwise, elementwise.inverse(y, params)[0], params)
    x_p = -y_p / y_x
    expected = {
        "x by y": 1 / y_x,
        "x by parameters": x_p,
        "log-slope by y": -l_x / y_x,
        "log-slope by parameters": -l_p - l_x * x_p,
    }
    found = _derivatives(elementwise.inverse, y, params)
    for (what, value), gradient in zip(expected.items(), found, strict=True):
        title = f"inverse: gradient of {what} against the implicit function theorem"
        _expect(title, (gradient, value), limit, "a wrong hand-written backward or a detached intermediate")


def _check_zero_parameters(elementwise: Elementwise, x: Tensor, params: Tensor) -> None:
    params = params.clone().requires_grad_()
    for name, direction in (("forward", elementwise), ("inverse", elementwise.inverse)):
        variable = x.detach().clone().requires_grad_()
        y, log_slope = direction(variable, params)
        grads = _gradients(y + log_slope, variable, params)
        finite = all(bool(value.isfinite().all()) for value in (y, log_slope, *grads))
        _require(finite, f"{name} at zero parameters: values or gradients are not finite")
        largest = float(log_slope.detach().abs().max())
        _require(largest < 1, f"{name} at zero parameters: |log-slope| reaches {largest:.2g}, must stay below 1")
