"""Fewer bytes, and each of them back; what was changed on the way is found, what lies is refused in one line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from koemorph_tutorial import compression, shuffled
from koemorph_tutorial.archive import verify
from koemorph_tutorial.compression import (
    Piece,
    codec_of,
    for_inference,
    pack,
    plane_entropies,
    shuffle,
    unpack,
    unpack_beginning,
    unshuffle,
)
from koemorph_tutorial.findings import finding_of
from koemorph_tutorial.records import (
    CheckpointError,
    Codec,
    DamagedCheckpointError,
    MismatchError,
    UnsupportedCheckpointError,
)
from koemorph_tutorial.stored import Records
from koemorph_tutorial.streams import zstd
from koemorph_tutorial.weights import find_states

from . import damage
from .packing import CODECS, NAME, PEAK, beginning, forged, packed, records_of, saved, unpacked

STREAMS: tuple[Codec, ...] = ("gzip", "zstd")
SEALS = {"gzip": 30, "zstd": 14}  # bytes


def small() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"epoch": 3, "model_state_dict": {"weight": torch.randn(8, 40), "steps": torch.arange(7)}, "text": "声"}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def refused(data: bytes, codec: Codec, ask: Callable[[bytes, Codec], object] = unpacked) -> CheckpointError:
    """Return the error of a file, which must be of ours, of one line, and say what was expected and found."""
    begin = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        ask(data, codec)
    assert time.perf_counter() - begin < 5
    message = str(caught.value)
    assert message.startswith(f"{NAME}: ")
    assert 1 == len(message.splitlines())
    finding = finding_of(caught.value, NAME)
    assert finding.expected
    assert finding.found
    assert finding.todo, message
    return caught.value


# ----------------------------------------------------------------------------------------------------- byte for byte

ONE = random(50, 50)
KINDS: dict[str, Any] = {
    "nothing": {},
    "numbers and text": {"epoch": 3, "loss": float("nan"), "text": "声" * 1000},
    "empty tensors": [torch.empty(0), torch.empty(3, 0, dtype=torch.int64), random(7)],
    "0-d": [torch.tensor(1.5), torch.tensor(True), torch.tensor(7)],
    "bfloat16": random(3000).bfloat16(),
    "float16": random(3000).half(),
    "float64": random(3000).double(),
    "bool": random(5001) > 0,
    "int64": torch.arange(3000),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "complex64": torch.complex(random(3000), random(3000)),
    "complex128": torch.complex(random(3000), random(3000)).to(torch.complex128),
    "non-contiguous": [random(40, 60).t(), random(90)[::3], random(4, 5).expand(3, 4, 5)],
    "shared storage": [ONE, ONE.t(), ONE[10:20], ONE.view(-1)[::2]],
    "hundreds of tiny tensors": {f"layer.{n}": torch.full((n % 9,), float(n)) for n in range(600)},
    "every width between each other": [random(n).to(kind) for n in (1, 5, 3000) for kind in (
        torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex128)],
    "several runs and parts": [random(1_500_000), random(7), random(200_000).bfloat16(), torch.zeros(2_000_000)],
    "infinities": torch.tensor([float("inf"), float("nan"), -0.0, 1e-45]),
}  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_comes_back(kind: str, codec: Codec) -> None:
    file = saved(KINDS[kind])
    data = packed(file, codec)
    assert hashlib.sha256(file.data).digest() == hashlib.sha256(unpacked(data, codec)).digest()
    assert file.pickle == beginning(data, codec)
    assert codec == codec_of(data[:64])
    assert data == packed(file, codec)  # the same bytes each time


@pytest.mark.parametrize("codec", CODECS)
def test_every_byte_of_a_large_tensor_comes_back(codec: Codec) -> None:
    file = saved({"random": random(26_500_000), "zeros": torch.zeros(26_500_000)})  # of 106 MB each
    begin = time.perf_counter()
    data = packed(file, codec)
    assert {"gzip": 0.47, "zstd": 0.47, "shuffle-zstd": 0.43}[codec] > len(data) / len(file.data)
    assert file.pickle == beginning(data, codec)
    assert hashlib.sha256(file.data).digest() == hashlib.sha256(unpacked(data, codec)).digest()
    assert time.perf_counter() - begin < 60


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", [b"", b"x", bytes(100_000), b"not a checkpoint at all" * 9], ids=len)
def test_whatever_is_packed_comes_back_also_without_being_told_what_it_is(data: bytes, codec: Codec) -> None:
    target = io.BytesIO()
    pack(io.BytesIO(data), target, codec)
    assert data == unpacked(target.getvalue(), codec)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=12), widths=st.randoms())
@pytest.mark.parametrize("codec", CODECS)
def test_pieces_may_lie_anywhere(codec: Codec, data: bytes, cuts: list[int], widths: Any) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts})
    pieces = [
        Piece(offset=first, size=end - first, width=widths.choice((1, 2, 4, 8, 16)))
        for first, end in pairwise(ends)
        if widths.random() < 0.7
    ]
    widths.shuffle(pieces)
    target = io.BytesIO()
    pack(io.BytesIO(data), target, codec, pieces=pieces)
    assert data == unpacked(target.getvalue(), codec)


def test_it_does_not_matter_where_the_files_stand() -> None:
    file = saved(small())
    source, target = io.BytesIO(file.data), io.BytesIO()
    source.seek(99)
    pack(source, target, "zstd")
    target.seek(5)
    assert file.data == unpack(target, "zstd", NAME)
    target.seek(5)
    assert file.pickle == unpack_beginning(target, "zstd", NAME)


# ------------------------------------------------------------------------------------- what other programs make of it


def test_gunzip_gives_back_what_was_saved() -> None:
    file = saved(small())
    data = packed(file, "gzip")
    assert file.data == gzip.decompress(data)
    first = zlib.decompressobj(31)
    assert file.data == first.decompress(data)
    assert SEALS["gzip"] == len(first.unused_data)
    if shutil.which("gzip"):
        assert file.data == run("gzip", "-dc", data=data)


def test_unzstd_gives_back_what_was_saved() -> None:
    file = saved(small())
    data = packed(file, "zstd")
    assert file.data == zstd().decompress(data)
    assert len(file.data) == zstd().get_frame_info(data[:18]).decompressed_size
    if shutil.which("zstd"):
        assert file.data == run("zstd", "-dc", data=data)


def run(*command: str, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def test_any_zip_program_says_what_is_in_a_file_of_shuffle_zstd() -> None:
    file = saved(small())
    with zipfile.ZipFile(io.BytesIO(packed(file, "shuffle-zstd"))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        index = json.loads(archive.read("shuffle-zstd/index"))
        header = zstd().decompress(archive.read("shuffle-zstd/header"))
    assert ["shuffle-zstd/index", "shuffle-zstd/header", "shuffle-zstd/0", "shuffle-zstd/1", "shuffle-zstd/2"] == names
    assert {"version", "size", "pickle", "pieces"} == set(index)
    assert (len(file.data), file.pickle) == (index["size"], header)


def test_torch_refuses_a_file_of_shuffle_zstd(tmp_path: Path) -> None:
    path = tmp_path / "run.shuffle.pth"
    path.write_bytes(packed(saved(small()), "shuffle-zstd"))
    with pytest.raises(RuntimeError, match="version"):
        torch.load(path, weights_only=True)


def test_a_zip_of_more_than_four_gigabytes_is_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb+") as file:  # with a hole in it
        records = Records(file)
        records.write("index", b"before")
        records._at = 5 << 30
        file.seek(records._at)
        records.write("0", b"behind")
        file.write(records.end())
        with zipfile.ZipFile(file) as archive:
            assert [b"before", b"behind"] == [archive.read(f"shuffle-zstd/{name}") for name in ("index", "0")]


def test_a_zip_of_very_many_records_is_a_zip() -> None:
    file = io.BytesIO()
    records = Records(file)
    for number in range(70_000):
        records.write(str(number), b"")
    file.write(records.end())
    with zipfile.ZipFile(file) as archive:
        assert 70_000 == len(archive.namelist())


def by_python(data: bytes) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile("run/last_model.pth", "wb", 6, file, mtime=1_700_000_000) as packer:
        packer.write(data)
    return file.getvalue()


OTHERS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    "gzip.compress": ("gzip", gzip.compress),
    "gzip.compress, level 0": ("gzip", lambda data: gzip.compress(data, 0)),
    "gzip, with name and time": ("gzip", by_python),
    "gzip": ("gzip", lambda data: run("gzip", "-c", data=data)),
    "pigz": ("gzip", lambda data: run("pigz", "-c", data=data)),
    "zstd.compress": ("zstd", lambda data: zstd().compress(data)),
    "zstd, level 19": ("zstd", lambda data: zstd().compress(data, 19)),
    "zstd": ("zstd", lambda data: run("zstd", "-c", data=data)),
    "zstd, without a checksum": ("zstd", lambda data: run("zstd", "-c", "--no-check", data=data)),
    "zstd --ultra -22": ("zstd", lambda data: run("zstd", "-c", "--ultra", "-22", data=data)),
}


@pytest.mark.parametrize("program", OTHERS)
def test_what_other_programs_packed_is_read(program: str) -> None:
    codec, compress = OTHERS[program]
    command = re.split("[ ,.]", program)[0]
    if "." not in program and "," not in program and not shutil.which(command):
        pytest.skip(f"{command} is not here")
    file = saved(small())
    data = compress(file.data)
    assert codec == codec_of(data[:64])
    assert file.data == unpacked(data, codec)
    assert file.pickle == beginning(data, codec)


def test_a_zip_written_anew_has_a_beginning_too() -> None:
    file, again = saved(small()), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file.data)) as archive, zipfile.ZipFile(again, "w") as copy:
        for info in archive.infolist():
            copy.writestr(info.filename, archive.read(info))
    assert file.pickle == beginning(gzip.compress(again.getvalue()), "gzip")


def test_what_looks_like_the_end_of_the_header_within_it_is_none() -> None:
    tricks = b"PK\x07\x08" + struct.pack("<3L", 1, 2, 2) + b"PK\x07\x08PK\x07"
    for padding in range(0, 200_000, 65_521):  # so that chunks end within it
        file = saved({"text": (b"x" * padding + tricks * 3).decode("latin-1"), "weight": random(9)})
        for codec in STREAMS:
            assert file.pickle == beginning(packed(file, codec), codec)


# ------------------------------------------------------------------------------------------------------ what is damaged


def seal_and_headers(data: bytes, codec: Codec) -> set[int]:
    """Return the bits of what is no packed number: how the file begins and ends, and around the records of a zip."""
    places = {*range(24), *range(len(data) - SEALS.get(codec, 0), len(data))}
    if codec == "shuffle-zstd":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                places |= {*range(info.header_offset, info.header_offset + 30 + len(info.filename))}
            places |= {*range(archive.start_dir, len(data))}
    return {8 * place + bit for place in places for bit in range(8)}


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_is_found_wherever_it_is(codec: Codec) -> None:
    data = packed(saved(small()), codec)
    bits = seal_and_headers(data, codec)
    assert len(bits) > 300
    missed = [bit for bit in bits if not _is_found(damage.flipped(data, bit), codec)]
    missed += [what for what, changed in damage.flips(data, 60) if not _is_found(changed, codec)]
    assert [] == missed


def _is_found(data: bytes, codec: Codec) -> bool:
    try:
        unpacked(data, codec)
    except CheckpointError as error:
        return 1 == len(str(error).splitlines())
    return False


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_was_cut_short_is_refused(codec: Codec) -> None:
    file = saved(small())
    data = packed(file, codec)
    whole = [length for length in range(len(data)) if not _is_found(data[:length], codec)]
    # Cut just before its seal it is what the program of its name would have written.
    assert [len(data) - SEALS[codec] for _ in range(codec in SEALS)] == whole
    assert all(file.data == unpacked(data[:length], codec) for length in whole)
    assert isinstance(refused(data[: len(data) // 2], codec), DamagedCheckpointError)
    refused(data[:40], codec, beginning)
    refused(b"", codec)
    refused(b"", codec, beginning)


@pytest.mark.parametrize("codec", CODECS)
def test_what_stands_behind_the_end_is_refused(codec: Codec) -> None:
    data = packed(saved(small()), codec)
    for more in (b"\0", bytes(512), data, data[-SEALS.get(codec, 9) :], gzip.compress(b""), b"PK\x05\x06" + bytes(18)):
        assert isinstance(refused(data + more, codec), DamagedCheckpointError)


@pytest.mark.parametrize("codec", STREAMS)
def test_a_second_member_or_frame_is_refused(codec: Codec) -> None:
    compress = gzip.compress if codec == "gzip" else zstd().compress
    for data in (compress(b"one") + compress(b"two"), compress(b"one") + b"\x50\x2a\x4d\x18\x02\0\0\0hi"):
        assert "nothing behind the end" in str(refused(data, codec))


@pytest.mark.parametrize("codec", STREAMS)
def test_a_seal_that_belongs_to_another_file_is_found(codec: Codec) -> None:
    data, other = (packed(saved(content), codec) for content in (small(), {"epoch": 4}))
    error = refused(data[: -SEALS[codec]] + other[-SEALS[codec] :], codec)
    assert "of the whole file" in str(error)


@pytest.mark.parametrize("codec", CODECS)
def test_random_bytes_are_refused(codec: Codec) -> None:
    start = packed(saved(small()), codec)[:40]
    for what, data in damage.random_files(40):
        with pytest.raises(CheckpointError):
            unpacked(start + data, codec)
        with pytest.raises(CheckpointError):
            beginning(start + data, codec)
        with pytest.raises(CheckpointError):
            unpacked(data, codec)
        assert codec_of(data[:64]) in (None, what.rpartition(" ")[2])


def test_what_cannot_be_told_apart_has_no_codec() -> None:
    assert [None] * 4 == [codec_of(start) for start in (b"", b"PK\x03\x04", b"\x80\x02", saved(small()).data[:64])]


# ------------------------------------------------------------------------------------------------------------ what lies


def gzip_that_says(size: int) -> bytes:
    return gzip.compress(b"PK\x03\x04" + bytes(5000))[:-4] + struct.pack("<L", size)


@pytest.mark.parametrize("size", [0, 1, 5003, 5005, 1 << 31, (1 << 32) - 1])
def test_a_gzip_file_that_lies_about_its_size_is_refused(size: int) -> None:
    assert "length" in str(refused(gzip_that_says(size), "gzip"))


def zstd_that_says(size: int, content: bytes = b"PK\x03\x04" + bytes(5000)) -> bytes:
    """Return a frame whose header says to have `size` bytes, in 8 bytes of it (RFC 8878, 3.1.1.1)."""
    blocks = struct.pack("<L", len(content) << 3 | 1)[:3] + content  # one block, the last, not packed
    return b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + struct.pack("<Q", size) + blocks


@pytest.mark.parametrize("size", [0, 1, 5003, 5005, 100_000_000, 1 << 30, 1 << 40, (1 << 64) - 1, (1 << 64) - 2])
def test_a_zstd_file_that_lies_about_its_size_is_refused(size: int) -> None:
    assert b"PK\x03\x04" + bytes(5000) == unpacked(zstd_that_says(5004), "zstd")
    refused(zstd_that_says(size), "zstd")
    refused(zstd_that_says(size), "zstd", beginning)


def test_a_zstd_file_that_needs_more_memory_than_is_sensible_is_not_called_damaged() -> None:
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3])  # a window of 2 GiB
    error = refused(header + b"\x01\x00\x00", "zstd")
    assert isinstance(error, UnsupportedCheckpointError)
    assert "memory" in str(error)


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_refused_before_it_goes_off(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_LEAST_LIMIT", 1 << 20)
    target = io.BytesIO()
    pack(io.BytesIO(bytes(40 << 20)), target, codec)
    assert "(a bomb?); do not unpack" in str(refused(target.getvalue(), codec))


@pytest.mark.parametrize("codec", STREAMS)
def test_a_header_without_end_is_refused(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffled, "MOST_PICKLE", 1 << 20)
    data = saved(small()).data[:64] + bytes(3 << 20)
    target = io.BytesIO()
    pack(io.BytesIO(data), target, codec)
    assert isinstance(refused(target.getvalue(), codec, beginning), UnsupportedCheckpointError)


@pytest.mark.parametrize("codec", STREAMS)
def test_a_damaged_header_is_found_by_its_own_checksum(codec: Codec) -> None:
    again = io.BytesIO()
    with zipfile.ZipFile(again, "w") as copy:
        copy.writestr("archive/data.pkl", saved(small()).pickle)
    target = io.BytesIO()
    pack(io.BytesIO(damage.flipped(again.getvalue(), 8 * 100)), target, codec)
    assert "record 'archive/data.pkl' is damaged" in str(refused(target.getvalue(), codec, beginning))


@pytest.mark.parametrize("codec", STREAMS)
def test_a_file_without_a_header_at_its_beginning_is_not_called_damaged(codec: Codec) -> None:
    for data in (
        b"not a checkpoint" * 99,
        b"PK\x03\x04" + bytes(99),
        b"PK\x01\x02" * 9,
        b"\x80\x02" + compression.LEGACY + bytes(99),
    ):
        target = io.BytesIO()
        pack(io.BytesIO(data), target, codec)
        assert isinstance(refused(target.getvalue(), codec, beginning), UnsupportedCheckpointError)
    target = io.BytesIO()
    pack(io.BytesIO(data), target, "shuffle-zstd")
    assert isinstance(refused(target.getvalue(), "shuffle-zstd", beginning), UnsupportedCheckpointError)


INDEX, RECORDS = records_of(packed(saved(small()), "shuffle-zstd"))
SIZE, PIECES = INDEX["size"], INDEX["pieces"]
LIES: dict[str, Any] = {
    "a size of nothing": {"size": 0},
    "a negative size": {"size": -1},
    "a smaller size": {"size": SIZE - 1},
    "a larger size": {"size": SIZE + 1},
    "a size of gigabytes": {"size": 1 << 30},
    "a size of petabytes": {"size": 1 << 50},
    "a huge size": {"size": 10**300},
    "a size that is true": {"size": True},
    "half a byte": {"size": SIZE - 0.5},
    "a size in words": {"size": "large"},
    "no size": {"size": None},
    "pieces over each other": {"pieces": [PIECES[0], PIECES[0]]},
    "a piece over the pickle": {"pieces": [[INDEX["pickle"][0] + 4, 8, 4]]},
    "a piece behind the end": {"pieces": [[SIZE - 4, 8, 4]]},
    "a piece at a huge place": {"pieces": [[10**200, 8, 4]]},
    "a huge piece": {"pieces": [[0, 10**200, 4]]},
    "a negative place": {"pieces": [[-8, 8, 4]]},
    "a negative piece": {"pieces": [[8, -8, 4]]},
    "an empty piece": {"pieces": [[8, 0, 4]]},
    "half a number": {"pieces": [[PIECES[0][0], PIECES[0][1] - 2, 4]]},
    "numbers of no byte": {"pieces": [[PIECES[0][0], 8, 0]]},
    "numbers of 3 bytes": {"pieces": [[PIECES[0][0], 9, 3]]},
    "numbers of very many bytes": {"pieces": [[PIECES[0][0], 8, 1 << 70]]},
    "wider numbers": {"pieces": [[*PIECES[0][:2], 16], *PIECES[1:]]},
    "numbers of one byte": {"pieces": [[*PIECES[0][:2], 1], *PIECES[1:]]},
    "a piece less": {"pieces": PIECES[1:]},
    "pieces in another order": {"pieces": PIECES[::-1]},
    "pieces that are none": {"pieces": [1, 2]},
    "pieces of two": {"pieces": [[8, 8]]},
    "no pieces": {"pieces": None},
    "very many pieces": {"pieces": [[8 * n, 4, 4] for n in range(60)]},
    "no pickle": {"pickle": None},
    "an empty pickle": {"pickle": [64, 0]},
    "a huge pickle": {"pickle": [64, 10**30]},
    "a pickle in words": {"pickle": "data.pkl"},
    "an old version": {"version": 0},
    "no version": {"version": None},
    "more than there is": {"more": 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(lie: str) -> None:
    error = refused(forged({**INDEX, **LIES[lie]}, RECORDS), "shuffle-zstd")
    assert isinstance(error, DamagedCheckpointError), error


@pytest.mark.parametrize(
    "lie", [{"pieces": [[*PIECES[0][:2], 2], PIECES[1]]}, {"pickle": [INDEX["pickle"][0] + 1, INDEX["pickle"][1]]}]
)
def test_a_lie_that_fits_all_else_is_found_by_the_checksums_of_the_checkpoint(lie: dict[str, Any]) -> None:
    data = unpacked(forged({**INDEX, **lie}, RECORDS), "shuffle-zstd")
    with pytest.raises(DamagedCheckpointError):
        verify(io.BytesIO(data), NAME)


@pytest.mark.parametrize(
    "index",
    [b"", b"{}", b"[]", b"0", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b"1" * 9999, json.dumps(INDEX).encode()],
    ids=lambda index: repr(index[:4]),
)
def test_an_index_that_is_none_is_refused(index: bytes) -> None:
    assert isinstance(refused(forged(index, RECORDS), "shuffle-zstd"), DamagedCheckpointError)


def test_a_newer_version_is_not_called_damaged() -> None:
    for index in ({**INDEX, "version": 2}, {"version": 3, "shape": "another"}, {**INDEX, "version": 10**50}):
        error = refused(forged(index, RECORDS), "shuffle-zstd")
        assert isinstance(error, UnsupportedCheckpointError)
        assert "update this library" in str(error)


def without(name: str) -> dict[str, bytes]:
    return {key: data for key, data in RECORDS.items() if key != name}


FRAME = zstd().compress(b"x" * 100)
OTHER_RECORDS: dict[str, dict[str, bytes]] = {
    "none": {},
    "no header": without("header"),
    "one less": without("2"),
    "one less in between": without("0"),
    "one more": {**RECORDS, "3": FRAME},
    "in another order": dict(reversed(RECORDS.items())),
    "an empty one": {**RECORDS, "1": b""},
    "no frame": {**RECORDS, "1": b"x" * 100},
    "another frame": {**RECORDS, "1": FRAME},
    "a frame and more": {**RECORDS, "1": RECORDS["1"] + b"x"},
    "a frame without its end": {**RECORDS, "1": RECORDS["1"][:-1]},
    "a frame to be skipped": {**RECORDS, "1": b"\x50\x2a\x4d\x18\x02\0\0\0hi"},
    "a bomb": {**RECORDS, "1": zstd().compress(bytes(50 << 20))},
    "a bomb in the header": {**RECORDS, "header": zstd().compress(bytes(50 << 20))},
    "a large record": {**RECORDS, "0": bytes(2 << 20)},
}


@pytest.mark.parametrize("records", OTHER_RECORDS)
def test_records_that_are_not_those_of_the_index_are_refused(records: str) -> None:
    data = forged(INDEX, OTHER_RECORDS[records])
    assert isinstance(refused(data, "shuffle-zstd"), DamagedCheckpointError)
    if "header" in records or records == "none":
        refused(data, "shuffle-zstd", beginning)


def test_a_record_that_says_to_be_longer_than_the_file_is_refused() -> None:
    data = bytearray(forged(INDEX, RECORDS))
    for size in (0xFFFFFFFF, len(data)):
        data[18:26] = struct.pack("<2L", size, size)  # of the first record
        assert isinstance(refused(bytes(data), "shuffle-zstd"), DamagedCheckpointError)
        refused(bytes(data), "shuffle-zstd", beginning)


def test_a_directory_that_does_not_fit_the_records_is_refused() -> None:
    end = forged(INDEX, RECORDS)[len(forged(INDEX, RECORDS, end=b"")) :]
    for other in (b"", end[:-1], end + b"\0", end[46:], bytes(len(end)), end + end):
        assert "the end of a file" in str(refused(forged(INDEX, RECORDS, end=other), "shuffle-zstd"))


class Runs:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("ask", [unpacked, beginning])
def test_the_file_of_the_recipe_is_refused_in_a_sentence_of_its_own(
    ask: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for compress, codec in ((gzip.compress, "gzip"), (zstd().compress, "zstd")):
        data = compress(pickle.dumps({"model": random(50_000), "runs": Runs()}, protocol))
        error = refused(data, codec, ask)
        assert isinstance(error, UnsupportedCheckpointError)
        assert "to open it is to run what it names" in str(error)
    assert not Path("ran").exists()


def test_a_file_of_before_1_6_is_no_file_of_the_recipe() -> None:
    file = io.BytesIO()
    torch.save(small(), file, _use_new_zipfile_serialization=False)
    assert file.getvalue() == unpacked(gzip.compress(file.getvalue()), "gzip")


# ----------------------------------------------------------------------------------------------------- how it is called


@pytest.mark.parametrize("codec", ["", "zip", "GZIP", "lz4", None, 3])
def test_an_unknown_codec_is_refused(codec: Any) -> None:
    for call in (
        lambda: pack(io.BytesIO(), io.BytesIO(), codec),
        lambda: unpack(io.BytesIO(), codec, NAME),
        lambda: unpack_beginning(io.BytesIO(), codec, NAME),
    ):
        with pytest.raises(ValueError, match="codec: expected one of gzip, zstd, shuffle-zstd, found"):
            call()


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(offset=0, size=8, width=4), Piece(offset=4, size=8, width=4)],
        [Piece(offset=96, size=8, width=4)],
        [Piece(offset=-4, size=8, width=4)],
        [Piece(offset=4, size=-8, width=4)],
        [Piece(offset=4, size=9, width=3)],
        [Piece(offset=4, size=8, width=0)],
        [Piece(offset=4, size=8, width=-4)],
        [Piece(offset=4, size=64, width=32)],
    ],
)
def test_pieces_that_cannot_be_are_refused(pieces: list[Piece]) -> None:
    with pytest.raises(ValueError, match="pieces: expected"):
        pack(io.BytesIO(bytes(100)), io.BytesIO(), "shuffle-zstd", pieces=pieces)


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_shrinks_while_it_is_packed_is_noticed(codec: Codec) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:-1]

    with pytest.raises(ValueError, match="changed meanwhile"):
        pack(Shrinking(bytes(100)), io.BytesIO(), codec)


def test_of_very_many_pieces_the_smallest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koemorph_tutorial.parts._MOST_PIECES", 3)
    file = saved([random(n) for n in (10, 2000, 50, 3000, 400)])
    data = packed(file, "shuffle-zstd")
    assert [8000, 12000, 1600] == [size for _, size, _ in records_of(data)[0]["pieces"]]
    assert file.data == unpacked(data, "shuffle-zstd")


def test_little_memory_is_needed_to_pack(tmp_path: Path) -> None:
    """Of a file of 120 MB some parts at a time."""
    code = """
import sys
from koemorph_tutorial.compression import Piece, pack
import numpy
with open(sys.argv[1], "rb") as source, open(sys.argv[1] + ".packed", "wb") as target:
    pack(source, target, sys.argv[2], pieces=[Piece(0, 1 << 20, 4)])  # what imports take
    before = peak()
    pack(source, target, sys.argv[2], pieces=[Piece(0, 120 << 20, 4)])
    print(peak() - before)
"""
    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).normal(size=15 << 20).tobytes())
    assert int(run(sys.executable, "-c", PEAK + code, str(path), "shuffle-zstd")) < 64 << 20


# ------------------------------------------------------------------------------------------------------- byte planes


@given(data=st.binary(max_size=400), width=st.integers(1, 40))
@example(data=b"", width=4)
def test_what_was_shuffled_comes_back(data: bytes, width: int) -> None:
    shuffled_bytes = shuffle(data, width)
    assert data == unshuffle(shuffled_bytes, width)
    assert data == shuffle(unshuffle(data, width), width)
    assert sorted(data) == sorted(shuffled_bytes)
    whole = len(data) // width * width
    assert data[whole:] == shuffled_bytes[whole:]


@given(data=st.binary(max_size=400), width=st.integers(1, 40))
def test_a_plane_holds_one_byte_of_each_number(data: bytes, width: int) -> None:
    count = len(data) // width
    planes = [shuffle(data, width)[at * count : (at + 1) * count] for at in range(width)]
    assert [data[at : count * width : width] for at in range(width)] == planes


def test_any_bytes_can_be_shuffled() -> None:
    numbers = np.arange(5, dtype=np.float32)
    assert shuffle(numbers.tobytes(), 4) == shuffle(memoryview(numbers.tobytes()), 4) == shuffle(numbers, 4)
    assert shuffle(bytearray(b"abcd"), 2) == b"acbd"


@pytest.mark.parametrize("width", [0, -4])
@pytest.mark.parametrize("call", [shuffle, unshuffle, plane_entropies])
def test_numbers_of_no_byte_are_refused(call: Any, width: int) -> None:
    with pytest.raises(ValueError, match=f"width: expected the bytes of a number, 1 or more, found {width}"):
        call(b"abcd", width)


def test_entropies_are_those_of_the_planes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1 << 16, 3), np.uint8)
    noise[:, 1] &= 3
    noise[:, 2] = 7
    bits = plane_entropies(noise.tobytes(), 3)
    assert 7.99 < bits[0] <= 8
    assert 1.99 < bits[1] <= 2
    assert 0 == bits[2]
    assert [0.0, 0.0] == plane_entropies(b"", 2) == plane_entropies(b"x", 2)


def test_nothing_makes_the_digits_of_a_weight_smaller() -> None:
    bits = plane_entropies(random(100_000).numpy(), 4)
    assert all(each > 7.9 for each in bits[:3])
    assert bits[3] < 4  # sign and exponent


def test_planes_reach_the_limit_that_entropy_sets() -> None:
    file = saved([random(200_000) * 0.02, random(300_000) * 0.001])
    limit = sum(
        sum(plane_entropies(file.data[piece.offset : piece.offset + piece.size], 4)) / 32 * piece.size
        for piece in file.pieces
    )
    assert 1.02 * limit > len(packed(file, "shuffle-zstd"))


# -------------------------------------------------------------------------------------------------------- for inference


def checkpoint(**more: Any) -> dict[str, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(random(5, 4)).sum().backward()
    optimizer.step()
    return {
        "format_version": 1,
        "run": {"line": "a", "parent": None, "saves": 1},
        "epoch": 3,
        "global_step": 40,
        "position": {"epoch": 4, "batch": 0, "global_step": 40},
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {"last_epoch": 3},
        "loader_state_dict": {"generator": torch.Generator().get_state(), "batch": 3},
        "dice_state_dict": {"generator_state": torch.Generator().get_state()},
        "scaler_state_dict": {"scale": 65536.0},
        "optimizer_parameters": {"optimizer": [[["0.weight", [3, 4]]]]},
        "metrics": {"loss": 0.5},
        "best": {"monitor": "loss", "mode": "min", "value": 0.5, "epoch": 3},
        "rng_state": {"torch": torch.get_rng_state()},
        "config": {"training": {"optimizer": "adamw"}, "scheduler": {"gamma": 0.9}},
        "metadata": {"hostname": "here"},
        **more,
    }


def test_what_inference_needs_is_kept_and_nothing_else() -> None:
    full = checkpoint(ema_state_dict={"weight": random(3)}, note="kept")
    before = list(full)
    kept = for_inference(full)
    told = ["format_version", "run", "epoch", "global_step", "position", "metrics", "best", "config", "metadata"]
    assert {*told, "model_state_dict", "ema_state_dict", "note"} == set(kept)
    assert {"hostname": "here", "for_inference": True} == kept["metadata"]
    assert {"hostname": "here"} == full["metadata"]
    assert before == list(full)
    assert full["config"] == kept["config"]
    assert full["model_state_dict"] is kept["model_state_dict"]


def test_the_weights_that_are_kept_are_those_that_can_be_found() -> None:
    full = checkpoint(ema_state_dict={"weight": random(3)})
    assert [w.where for w in find_states(full)] == [w.where for w in find_states(for_inference(full))]


FOREIGN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a bare state dict": ({"a": ONE, "b": ONE}, {"a", "b"}),
    "the recipe": (
        {"model_state_dict": {"a": ONE}, "optimizer_state_dict": {"state": {}, "param_groups": []}, "epoch": 1,
         "metrics": {"loss": torch.tensor(0.5)}, "scheduler_state_dict": {"last_epoch": 1}, "config": {"a": 1}},
        {"model_state_dict", "epoch", "metrics", "config"},
    ),
    "Lightning": (
        {"state_dict": {"a": ONE}, "optimizer_states": [{"state": {0: {"exp_avg": ONE}}, "param_groups": []}],
         "lr_schedulers": [{"last_epoch": 1}], "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}},
         "loops": {"fit_loop": {}}, "epoch": 1, "hyper_parameters": {"width": 3}},
        {"state_dict", "epoch", "hyper_parameters"},
    ),
    "by other names": (
        {"net": {"a": ONE}, "opt": {"state": {}, "param_groups": []}, "lr_sched": {"last_epoch": 1},
         "loss": torch.tensor(1.0)},
        {"net", "loss"},
    ),
    "two networks": (
        {"generator": {"a": ONE}, "discriminator": {"a": ONE}, "optimizer_g": {"state": {}, "param_groups": []}},
        {"generator", "discriminator"},
    ),
    "one within another": (
        {"trainer": {"model": {"a": ONE}, "optimizer": {"state": {0: {"exp_avg": ONE}}, "param_groups": []}},
         "moments": [ONE]},
        {"trainer"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("who", FOREIGN)
def test_the_checkpoints_of_others_keep_their_weights(who: str) -> None:
    content, expected = FOREIGN[who]
    kept = for_inference(content)
    assert expected == set(kept)
    if who == "one within another":
        assert {"model"} == set(kept["trainer"])
    if who == "the recipe":
        assert torch.float32 == for_inference(content, bf16=True)["metrics"]["loss"].dtype


def test_a_bare_state_dict_stays_one() -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    for bf16 in (False, True):
        kept = for_inference(state, bf16=bf16)
        assert kept is not state
        assert isinstance(kept, OrderedDict)
        assert state._metadata == kept._metadata  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"model_state_dict": {}}, {"opt": {"param_groups": [], "a": ONE}}]
)
def test_a_checkpoint_without_weights_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(MismatchError, match="expected weights in the checkpoint, found none: "):
        for_inference(content)


def test_halves_are_those_of_torch() -> None:
    full = checkpoint(
        ema_state_dict={
            "double": random(9).double(),
            "half": random(9).half(),
            "b": random(9).bfloat16(),
            "n": torch.arange(3),
        }
    )
    kept = for_inference(full, bf16=True)
    for key in ("model_state_dict", "ema_state_dict"):
        for name, tensor in full[key].items():
            expected = tensor.bfloat16() if tensor.dtype in (torch.float32, torch.float64) else tensor
            assert expected.dtype == kept[key][name].dtype
            assert torch.equal(expected, kept[key][name])
    assert isinstance(kept["model_state_dict"], OrderedDict)
    assert full["model_state_dict"]._metadata == kept["model_state_dict"]._metadata
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).bfloat16()
    assert not model.load_state_dict(kept["model_state_dict"]).missing_keys


def test_tensors_that_share_memory_share_it_when_they_are_halves() -> None:
    whole = random(6, 7)
    state = {
        "a": whole,
        "tied": whole,
        "turned": whole.t(),
        "part": whole[2:4, 1:3],
        "other": random(6, 7),
        "none": torch.empty(0),
    }
    kept = for_inference({"model_state_dict": state}, bf16=True)["model_state_dict"]
    for name, tensor in state.items():
        assert torch.equal(tensor.bfloat16(), kept[name])
        assert tensor.stride() == kept[name].stride()
    stores = [kept[name].untyped_storage().data_ptr() for name in ("a", "tied", "turned", "part")]
    assert 1 == len(set(stores))
    assert stores[0] != kept["other"].untyped_storage().data_ptr()
    parameter = torch.nn.Parameter(whole)
    halved = for_inference({"state_dict": {"a": parameter}}, bf16=True)["state_dict"]["a"]
    assert not halved.requires_grad


def test_a_weight_that_is_too_large_for_half_its_bytes_is_refused() -> None:
    state = {"fits": torch.tensor([float("inf"), 3e38]), "large": torch.tensor([1e39], dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"large: expected weights that bfloat16 can hold, found one of 1e\+39"):
        for_inference({"model_state_dict": state}, bf16=True)


def test_neither_torch_nor_numpy_is_loaded_to_pack_a_stream() -> None:
    code = (
        "import io, sys; from pathlib import Path; from koemorph_tutorial.compression import *\n"
        "target = io.BytesIO(); pack(io.BytesIO(b'x'), target, 'zstd'); unpack(target, 'zstd', Path('x'))\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    assert "set()" == run(sys.executable, "-c", code).decode().strip()
