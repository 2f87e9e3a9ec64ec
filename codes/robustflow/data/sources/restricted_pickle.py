"""Pickle files of uint8 arrays, read without running anything that they ask for.

A pickle is a program: it names functions and has them called. Here it is given none, not even numpy's own: each name
that a list of uint8 arrays needs stands for an inert stand-in of this module, and every other name is refused. (numpy's
own functions would not do: a forged ``dtype`` makes them take bytes for pointers.)
"""

import math
import os
import pickle
import reprlib
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from robustflow.utils.errors import UserError, describe_error

_EXPECTED = "a pickle file that holds a list of uint8 numpy arrays and nothing else"
# What unpickling raises for damaged or forged files; anything else is a fault of ours and must not be hidden.
_DAMAGED = (
    *(pickle.UnpicklingError, struct.error, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(OverflowError, BufferError, MemoryError, RecursionError),
)


def load_arrays(path: str | Path) -> list[np.ndarray]:
    """Read a pickled list of uint8 arrays, of protocol 0 to 5 and written by numpy 1 or 2.

    Safe for files from others: no code of theirs runs, and they take no more memory than a few times their size.

    Args:
        path: File, usually ``.pklv4``; held in memory as a whole.

    Returns:
        The arrays in the file's order, any shape, each C-contiguous and writable.

    Raises:
        UserError: naming the file, and the name it asks for if that is a forbidden one; if it is missing, truncated, no
            pickle, or holds anything but a list of uint8 arrays with their data in the file.
    """
    try:
        with Path(path).open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _Refusal("a pipe or device")
            content = _Unpickler(stream).load()
            spare = stream.read(1) != b""
    except _Refusal as refusal:
        raise UserError(f"{path}: expected {_EXPECTED}, got {refusal}") from refusal
    except _DAMAGED as error:
        reason = "it does not fit into memory" if isinstance(error, MemoryError) else describe_error(error)
        raise UserError(f"{path}: expected {_EXPECTED}, could not read it: {reason}") from error
    if spare:
        raise UserError(f"{path}: expected {_EXPECTED}, got more data behind the first pickle")
    if type(content) is not list:
        raise UserError(f"{path}: expected {_EXPECTED}, got {_describe(content)}")
    total, done = 0, dict[int, _Array]()
    # In place: what has been converted is let go.
    for index, item in enumerate(content):
        if type(item) is not _Array or item.data is None:
            raise UserError(f"{path}: expected {_EXPECTED}, got {_describe(item)} as item {index}")
        if id(item) not in done:
            total += item.data.nbytes
            if total > status.st_size:
                raise UserError(f"{path}: expected {_EXPECTED}, got arrays of more than its {status.st_size} bytes")
            item.data = np.require(item.data, requirements=("C", "W"))
            done[id(item)] = item
        content[index] = item.data
    return content


class _Refusal(Exception):
    """The file asks for something that is not given; the message says what it was."""


class _Array:
    """An array in the making; what a pickle can do to it is in ``__setstate__``."""

    __slots__ = ("data",)

    def __init__(self, data: np.ndarray | None = None) -> None:
        self.data = data

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, buffer = state
        self.data = _shape_array(buffer, dtype, shape, "F" if fortran else "C")


class _Uint8:
    """The one dtype there is."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: one-byte integers have neither."""


class _StandIn:
    """What a pickle is given for a name; it can call it, but neither alter it nor reach what is behind it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refusal("an attempt to alter a function")


def _ndarray(*_args: Any) -> NoReturn:
    raise _Refusal("a call of 'numpy.ndarray'")


def _dtype(code: Any, *_flags: Any) -> _Uint8:
    if code != "u1":
        raise _Refusal(f"an array of dtype {_shorten(code)}")
    return _Uint8()


def _reconstruct(subtype: Any, _shape: Any, _code: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise _Refusal("an array that is no numpy.ndarray")
    return _Array()


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    # Order "K": a transposed array, written as it lies in memory.
    if order == "K" and axes is not None:
        return _Array(_shape_array(buffer, dtype, shape, "C").transpose(axes))
    return _Array(_shape_array(buffer, dtype, shape, order))


def _encode(text: Any, encoding: Any) -> bytes:
    """The bytes that protocols 0 to 2 write as text; other codecs are programs of their own."""
    if type(text) is not str or encoding != "latin1":
        raise _Refusal(f"a call of '_codecs.encode' with {_shorten(encoding)}")
    return text.encode("latin1")


def _shape_array(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if type(buffer) not in (bytes, bytearray) or type(dtype) is not _Uint8 or order not in ("C", "F"):
        raise _Refusal("an array whose data are not its bytes")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) != len(buffer):
        raise _Refusal(f"an array of shape {_shorten(shape)} with {len(buffer)} bytes")
    return np.frombuffer(buffer, np.uint8).reshape(shape, order=order)


_NDARRAY = _StandIn(_ndarray)
_ALLOWED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _StandIn(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_frombuffer),
    ("numpy._core.numeric", "_frombuffer"): _StandIn(_frombuffer),
    ("_codecs", "encode"): _StandIn(_encode),
}


class _Unpickler(pickle._Unpickler):
    """Gives a pickle the stand-ins and nothing else; never imports.

    The one written in Python: the other reserves as many entries as the highest number that a file gives to a value.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, or refuse."""
        if (module, name) not in _ALLOWED:
            raise _Refusal(f"one that asks for {_shorten(f'{module}.{name}')} (refused; nothing of it was run)")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse what lies outside the file."""
        raise _Refusal("one that refers to objects outside the file")


def _describe(value: Any) -> str:
    if type(value) is _Array:
        return "an array without data" if value.data is None else "an array that is in no list"
    return "a bare name" if type(value) is _StandIn else f"a value of type {type(value).__name__}"


def _shorten(value: Any) -> str:
    # Of bounded depth: values that refer to one value many times have endless texts.
    return reprlib.repr(value)[:100]
