"""A safetensors file read as data: what the library of that name wrote, and one line for whatever else."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koemorph_tutorial.header import find_misplaced, read_header
from koemorph_tutorial.records import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError
from koemorph_tutorial.storage import load_checkpoint
from koemorph_tutorial.stubs import TensorStub, find_tensors
from koemorph_tutorial.tensors import TensorReader

from .test_tensors import NAMES, UNKNOWN_TO_SAFETENSORS, bits, tensor_of

DTYPES = [name for name in NAMES if name not in UNKNOWN_TO_SAFETENSORS]


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def written(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file whose header is anything at all."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def refused(path: Path, data: bytes) -> str:
    """Return why a file is refused, "" if it is read; fail for anything but one line of ours."""
    path.write_bytes(data)
    try:
        header = read_header(path)
    except CheckpointError as error:
        text = str(error)
    else:
        assert [] == list(find_misplaced(header))
        return ""
    assert text.startswith(f"{path}: expected ")
    assert (1, True) == (len(text.splitlines()), text.isprintable())
    return text


SMALL = written(
    {"__metadata__": {"format": "pt"}, "weight": entry([2, 3], 0, 24), "bias": entry([2], 24, 32)},
    struct.pack("<8f", *range(8)),
)


# ---------------------------------------------------------------------------------------------- what the library wrote


def test_every_dtype_and_the_metadata_are_read(tmp_path: Path) -> None:
    """Names in the order of the file, shapes, dtypes, bits, text beside them."""
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor_of(name, bytes(range(64))).reshape(2, 2, -1) for name in DTYPES}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "声": torch.ones(1)}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "声": "koe\n"})
    header = read_header(path)
    assert ("safetensors", False, (), path.stat().st_size) == (
        header.kind,
        header.checksums,
        header.foreign,
        header.size,
    )
    assert {"format": "pt", "声": "koe\n"} == header.metadata
    expected = {name: TensorStub(tuple(t.shape), str(t.dtype)[6:]) for name, t in tensors.items()}
    assert expected == header.content
    assert [] == list(find_misplaced(header))
    with TensorReader(path, header) as reader:
        assert {name: bits(t) for name, t in tensors.items()} == {
            name: reader.read(stub).tobytes() for name, stub in header.content.items()
        }


def test_it_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    """Said in one line, with what to do."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(SMALL)
    message = (
        f"{path}: expected the zip format of torch.save, found a safetensors file, which holds weights and nothing"
    )
    with pytest.raises(UnsupportedCheckpointError, match=rf"^{re.escape(message)} to go on from; load_weights takes"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model"])
def test_a_file_is_known_by_its_bytes(tmp_path: Path, name: str) -> None:
    """Whatever it is called."""
    path = tmp_path / name
    assert "" == refused(path, SMALL)
    assert "safetensors" == read_header(path).kind


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(written({}), id="no tensor"),
        pytest.param(written(b'{"__metadata__":null}'), id="no metadata, said"),
        pytest.param(written({"a": entry([], 0, 4)}, bytes(4)), id="a number alone"),
        pytest.param(written({"a": entry([0], 0, 0), "b": entry([0, 2**62], 0, 0)}), id="no number"),
        pytest.param(
            written({"c": entry([1], 4, 8), "b": entry([0], 4, 4), "a": entry([1], 0, 4)}, bytes(8)),
            id="an empty one between others",
        ),
        pytest.param(written({"": entry([1], 0, 4)}, bytes(4)), id="no name"),
        pytest.param(written({"a": entry([1], 0, 4, more=[])}, bytes(4)), id="more in a description"),
        pytest.param(written(json.dumps({"a": entry([1], 0, 4)}).encode() + b" " * 100, bytes(4)), id="spaces"),
        pytest.param(written({"a": entry([1] * 64, 0, 4)}, bytes(4)), id="64 axes"),
    ],
)
def test_what_is_odd_and_allowed_is_read(tmp_path: Path, data: bytes) -> None:
    """The format says how bytes lie, and these do."""
    assert "" == refused(tmp_path / "model.safetensors", data)


# -------------------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    """At every byte; and one that goes on behind its end."""
    path = tmp_path / "model.safetensors"
    assert [] == [length for length in range(1, len(SMALL)) if not refused(path, SMALL[:length])]
    assert f"its tensors end at byte {len(SMALL)}, and the file at {len(SMALL) - 1}" in refused(path, SMALL[:-1])
    assert f"its tensors end at byte {len(SMALL)}, and the file at {len(SMALL) + 1}" in refused(path, SMALL + b"\0")


def test_a_flipped_bit_of_the_header_gives_a_header_or_one_line(tmp_path: Path) -> None:
    """Where it is read all the same, every tensor lies within the file."""
    path = tmp_path / "model.safetensors"
    for bit in random.Random(0).sample(range(len(SMALL) * 8), 700):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        if not refused(path, bytes(data)):
            header = read_header(path)
            with TensorReader(path, header) as reader:
                assert all(stub.numbers == reader.read(stub).size for stub in header.content.values())


DIGITS = "9" * 100_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (written({"a": entry([1], 4, 8)}, bytes(8)), "tensor 'a' begins at byte 4 of the data, not at 0"),
        (written({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "tensor 'b' begins at byte 8 of the"),
        (written({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)), "tensor 'b' begins at byte 4 of the"),
        (written({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)), "begins at byte 0 of the data, not at 4"),
        (written({"a": entry([1], 0, 4)}), "and the file at"),
        (written({"a": entry([2], 0, 4)}, bytes(4)), "tensor 'a', whose description does not fit its bytes"),
        (written({"a": entry([1], 0, 4, "F64")}, bytes(4)), "tensor 'a', whose description does not fit its bytes"),
        (written({"a": entry([1], 4, 0)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([-1, -1], -4, 0)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([True], 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1.0], 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1], False, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1], 0, 4.0)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry(["1"], 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry({"0": 1}, 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry(None, 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1], 0, 4, None)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1], 0, 4, ["F32"])}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([1] * 65, 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": entry([2**31, 2**31, 4], 0, 0)}), "does not fit its bytes"),
        (written({"a": entry([2**32, 2**32], 0, 0)}), "does not fit its bytes"),
        (written({"a": entry([2**64 + 1], 0, 4)}, bytes(4)), "does not fit its bytes"),
        (written({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)), "does not fit its bytes"),
        (written({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "does not fit its bytes"),
        (written({"a": []}), "tensor 'a', whose description does not fit its bytes"),
        (written({"a": None}), "tensor 'a', whose description does not fit its bytes"),
        (written({"\n\x1b[31m" * 99: None}), r"tensor '\n\x1b[31m"),
        (written(b'{"a":{},"a":{}}'), "a name that is there twice"),
        (written(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "a name that is there twice"),
        (written(b'{"__metadata__":{"a":"b","a":"c"}}'), "a name that is there twice"),
        (written({"__metadata__": {"a": 1}}), "metadata that is no text"),
        (written({"__metadata__": ["a"]}), "metadata that is no text"),
        (written({"__metadata__": ""}), "metadata that is no text"),
        (
            written(b"{" + b'"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            "more brackets than a header of tensors has",
        ),
        (written(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "more brackets than a header of tensors has"),
        (written(b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b" " * 50_000), "a header in which too much is nested"),
        (written(b'{"a":{"shape":[' + DIGITS.encode() + b"]}}"), "digits"),
        (written(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,Infinity]}}'), "does not fit its bytes"),
        (written(b'{"a":'), "JSONDecodeError"),
        (written(b"{} {}"), "JSONDecodeError"),
        (written(b'{"\xff":1}'), "UnicodeDecodeError"),
        (written(b'{"a":"\xed\xa0\x80"}'), "UnicodeDecodeError"),
        (written(b"{}", length=2**63), "it says to have a header of 9,223,372,036,854,775,808 bytes"),
        (written(b"{}", length=2**64 - 1), "it says to have a header of 18,446,744,073,709,551,615 bytes"),
        (written(b"{}", length=3), "it says to have a header of 3 bytes"),
        (written(b"{}", length=1), "JSONDecodeError"),
        (written(b"{}x", length=2), "its tensors end at byte 10, and the file at 11"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(tmp_path: Path, data: bytes, why: str) -> None:
    """Gaps, overlaps, names twice, numbers that are none, lengths that lie: one line, which can be printed."""
    path = tmp_path / "model.safetensors"
    text = refused(path, data)
    assert text.startswith(f"{path}: expected a safetensors file, found one that cannot be read (")
    assert why in text
    assert text.endswith("; use an older checkpoint of the run")


@pytest.mark.parametrize("dtype", ["F33", "f32", "F4"])
def test_a_dtype_that_is_not_known_here_is_not_called_damage(tmp_path: Path, dtype: str) -> None:
    """The format may have grown since: whether the file is sound cannot be told."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(written({"a": entry([1], 0, 4, dtype)}, bytes(4)))
    message = f"{path}: expected known tensors, found tensor 'a' of the dtype {dtype!r}, which is not known here"
    with pytest.raises(UnsupportedCheckpointError, match=rf"^{re.escape(message)}$"):
        read_header(path)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 12),
        st.floats(),
        st.sampled_from(["F32", "U8", "BOOL", "a", "dtype", "shape", "data_offsets"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "dtype", "shape", "data_offsets"]), inner),
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F8_E8M0"]),
        "shape": st.lists(st.integers(0, 3), max_size=2),
        "data_offsets": st.lists(st.integers(0, 12), min_size=2, max_size=2),
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), st.one_of(ENTRIES, JSON)),
    st.binary(max_size=12),
)
def test_no_header_does_more_than_fail_in_one_line(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    """What is read covers every byte of the data, and each once."""
    path = tmp_path / "model.safetensors"
    file = written(header, data)
    if refused(path, file):
        return
    places = sorted((place.offset, place.size) for place in read_header(path).places.values())
    covered = [byte for begin, size in places for byte in range(begin, begin + size)]
    assert list(range(len(file) - len(data), len(file))) == covered


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from("abc"), ENTRIES), st.binary(max_size=12))
def test_the_library_of_that_name_agrees(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    """A header of the right form is read here where it is read there, and refused where it is refused."""
    path = tmp_path / "model.safetensors"
    file = written(header, data)
    ours = not refused(path, file)
    try:
        safetensors.deserialize(file)
        theirs = True
    except safetensors.SafetensorError:
        theirs = False
    assert theirs == ours


def test_a_claim_of_ten_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """A header of that length, a tensor of that size, and one of 2 ** 62 numbers of no bytes: in half a gigabyte."""
    size = 10**10
    paths = []
    for number, data in enumerate(
        (
            written({"a": entry([size // 4], 0, size)}, bytes(4)),
            written(b"{}", length=size),
            written({"a": entry([2**62], 0, 0)}),
            written({"a": entry([2**62, 0], 0, 0)}),
            written(b"{" + b" " * 1000 + b"}", length=2**25 - 1),
        )
    ):
        paths.append(tmp_path / f"{number}.safetensors")
        paths[-1].write_bytes(data)
    program = (
        "import pathlib, resource, sys\n"
        "from koemorph_tutorial.header import read_header\n"
        "from koemorph_tutorial.records import DamagedCheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_header(pathlib.Path(path))\n        print('read')\n"
        "    except DamagedCheckpointError as error:\n        print(str(error).partition('(')[2])\n"
    )
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = done.stdout.splitlines()
    starts = ["its tensors end at", "it says to have a header", "tensor 'a', whose", "read", "it says to have a header"]
    assert [True] * 5 == [line.startswith(start) for line, start in zip(said, starts, strict=True)], said


def test_names_that_nobody_can_print_are_read_and_harmless(tmp_path: Path) -> None:
    """Half a character is legal in JSON; what is shown of it elsewhere is escaped."""
    path = tmp_path / "model.safetensors"
    assert "" == refused(path, written(b'{"\\ud800\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"))
    assert [("\ud800\n",)] == [keys for keys, _ in find_tensors(read_header(path).content)]
    with pytest.raises(DamagedCheckpointError, match=r"\(tensor '\\ud800\\n', whose description"):
        path.write_bytes(written(b'{"\\ud800\\n":{}}'))
        read_header(path)
