"""The format of torch.save before 1.6, read as data: the tree that torch loads, and one line for whatever else."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import re
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial.header import find_misplaced, read_header
from koemorph_tutorial.rebuild import kind_text
from koemorph_tutorial.records import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError
from koemorph_tutorial.storage import load_checkpoint
from koemorph_tutorial.stubs import TensorStub
from koemorph_tutorial.tensors import TensorReader
from koemorph_tutorial.unpickling import Opaque

from .test_header import stubbed, trained

LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"


def legacy(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def small() -> dict[str, Any]:
    whole = torch.arange(6, dtype=torch.float32)
    return {"model": OrderedDict(weight=whole, tied=whole[2:4], bias=torch.ones(2)), "epoch": 3, "text": "声"}


SMALL = legacy(small())


def parts(data: bytes = SMALL) -> list[bytes]:
    """Return the five pickles of a file, and the bytes of its storages."""
    file, cuts = io.BytesIO(data), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        cuts.append(file.tell())
    return [data[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(data)], strict=True)]


def refused(path: Path, data: bytes) -> str:
    """Return why a file is refused, "" if it is read; fail for anything but one line of ours."""
    path.write_bytes(data)
    try:
        read_header(path)
    except CheckpointError as error:
        text = str(error)
    else:
        return ""
    assert text.startswith(f"{path}: expected ")
    assert 1 == len(text.splitlines())
    return text


# ----------------------------------------------------------------------------------------------------- what torch wrote


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(trained, id="a training"),
        pytest.param(small, id="shared storages"),
        pytest.param(lambda: torch.zeros(0, 4), id="an empty tensor"),
        pytest.param(lambda: torch.tensor(1.5), id="a tensor alone"),
        pytest.param(lambda: nn.Parameter(torch.zeros(2)), id="a parameter"),
        pytest.param(lambda: [torch.zeros(3).expand(2, 3), torch.zeros(4, 5)[1:, ::2]], id="views"),
        pytest.param(
            lambda: {"none": None, "large": -(2**200), 1: (2.5, [b"\x00\xff", torch.Size([3])])}, id="no tensor"
        ),
        pytest.param(list, id="nothing"),
    ],
)
def test_the_header_is_what_torch_loads(tmp_path: Path, value: Callable[[], Any]) -> None:
    """Same keys, values, shapes and dtypes; and each storage lies where its numbers are."""
    path = tmp_path / "old.pth"
    path.write_bytes(legacy(value()))
    header = read_header(path)
    assert ("legacy", False, (), path.stat().st_size) == (header.kind, header.checksums, header.foreign, header.size)
    assert stubbed(torch.load(path, weights_only=True)) == header.content
    assert [] == list(find_misplaced(header))
    assert all(place.crc is None for place in header.places.values())


def test_tensors_of_one_storage_share_it(tmp_path: Path) -> None:
    """Tied weights name one storage, which is there once."""
    path = tmp_path / "old.pth"
    path.write_bytes(SMALL)
    header = read_header(path)
    weight, tied, bias = header.content["model"].values()
    assert (weight.storage, 2) == (tied.storage, tied.offset)
    assert {weight.storage.key: 24, bias.storage.key: 8} == header.stored
    with TensorReader(path, header) as reader:
        assert [[0, 1, 2, 3, 4, 5], [2, 3], [1, 1]] == [reader.read(stub).tolist() for stub in (weight, tied, bias)]


def test_a_network_pickled_as_a_whole_is_named_and_not_made(tmp_path: Path) -> None:
    """Its class comes with the source of it, which is text here; its weights can be seen."""
    path = tmp_path / "old.pth"
    torch.save(nn.Sequential(nn.Linear(3, 2)), path, _use_new_zipfile_serialization=False)
    header = read_header(path)
    assert {"torch.nn.modules.linear.Linear", "torch.nn.modules.container.Sequential"} <= set(header.foreign)
    assert isinstance(header.content, Opaque)
    assert "the pickled torch.nn.modules.container.Sequential, which runs code" in kind_text(header.content)
    assert [] == list(find_misplaced(header))
    assert {12 * 2, 4 * 2} == set(header.stored.values())


def test_it_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    """It holds no checksums; said in one line, with what to do."""
    path = tmp_path / "old.pth"
    path.write_bytes(SMALL)
    message = f"{path}: expected the zip format of torch.save, found the one that torch.save wrote before 1.6, which"
    with pytest.raises(UnsupportedCheckpointError, match=rf"^{re.escape(message)}.*; load_weights takes the weights"):
        load_checkpoint(path)


def test_a_number_of_numpy_is_read(tmp_path: Path) -> None:
    """As the recipe's metrics hold it."""
    path = tmp_path / "old.pth"
    path.write_bytes(legacy({"metrics": {"loss": np.float64(0.125)}}))
    assert {"metrics": {"loss": 0.125}} == read_header(path).content


# -------------------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    """At every byte."""
    path = tmp_path / "old.pth"
    assert "" == refused(path, SMALL)
    assert [] == [length for length in range(1, len(SMALL)) if not refused(path, SMALL[:length])]
    assert "(it is cut short)" in refused(path, SMALL[:-1])
    assert "(9 bytes too many)" in refused(path, SMALL + bytes(9))


def test_a_flipped_bit_gives_a_header_or_one_line(tmp_path: Path) -> None:
    """Nothing else is raised, and no storage lies outside of the file; whether its bytes are right cannot be told."""
    path, seen = tmp_path / "old.pth", set()
    for bit in random.Random(0).sample(range(len(SMALL) * 8), 700):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        why = refused(path, bytes(data))
        seen.add(bool(why))
        if not why:
            header = read_header(path)
            assert all(place.offset + place.size <= len(SMALL) for place in header.places.values()), bit
            list(find_misplaced(header))
    assert {True, False} == seen


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [*parts(), b"\x80\x02]q\x00.", b"\x80\x02}.", b"\x80\x02K\x01.", b"\x80\x02(tQ.", bytes(8)]
            ),
        ),
        max_size=7,
    )
)
def test_no_pickles_in_a_row_do_more_than_fail_in_one_line(tmp_path: Path, pieces: list[bytes]) -> None:
    """Its own pickles in any order, others, and random bytes between them."""
    refused(tmp_path / "old.pth", LEGACY_START + b"." + b"".join(pieces))


def dump(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


MAGIC, PROTOCOL, MACHINE, OBJECT, KEYS, NUMBERS = parts()
NAMES: list[str] = pickle.loads(KEYS)
LITTLE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([MAGIC, dump(1002), MACHINE, OBJECT, KEYS, NUMBERS], "written by a machine or a version of torch"),
        ([MAGIC, PROTOCOL, dump(LITTLE | {"little_endian": False}), OBJECT, KEYS, NUMBERS], "written by a machine or"),
        ([MAGIC, PROTOCOL, dump(LITTLE | {"little_endian": 1}), OBJECT, KEYS, NUMBERS], "written by a machine or"),
        ([MAGIC, PROTOCOL, dump(None), OBJECT, KEYS, NUMBERS], "written by a machine or a version of torch"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump(["0"]), NUMBERS], "a storage that nothing describes"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump([0]), NUMBERS], "a storage that nothing describes"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump([[]]), NUMBERS], "a storage that nothing describes"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump(7), NUMBERS], "TypeError"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump(NAMES[::-1]), NUMBERS], "a storage of another size than the tensors"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump(NAMES * 2), NUMBERS], "a storage of another size than the tensors"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump(NAMES * 2), NUMBERS * 2 + b"x"], "1 bytes too many"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, KEYS, struct.pack("<q", -1) + NUMBERS[8:]], "a storage of another size"),
        ([MAGIC, PROTOCOL, MACHINE, OBJECT, dump([]), b""], ""),  # read, and every tensor is out of place
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, pieces: list[bytes], why: str) -> None:
    """Another machine's, storages that are not described, or not of the size that tensors say."""
    path = tmp_path / "old.pth"
    assert why in refused(path, b"".join(pieces))
    if not why:
        header = read_header(path)
        stubs = header.content["model"]
        missing = [(f"model.{name}", f"found no record {stub.storage.key!r}") for name, stub in stubs.items()]
        assert missing == list(find_misplaced(header))
        with TensorReader(path, header) as reader, pytest.raises(DamagedCheckpointError, match="found no record"):
            reader.read(header.content["model"]["bias"])


def test_a_view_of_a_storage_as_torch_0_3_wrote_it_is_refused(tmp_path: Path) -> None:
    """The sixth part of a description says where in another storage it lies."""
    path = tmp_path / "old.pth"
    viewed = OBJECT.replace(b"Nt", b"(X\x01\x00\x00\x000K\x00K\x02tt", 1)
    why = refused(path, b"".join([MAGIC, PROTOCOL, MACHINE, viewed, KEYS, NUMBERS]))
    assert "(a storage within another one, as only torch 0.3 wrote it)" in why


def test_a_storage_of_ten_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """Half a kilobyte that claims them, in the pickle and before the bytes: refused before any is asked for."""
    path = tmp_path / "old.pth"
    elements = 10**10 // 4
    small, large = b"K\x06Nt", b"\x8a\x05" + elements.to_bytes(5, "little") + b"Nt"
    assert 1 <= OBJECT.count(small)
    claims = OBJECT.replace(small, large)
    numbers = NUMBERS.replace(struct.pack("<q", 6), struct.pack("<q", elements), 1)
    path.write_bytes(b"".join([MAGIC, PROTOCOL, MACHINE, claims, KEYS, numbers]))
    program = (
        "import pathlib, resource, sys\n"
        "from koemorph_tutorial.header import read_header\n"
        "from koemorph_tutorial.records import DamagedCheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "try:\n    read_header(pathlib.Path(sys.argv[1]))\n"
        "except DamagedCheckpointError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "(it is cut short)" in done.stdout


def test_a_tensor_of_a_header_is_equal_to_that_of_a_zip(tmp_path: Path) -> None:
    """The same state in either format is the same tree."""
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    old.write_bytes(SMALL)
    torch.save(small(), new)
    assert read_header(new).content == read_header(old).content
    assert TensorStub((6,), "float32") == read_header(old).content["model"]["weight"]
