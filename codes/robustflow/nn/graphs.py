"""CUDA graphs: the kernels of a function are recorded once and replayed, which spares the host launching them.

For networks of many small layers the host is the slower part: launching a kernel takes longer than running it.
"""

import contextlib
import gc
import logging
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Calls before a capture, in which libraries choose and initialise what a capture may not.
_WARM_UPS = 3

# On which a device's captures are made: libraries keep a workspace, of tens of MiB, for each stream they are used on.
_streams: dict[torch.device, torch.cuda.Stream] = {}


# A graph, its inputs and its result.
_Captured = tuple[torch.cuda.CUDAGraph, list[Tensor | None], Any]


class Graphed(Generic[Result]):
    """A function of tensors that is captured once for each of their shapes, and replayed; on CPUs, just called.

    The function must not read anything back from the device, and do the same whenever key, shapes and types are the
    same. What it returns then holds the very same tensors each time: the next call, of whatever shapes, overwrites
    them. They may be altered in place.

    If a capture fails, too little memory included, that is logged, and the function is just called from there on.

    Args:
        function: Of tensors and None, all on one device.
        active: Whether to capture at all.
        capacity: Captures that are kept, those used last. They share their memory, but for what they return.
        uncaptured_calls: Times that the function is just called for given shapes before it is captured for them: a
            capture takes as long as some calls, and pays only if more follow.
    """

    def __init__(
        self, function: Callable[..., Result], active: bool = True, capacity: int = 4, uncaptured_calls: int = 0
    ) -> None:
        self.active, self._uncaptured_calls = active, uncaptured_calls
        self._function, self._capacity = function, capacity
        self.drop()

    def __call__(self, *tensors: Tensor | None, key: Hashable = None) -> Result:
        """Call the function, or replay what it did.

        Args:
            *tensors: Its arguments.
            key: All else that decides what it does: flags of modules, say.
        """
        captured = self._captured_of(tensors, key)
        if captured is None:
            return self._function(*tensors)
        graph, inputs, result = captured
        for static, given in zip(inputs, tensors, strict=True):
            if static is not None and given is not None:
                static.copy_(given, non_blocking=True)
        graph.replay()
        return result

    def captures(self, device: torch.device) -> bool:
        """Whether calls on a device are captured; if not, it is as well to call the function itself."""
        # Autocast frees the weights it has rounded, which a graph would go on reading.
        return self.active and has_graphs(device) and not torch.is_autocast_enabled(device.type)

    def owns(self, result: Result) -> bool:
        """Whether this is what a capture returns, to be overwritten by the next call for its shapes."""
        return any(own is result for _, _, own in self._captures.values())

    def drop(self) -> None:
        """Forget all captures, and free their memory once nobody holds what they returned."""
        self._captures: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._called: Counter[Hashable] = Counter()
        self._pool: Any = None

    def _captured_of(self, tensors: tuple[Tensor | None, ...], key: Hashable) -> _Captured | None:
        """The capture for these arguments, made if need be; None if there is to be none."""
        device = next((tensor.device for tensor in tensors if tensor is not None), None)
        if device is None or not self.captures(device):
            return None
        signature = (key, *(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in tensors))
        if signature not in self._captures:
            self._called[signature] += 1
            if self._called[signature] <= self._uncaptured_calls:
                return None
            try:
                self._captures[signature] = self._capture(tensors, device)
            except RuntimeError as error:
                log.warning("CUDA graphs are not used from here on, which changes speed alone: %s", _reason(error))
                self.active = False
                self.drop()
                return None
        self._captures.move_to_end(signature)
        # The shared memory lives as long as one capture does: the new one is made before an old one goes.
        while len(self._captures) > self._capacity:
            self._captures.popitem(last=False)
        return self._captures[signature]

    def _capture(self, tensors: tuple[Tensor | None, ...], device: torch.device) -> _Captured:
        # Autograd's nodes of earlier calls, kept alive by cycles, would tie the capture to the stream of these calls.
        gc.collect()
        with torch.cuda.device(device), _leaving_inference_mode():
            inputs = [None if tensor is None else tensor.detach().clone() for tensor in tensors]
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            stream = _streams[device] = _streams.get(device) or torch.cuda.Stream(device)
            current = torch.cuda.current_stream(device)
            stream.wait_stream(current)
            try:
                # A capture that fails leaves its stream the current one: this block does not.
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UPS - 1):
                        self._function(*inputs)
                    with _refusing_reads():
                        self._function(*inputs)
                    graph = torch.cuda.CUDAGraph()
                    # Other threads may call CUDA meanwhile: a loader's pins memory.
                    with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                        result = self._function(*inputs)
            finally:
                # What a warm-up made and the function keeps is read here from now on, if the capture failed, too.
                current.wait_stream(stream)
        return graph, inputs, result


@contextlib.contextmanager
def _refusing_reads() -> Iterator[None]:
    """Make an error of what waits for the device.

    A capture would be broken off by it, after which older versions of torch give no cached memory back any more, and
    refuse all further captures.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def _leaving_inference_mode() -> Iterator[None]:
    """Make tensors that can be written to outside of inference mode, too; autograd stays on or off."""
    with_grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(with_grad):
        yield


def has_graphs(device: torch.device) -> bool:
    """Whether a device can replay what it did."""
    return device.type == "cuda"


def _reason(error: BaseException) -> str:
    """First line of what went wrong first: a capture that is broken off complains once more."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
