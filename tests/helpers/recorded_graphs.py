"""CUDA graphs without a GPU: a capture records each operation with its tensors, a replay runs them on these again.

As on a GPU, no line of Python runs in a replay, results lie where they lay, and a capture refuses to read values back.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustflow.nn import graphs

aten = torch.ops.aten
_OF_NUMBERS = aten.lift_fresh.default
_REFUSED = {
    aten._local_scalar_dense.default: "operation not permitted when stream is capturing",
    aten.nonzero.default: "operation not permitted when stream is capturing",
    aten.equal.default: "operation not permitted when stream is capturing",
    _OF_NUMBERS: "a tensor made of Python's numbers is copied from the host",
}


class RecordedGraph:
    """Stands in for torch.cuda.CUDAGraph; on a CPU, tensors made of Python's numbers can be constants of a graph."""

    takes_numbers = False

    def __init__(self):
        self.operations, self.n_replays = [], 0

    def capture_begin(self):
        """Called by ``torch.cuda.graph``, as torch's own is; to be watched."""

    @torch.no_grad()
    def replay(self):
        self.n_replays += 1
        for function, arguments, keywords, results in self.operations:
            again = function(*arguments, **keywords)
            if not function._schema.is_mutable:
                for tensor, value in zip(tree_leaves(results), tree_leaves(again), strict=True):
                    if isinstance(tensor, torch.Tensor):
                        tensor.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function in _REFUSED and not (function is _OF_NUMBERS and self._graph.takes_numbers):
            raise RuntimeError(f"{_REFUSED[function]}\nmore of it")
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise RuntimeError(f"{function} draws random numbers")
        results = function(*arguments, **keywords)
        aliases = [returned.alias_info for returned in function._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self._graph.operations.append((function, arguments, keywords, results))
        return results


class _Stream:
    def __init__(self, device=None):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


class Recording:
    """What was captured, with which settings; the stream that is current, and what is done about reads of values."""

    def __init__(self):
        self.graphs, self.settings, self.sync_debug_mode = [], [], 0
        self.main = self.current = _Stream()

    @contextlib.contextmanager
    def use(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def set_sync_debug_mode(self, mode):
        self.sync_debug_mode = mode

    @contextlib.contextmanager
    def capture(self, graph, **settings):
        self.graphs.append(graph)
        self.settings.append(settings)
        before, self.current = self.current, settings["stream"]
        graph.capture_begin()
        with _Recorder(graph):
            yield
        # As with torch's own, an error leaves its stream current.
        self.current = before

    @property
    def n_replays(self):
        return [graph.n_replays for graph in self.graphs]


def install(monkeypatch, *, takes_numbers=False):
    """Let CPUs capture; return what they do."""
    monkeypatch.setattr(RecordedGraph, "takes_numbers", takes_numbers)
    recording = Recording()
    monkeypatch.setattr(graphs, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "_streams", {})
    replaced = {
        "CUDAGraph": RecordedGraph,
        "Stream": _Stream,
        "current_stream": lambda device: recording.current,
        "device": lambda device: contextlib.nullcontext(),
        "get_sync_debug_mode": lambda: recording.sync_debug_mode,
        "graph": recording.capture,
        "graph_pool_handle": object,
        "set_sync_debug_mode": recording.set_sync_debug_mode,
        "stream": recording.use,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return recording
