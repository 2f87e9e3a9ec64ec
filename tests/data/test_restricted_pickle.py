import _codecs as codecs
import functools
import io
import os
import pickle
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from robustflow.data.sources import restricted_pickle
from robustflow.data.sources.restricted_pickle import load_arrays
from robustflow.utils.errors import UserError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def arrays() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    read_only = image[::-1].copy()
    read_only.flags.writeable = False
    return [
        image,
        random.integers(0, 256, (3, 4, 6), dtype=np.uint8).transpose(1, 2, 0),
        random.integers(0, 256, (3, 4, 6), dtype=np.uint8).transpose(2, 0, 1),
        np.asfortranarray(image),
        image[::2, ::-1],
        read_only,
        image,
    ]


def dumped(folder: Path, content: object, protocol: int = 4) -> Path:
    file = folder / "images.pklv4"
    file.write_bytes(pickle.dumps(content, protocol))
    return file


def refused(file: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=re.escape(str(file)) + ".*" + pattern):
        load_arrays(file)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_back_equal_contiguous_and_writable(tmp_path: Path, protocol: int):
    loaded = load_arrays(dumped(tmp_path, arrays(), protocol))
    assert len(loaded) == len(arrays())
    for got, expected in zip(loaded, arrays(), strict=True):
        assert type(got) is np.ndarray
        assert got.dtype == np.uint8
        assert np.array_equal(got, expected)
        assert got.flags.c_contiguous
        assert got.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_files_of_the_other_numpy_are_read(tmp_path: Path, protocol: int):
    content = pickle.dumps(arrays(), protocol)
    # The name's length stands before it where the protocol has one: as a byte, within a frame of known length.
    here = b"numpy._core." if b"numpy._core." in content else b"numpy.core."
    there = b"numpy.core." if here == b"numpy._core." else b"numpy._core."
    for module in (b"multiarray", b"numeric"):
        old, new = here + module, there + module
        content = content.replace(b"c" + old, b"c" + new)
        content = content.replace(bytes([0x8C, len(old)]) + old, bytes([0x8C, len(new)]) + new)
        if protocol >= 4 and new in content:
            (length,) = struct.unpack_from("<Q", content, 3)
            content = content[:3] + struct.pack("<Q", length + len(new) - len(old)) + content[11:]
    assert there in content
    assert here not in content
    file = tmp_path / "other.pklv4"
    file.write_bytes(content)
    assert all(map(np.array_equal, load_arrays(file), arrays()))


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(kind: str, trace: Path) -> object:
    """A value whose unpickling makes the file ``trace``."""
    touch = Call(os.system, f"touch {trace}")
    if kind == "bare":
        return touch
    if kind == "nested list":
        return [arrays()[0], [[touch]]]
    if kind == "object array":
        return [np.array([touch, 1], dtype=object)]
    if kind == "argument of encode":
        return [Call(codecs.encode, Call(os.system, f"touch {trace}"), "latin1")]
    if kind == "getattr":
        return [Call(getattr, Call(__import__, "os"), "system")]
    if kind == "partial":
        return [functools.partial(os.system, f"touch {trace}")]
    return [Call(eval, f"open({str(trace)!r}, 'w')")]


FORBIDDEN = {
    "bare": rf"'{os.system.__module__}\.system'",
    "nested list": rf"'{os.system.__module__}\.system'",
    "object array": "dtype 'O8'",
    "argument of encode": rf"'{os.system.__module__}\.system'",
    "getattr": r"'(__builtin__|builtins)\.getattr'",
    "partial": r"'functools\.partial'",
    "eval": r"'(__builtin__|builtins)\.eval'",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", FORBIDDEN)
def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path, kind: str, protocol: int):
    trace = tmp_path / "trace"
    file = dumped(tmp_path, hostile(kind, trace), protocol)
    refused(file, FORBIDDEN[kind])
    assert not trace.exists()


def test_the_hostile_files_of_these_tests_would_act(tmp_path: Path):
    for kind in ("bare", "nested list", "object array", "eval"):
        trace = tmp_path / "trace"
        pickle.loads(pickle.dumps(hostile(kind, trace)))
        assert trace.exists()
        trace.unlink()


def test_names_are_neither_imported_nor_looked_into(tmp_path: Path):
    (tmp_path / "never_imported.py").write_text("raise SystemExit")
    file = tmp_path / "a.pklv4"
    sys.path.insert(0, str(tmp_path))
    try:
        file.write_bytes(b"cnever_imported\nthing\n.")
        refused(file, "'never_imported.thing'")
    finally:
        sys.path.remove(str(tmp_path))
    for module, name in (("numpy", "ndarray.tofile"), ("numpy", "fromfile"), ("robustflow", "errors"), ("", "")):
        encoded = b"".join(bytes([0x8C, len(text)]) + text.encode() for text in (module, name))
        file.write_bytes(b"\x80\x04" + encoded + b"\x93.")
        refused(file, re.escape(f"'{module}.{name}'"))


NDARRAY, DTYPE, ENCODE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"
FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
UINT8 = DTYPE + b"(X\x02\x00\x00\x00u1I00\nI01\ntR"
EMPTY = RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntC\x01btR"


@pytest.mark.parametrize(
    ("program", "pattern"),
    [
        (ENCODE + b"(X\x01\x00\x00\x00aX\x06\x00\x00\x00base64tR", "'_codecs.encode' with 'base64'"),
        (ENCODE + b"(C\x01aX\x06\x00\x00\x00latin1tR", "'_codecs.encode'"),
        (ENCODE, "a bare name as item 0"),
        (ENCODE + b"}X\x05\x00\x00\x00_callNsb", "attempt to alter a function"),
        (NDARRAY + b"(I3\ntR", "a call of 'numpy.ndarray'"),
        (NDARRAY + b")\x81", "could not read it: .*not a type"),
        (RECONSTRUCT + b"(" + DTYPE + b"(I0\ntC\x01btR", "no numpy.ndarray"),
        (DTYPE + b"(X\x02\x00\x00\x00f4I00\nI01\ntR", "dtype 'f4'"),
        (DTYPE + b"(]tR", r"dtype \[\]"),
        (UINT8, "type _Uint8 as item 0"),
        (EMPTY, "an array without data as item 0"),
        (EMPTY + b"(I1\n(I2\nt" + UINT8 + b"I00\n]tb", "data are not its bytes"),
        (EMPTY + b"(I1\n(I2\nt" + DTYPE + b"I00\nC\x02abtb", "data are not its bytes"),
        (EMPTY + b"(I1\n(I2\nt" + UINT8 + b"I00\nC\x01atb", r"shape \(2,\) with 1 bytes"),
        (EMPTY + b"(I1\n(I-1\nI-1\nt" + UINT8 + b"I00\nC\x01atb", r"shape \(-1, -1\)"),
        (EMPTY + b"(I1\nI1\n" + UINT8 + b"I00\nC\x01atb", "shape 1 with"),
        (EMPTY + b"Nb", "could not read it"),
        (FROMBUFFER + b"(C\x01a" + UINT8 + b"(I1\ntX\x01\x00\x00\x00AtR", "data are not its bytes"),
        (FROMBUFFER + b"(C\x01a" + UINT8 + b"(I1\ntX\x01\x00\x00\x00K(I5\nttR", "could not read it"),
        (b"X\x01\x00\x00\x00aQ", "objects outside the file"),
        (b"Pname\n", "objects outside the file"),
        (b"\x82\x01", "could not read it"),
        (b"I7\n", "type int as item 0"),
    ],
)
def test_forged_programs_are_refused(tmp_path: Path, program: bytes, pattern: str):
    file = tmp_path / "forged.pklv4"
    file.write_bytes(b"\x80\x04]" + program + b"a.")
    refused(file, pattern)


def test_array_that_its_buffer_outgrows_is_refused(tmp_path: Path):
    bytes_of = b"\x96" + struct.pack("<Q", 1) + b"a"
    program = b"\x80\x05]" + bytes_of + b"\x940" + FROMBUFFER + b"(h\x00" + UINT8 + b"(I1\ntX\x01\x00\x00\x00CtRa"
    file = tmp_path / "forged.pklv4"
    file.write_bytes(program + b".")
    assert load_arrays(file)[0].tolist() == [97]
    file.write_bytes(program + b"h\x00I7\na0.")
    refused(file, "could not read it")


def test_stand_ins_are_unchanged_by_what_was_read():
    for stand_in in restricted_pickle._ALLOWED.values():
        assert not hasattr(stand_in, "__dict__")
        assert not isinstance(stand_in, type)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (np.zeros((2, 2, 3), np.uint8), "an array that is in no list"),
        ((np.zeros((2, 2, 3), np.uint8),), "type tuple"),
        ({"a": 1}, "type dict"),
        ([np.zeros((2, 2, 3), np.uint8), [np.zeros((2, 2, 3), np.uint8)]], "type list as item 1"),
        ([np.zeros((2, 2, 3), np.float32)], "dtype 'f4'"),
        ([np.zeros((2, 2, 3), np.int8)], "dtype 'i1'"),
        ([np.zeros(2, [("a", "u1")])], "dtype 'V1'"),
        ([np.zeros((2, 2), np.uint8).view(np.matrix)], "numpy.*matrix'"),
        ([np.uint8(3)], "numpy.*scalar'"),
        ([b"abc"], "type bytes as item 0"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, pattern: str):
    refused(dumped(tmp_path, content), pattern)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_anywhere_is_refused(tmp_path: Path, protocol: int):
    file = dumped(tmp_path, arrays()[:2], protocol)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        refused(file, "expected a pickle file .* (could not read it: .|got one that asks for)")


def test_damage_anywhere_gives_arrays_or_a_user_error(tmp_path: Path):
    random = np.random.default_rng(0)
    file = tmp_path / "damaged.pklv4"
    outcomes = set()
    for protocol in PROTOCOLS:
        content = pickle.dumps(arrays()[:2], protocol)
        for position in range(2, len(content)):
            forged = bytearray(content)
            forged[position] = random.integers(256)
            file.write_bytes(forged)
            try:
                outcomes.add(type(load_arrays(file)))
            except UserError:
                outcomes.add(UserError)
    assert outcomes == {list, UserError}


def test_no_pickle_files_are_refused(tmp_path: Path):
    refused(tmp_path / "missing.pklv4", "no such file")
    refused(tmp_path, "is a directory")
    file = tmp_path / "pointer.pklv4"
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x89PNG\r\n", bytes(100)):
        file.write_bytes(content)
        refused(file, "expected a pickle file")
    dumped(tmp_path, [])
    shutil.copy(tmp_path / "images.pklv4", file)
    with file.open("ab") as stream:
        stream.write(pickle.dumps(arrays()))
    refused(file, "more data behind the first pickle")


def test_buffers_outside_the_file_are_refused(tmp_path: Path):
    file, buffers = tmp_path / "bare.pklv4", []
    stream = io.BytesIO()
    pickle.Pickler(stream, 5, buffer_callback=buffers.append).dump(arrays()[:1])
    assert buffers
    file.write_bytes(stream.getvalue())
    refused(file, "out-of-band")


def test_no_more_memory_than_the_file_has_bytes_for(tmp_path):
    file = tmp_path / "images.pklv4"
    array = (
        b"cnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR(M\xe8\x03tX\x01\x00\x00\x00CtRa"
    )
    thousand_bytes = b"B\xe8\x03\x00\x00" + bytes(1000) + b"q\x000"
    file.write_bytes(b"\x80\x03" + thousand_bytes + b"]" + array + b".")
    assert [found.shape for found in load_arrays(file)] == [(1000,)]
    file.write_bytes(b"\x80\x03" + thousand_bytes + b"]" + 50 * array + b".")
    refused(file, "got arrays of more than its .* bytes")
    file.write_bytes(b"\x80\x04]r\xff\xff\xff\xff.")  # the value of number 2^32 - 1
    assert load_arrays(file) == []


def test_an_array_that_is_there_twice(tmp_path):
    array = np.zeros((100, 100, 3), np.uint8)
    assert len(load_arrays(dumped(tmp_path, [array] * 1000))) == 1000


def test_endless_texts_are_cut(tmp_path):
    file = tmp_path / "images.pklv4"
    doubled = b")" + b"2\x86" * 60  # a pair of a pair of a pair ...
    file.write_bytes(b"\x80\x04cnumpy\ndtype\n" + doubled + b"\x85R.")
    refused(file, "dtype")
