"""A file is whole, damaged, or cannot be told: every bit of it counts, and nothing hangs or raises anything else."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.serialization import config

from koemorph_tutorial import archive, compression
from koemorph_tutorial.records import (
    CheckpointError,
    CheckpointNotFoundError,
    Codec,
    DamagedCheckpointError,
    UnsupportedCheckpointError,
)
from koemorph_tutorial.streams import zstd
from koemorph_tutorial.unpacked import CONTENTS
from koemorph_tutorial.zip_records import find_damaged, read_records

NAME = Path("run/last_model.pth")  # only for messages, where the bytes are in memory
DIRECTORY_ENTRY = b"PK\x01\x02"
END = b"PK\x05\x06"


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model_state_dict": torch.nn.Linear(3, 2).state_dict(),
        "epoch": 25,
        "loss": 0.125,
        "steps": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
        "text": "声",
    }


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


SOUND = saved(content())
DIRECTORY = SOUND.index(DIRECTORY_ENTRY)
RECORDS = zipfile.ZipFile(io.BytesIO(SOUND)).infolist()


def data_of(info: zipfile.ZipInfo, data: bytes = SOUND) -> range:
    """Return where the bytes of a record lie."""
    name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    return range(start, start + info.file_size)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def verified(data: bytes) -> str:
    """Return "sound" or the class of the error, "" if that is not one line that names the file."""
    try:
        archive.verify(io.BytesIO(data), NAME)
    except CheckpointError as error:
        one_line = str(error).startswith(f"{NAME}: ") and 1 == len(str(error).splitlines())
        return type(error).__name__ if one_line else ""
    return "sound"


def to_bits(value: Any) -> Any:
    """Return something that is equal only for bitwise equal content of the same types."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return type(value).__name__, [(key, to_bits(item)) for key, item in value.items()]
    return type(value).__name__, repr(value)


def loaded(data: bytes) -> Any:
    """Return what torch makes of the bytes, in bits; "refused" where it raises."""
    try:
        return to_bits(torch.load(io.BytesIO(data), weights_only=True))
    except Exception:  # whatever torch raises: nothing was returned
        return "refused"


BITS = to_bits(content())


# ----------------------------------------------------------------------------------------------------- every bit counts


def test_a_sound_file_passes(tmp_path: Path) -> None:
    """Nothing is raised for what torch.save wrote."""
    path = tmp_path / "last_model.pth"
    torch.save(content(), path)
    with archive.open_file(path) as file:
        archive.verify(file, path)
    assert BITS == loaded(path.read_bytes())


def test_a_flipped_bit_is_found_or_changes_nothing() -> None:
    """Of 2,000 bits of the records and between them none passes and changes what torch.load returns."""
    bits = random.Random(0).sample(range(DIRECTORY * 8), 2000)
    verdicts = [(verified(flipped(SOUND, bit)), bit) for bit in bits]
    unnoticed = [bit for verdict, bit in verdicts if verdict == "sound"]
    assert [] == [bit for bit in unnoticed if loaded(flipped(SOUND, bit)) != BITS]
    assert {"sound", "DamagedCheckpointError"} == {verdict for verdict, _ in verdicts}


def test_no_flipped_bit_of_the_directory_changes_what_is_loaded_unnoticed() -> None:
    """All bits of the directory at the end: found, or without effect. Nothing is left to torch to find."""
    unnoticed = [bit for bit in range(DIRECTORY * 8, len(SOUND) * 8) if verified(flipped(SOUND, bit)) == "sound"]
    assert [] == [bit for bit in unnoticed if loaded(flipped(SOUND, bit)) != BITS]


def test_every_byte_of_every_record_counts() -> None:
    """A changed byte is found wherever it is, and the record is named."""
    for info in RECORDS:
        for place in data_of(info):
            changed = flipped(SOUND, place * 8 + place % 8)
            with pytest.raises(DamagedCheckpointError, match=rf"record '{re.escape(info.filename)}' is damaged"):
                archive.verify(io.BytesIO(changed), NAME)


def test_a_damaged_record_is_named_with_both_checksums(tmp_path: Path) -> None:
    """The message says which file, which record, expected, found and what to do."""
    path = tmp_path / "last_model.pth"
    info = next(info for info in RECORDS if info.filename.endswith("/data/0"))
    place = data_of(info)[-1]
    changed = flipped(SOUND, place * 8 + 6)
    path.write_bytes(changed)
    found = zlib.crc32(changed[data_of(info).start : data_of(info).stop])
    message = (
        f"{path}: record 'archive/data/0' is damaged: expected CRC32 {info.CRC:08x}, found {found:08x}; use an older "
        "checkpoint of the run"
    )
    with archive.open_file(path) as file, pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(file, path)


def test_a_record_larger_than_the_buffer_is_checked_to_its_end(tmp_path: Path) -> None:
    """A flipped bit is found at both ends of 3 MB and where one buffer meets the next."""
    path = tmp_path / "large.pth"
    torch.save(torch.zeros(3 << 18), path)
    data = path.read_bytes()
    (info,) = [info for info in zipfile.ZipFile(io.BytesIO(data)).infolist() if info.filename.endswith("/data/0")]
    assert "sound" == verified(data)
    for place in (data_of(info, data)[at] for at in (0, (1 << 20) - 1, 1 << 20, (2 << 20) + 5, -1)):
        assert "DamagedCheckpointError" == verified(flipped(data, place * 8))


def test_a_large_file_is_checked_by_two_threads_as_by_one(tmp_path: Path) -> None:
    """Every damaged record is found, in the order of the file, on the disk and in memory; the first one is raised."""
    path = tmp_path / "large.pth"
    torch.save({name: torch.zeros(1 << 20) for name in "abcdef"}, path)
    data = bytearray(path.read_bytes())
    infos = [info for info in zipfile.ZipFile(path).infolist() if "/data/" in info.filename]
    assert len(data) > 1 << 24
    for info in (infos[1], infos[2], infos[5]):
        data[data_of(info, bytes(data))[-1]] ^= 1
    path.write_bytes(data)
    found = []
    for file in (archive.open_file(path), io.BytesIO(data)):
        with file:
            records = read_records(file, path)
            found.append([str(error) for error in find_damaged(file, path, records)])
            with pytest.raises(DamagedCheckpointError, match=r"record 'large/data/1' is damaged"):
                archive.verify(file, path)
    assert found[0] == found[1]
    assert [True] * 3 == [f"data/{n}'" in error for n, error in zip((1, 2, 5), found[0], strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_overwritten_stretch_is_found_or_changes_nothing(data: st.DataObject) -> None:
    """Any bytes over any stretch of the file: what passes either loads as before or is refused by torch."""
    start = data.draw(st.integers(0, len(SOUND) - 1))
    stretch = data.draw(st.one_of(st.binary(min_size=1, max_size=80), st.integers(1, 700).map(bytes)))
    changed = SOUND[:start] + stretch + SOUND[start + len(stretch) :]
    if verified(changed) == "sound":
        assert loaded(changed) in (BITS, "refused")


def test_a_file_cut_short_anywhere_is_damaged() -> None:
    """Every length from one byte to all but one is refused in one line, which says so."""
    assert {"DamagedCheckpointError"} == {verified(SOUND[:length]) for length in range(1, len(SOUND))}
    message = (
        f"{NAME}: expected a whole zip archive, found the beginning of one: the file is cut short; use an older "
        "checkpoint of the run"
    )
    for length in (2, 4, len(SOUND) // 2, len(SOUND) - 1):
        with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
            archive.verify(io.BytesIO(SOUND[:length]), NAME)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(min_size=1), st.binary().map(b"PK\x03\x04".__add__), st.binary().map(END.__add__)))
def test_random_bytes_are_no_checkpoint(data: bytes) -> None:
    """Whatever they begin with, they are refused in one line; what begins as another kind of file cannot be told."""
    other = data.startswith((b"\x80", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x89HDF\r\n\x1a\n", b"\x89PNG"))
    other |= data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data)
    assert ("UnsupportedCheckpointError" if other else "DamagedCheckpointError") == verified(data)


# ------------------------------------------------------------------------------------------ what cannot be a checkpoint


def make_directory(path: Path) -> None:
    path.mkdir()


def make_empty(path: Path) -> None:
    path.touch()


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_dangling(path: Path) -> None:
    path.symlink_to("gone.pth")


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda path: None, CheckpointNotFoundError, ", found nothing of that name; check the path"),
        (make_dangling, CheckpointNotFoundError, ", found nothing of that name; check the path"),
        (make_loop, CheckpointNotFoundError, ", but it cannot be read: Too many levels of symbolic links"),
        (make_directory, DamagedCheckpointError, ", found a directory; name a file in it"),
        (make_empty, DamagedCheckpointError, ", found an empty file; use an older checkpoint of the run"),
        (os.mkfifo, DamagedCheckpointError, ", found no regular file"),
    ],
)
def test_what_cannot_be_a_checkpoint_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], error: type[Exception], found: str
) -> None:
    """Which file, what was expected, what was found, what to do."""
    path = tmp_path / "last_model.pth"
    make(path)
    with pytest.raises(error, match=rf"^{re.escape(f'{path}: expected a checkpoint file (.pth){found}')}$"):
        archive.open_file(path)


def test_a_name_below_a_file_and_a_name_too_long_are_not_found(tmp_path: Path) -> None:
    """What the system says of an impossible path is one of our errors."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointNotFoundError, match="found nothing of that name"):
        archive.open_file(tmp_path / "file" / "last_model.pth")
    with pytest.raises(CheckpointNotFoundError, match="cannot be read: File name too long"):
        archive.open_file(tmp_path / ("x" * 300))


def read_parts(path: Path) -> archive.Parts:
    with archive.open_file(path) as file:
        return archive.parts_of(file, path)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    """Nobody ever writes into it, and the answer comes all the same."""
    path = tmp_path / "last_model.pth"
    os.mkfifo(path)
    answers: list[str] = []

    def ask() -> None:
        for question in (archive.open_file, read_parts):
            try:
                question(path)
            except CheckpointError as error:
                answers.append(type(error).__name__)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout=10)
    assert ["DamagedCheckpointError"] * 2 == answers


def test_a_text_file_is_told_by_its_first_bytes() -> None:
    """The message shows what the file begins with."""
    message = f"{NAME}: expected a zip archive as torch.save writes it, found a file that begins with b'epoch,lo'; "
    message += "check the path"
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(io.BytesIO(b"epoch,loss\n0,0.5\n"), NAME)


def test_a_file_from_before_torch_1_6_cannot_be_told() -> None:
    """It may be sound, but holds no checksums: neither sound nor damaged."""
    file = io.BytesIO()
    torch.save(content(), file, _use_new_zipfile_serialization=False)
    message = (
        f"{NAME}: expected the zip format, found the one that torch.save wrote before 1.6, which holds no checksums; "
        "load it with torch.load and save it again"
    )
    with pytest.raises(UnsupportedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(file, NAME)


def test_a_file_without_checksums_cannot_be_told(tmp_path: Path) -> None:
    """torch.save with checksums off wrote a whole file; its header can be read, its soundness not be told."""
    path = tmp_path / "last_model.pth"
    with config.patch("save.compute_crc32", False):
        torch.save(content(), path)
    message = (
        f"{path}: expected checksums, found none (saved with compute_crc32 off?), so whether it is sound cannot be "
        "told; load it with verify=False if you trust it, and save it again"
    )
    with archive.open_file(path) as file, pytest.raises(UnsupportedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(file, path)
    (info,) = [info for info in RECORDS if info.filename.endswith("data.pkl")]
    assert info.file_size == len(read_parts(path).pickle)


# ------------------------------------------------------------------------------------------------------- other archives


def rewritten(*, compression: int = zipfile.ZIP_STORED, twice: bool = False) -> bytes:
    """Return the sound file as Python's zipfile writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as new, zipfile.ZipFile(io.BytesIO(SOUND)) as old:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        if twice:
            with warnings.catch_warnings(action="ignore"):
                new.writestr("archive/data/0", b"other numbers")
    return file.getvalue()


def patched(offset: int, layout: str, *values: int) -> bytes:
    """Return the sound file with a field of the first directory entry overwritten."""
    changed = bytearray(SOUND)
    struct.pack_into(layout, changed, DIRECTORY + offset, *values)
    return bytes(changed)


def test_a_file_that_another_zip_program_stored_is_sound() -> None:
    """Unpacked and packed again without compression it is still a checkpoint."""
    data = rewritten()
    assert "sound" == verified(data)
    for info in zipfile.ZipFile(io.BytesIO(data)).infolist():
        assert "DamagedCheckpointError" == verified(flipped(data, data_of(info, data).start * 8))


def test_a_record_that_is_there_twice_is_refused() -> None:
    """Two readers could take one each."""
    message = f"{NAME}: expected each record once, found one twice; use an older checkpoint of the run"
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(io.BytesIO(rewritten(twice=True)), NAME)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(rewritten(compression=zipfile.ZIP_DEFLATED), id="compressed"),
        pytest.param(rewritten(compression=zipfile.ZIP_LZMA), id="compressed otherwise"),
        pytest.param(patched(8, "<H", 0x0809), id="encrypted"),
        pytest.param(patched(8, "<H", 0x2808), id="with a hidden header"),
        pytest.param(patched(34, "<H", 1), id="on another disk"),
        pytest.param(patched(38, "<L", 0x10), id="a directory"),
    ],
)
def test_a_record_that_is_not_plainly_stored_is_refused(data: bytes) -> None:
    """torch stores plain bytes: a compressed record may be a bomb, the others torch reads as something else."""
    message = (
        f"{NAME}: record 'archive/data.pkl': expected stored bytes, found a compressed, encrypted or foreign record; "
        "use an older checkpoint of the run"
    )
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(io.BytesIO(data), NAME)


def test_a_record_with_another_name_in_front_of_it_is_refused() -> None:
    """The name before the bytes and the name in the directory must agree: torch reads by one, zipfile by the other."""
    at = SOUND.index(b"archive/data/0")
    changed = SOUND[: at + 13] + b"1" + SOUND[at + 14 :]
    message = (
        f"{NAME}: record 'archive/data/0': expected at byte {at - 30}, found something else; use an older checkpoint "
        "of the run"
    )
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        archive.verify(io.BytesIO(changed), NAME)


@pytest.mark.parametrize("by", [-40, 40, 1 << 40])
def test_a_directory_that_is_said_to_be_elsewhere_is_refused(tmp_path: Path, by: int) -> None:
    """Records before the first byte of the file, in the middle of others, or far behind its end."""
    changed = bytearray(SOUND)
    struct.pack_into("<Q", changed, SOUND.index(b"PK\x06\x06") + 48, DIRECTORY + by)
    path = tmp_path / "last_model.pth"
    path.write_bytes(changed)
    message = (
        f"{path}: expected the end of a zip archive as torch.save writes it, found one that does not fit what lies "
        "before it: the end of the file is damaged; use an older checkpoint of the run"
    )
    for ask in (read_parts, lambda path: archive.verify(io.BytesIO(path.read_bytes()), path)):
        with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
            ask(path)


def test_a_size_beyond_the_file_needs_no_memory(tmp_path: Path) -> None:
    """A forged size of 2**62 bytes is refused before anything of that size is asked for."""
    names = len(b"archive/data.pkl")
    extra = struct.pack("<2H2Q", 1, 16, 1 << 62, 1 << 62)
    entry = bytearray(SOUND[DIRECTORY : DIRECTORY + 46 + names])
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    rest = SOUND[DIRECTORY + 46 + names : SOUND.index(b"PK\x06\x06")]
    size = len(entry) + len(extra) + len(rest)
    end = struct.pack("<4s4H2LH", END, 0, 0, len(RECORDS), len(RECORDS), size, DIRECTORY, 0)
    path = tmp_path / "forged.pth"
    path.write_bytes(SOUND[:DIRECTORY] + entry + extra + rest + end)
    with zipfile.ZipFile(path) as file:
        assert 1 << 62 == file.infolist()[0].file_size
    for ask in (read_parts, lambda path: archive.verify(io.BytesIO(path.read_bytes()), path)):
        with pytest.raises(DamagedCheckpointError, match="the file is cut short"):
            ask(path)


# ----------------------------------------------------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["archive/version"], 0),
        (["data.pkl"], 0),
        (["archive/inner/data.pkl"], 0),
        (["a/data.pkl", "b/data.pkl"], 2),
    ],
)
def test_a_zip_that_torch_did_not_write_has_no_header(tmp_path: Path, names: list[str], found: int) -> None:
    """Exactly one data.pkl in the archive's own folder, else it is somebody else's zip."""
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"\x80\x02N.")
    message = f"{path}: expected one record data.pkl, as torch.save writes it, found {found}: another kind of zip; "
    message += "check the path"
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
        read_parts(path)


def test_the_header_is_read_whole_and_alone(tmp_path: Path) -> None:
    """It is what zipfile finds, and a damaged tensor is no hindrance; a damaged header is."""
    path = tmp_path / "last_model.pth"
    infos = {info.filename: info for info in RECORDS}
    path.write_bytes(flipped(SOUND, data_of(infos["archive/data/0"]).start * 8))
    assert zipfile.ZipFile(io.BytesIO(SOUND)).read("archive/data.pkl") == read_parts(path).pickle
    path.write_bytes(flipped(SOUND, data_of(infos["archive/data.pkl"]).start * 8))
    with pytest.raises(DamagedCheckpointError, match=r"record 'archive/data\.pkl' is damaged: expected CRC32"):
        read_parts(path)


# --------------------------------------------------------------------------------------------------- code in an archive


class Small(torch.nn.Module):
    """A network small enough for each of its bits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.register_buffer("steps", torch.tensor([7]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def scripted(kind: str = "script") -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and its files are there all the same
        network = Small()
        torch.jit.save(torch.jit.script(network) if kind == "script" else torch.jit.trace(network, torch.ones(3)), file)
    return file.getvalue()


def why_damaged(data: bytes) -> str:
    """Return why the bytes are damaged, "" if they are sound."""
    try:
        archive.verify(io.BytesIO(data), NAME)
    except DamagedCheckpointError as error:
        return str(error)
    return ""


def state_and_code(data: bytes) -> Any:
    """Return what torch makes of an archive: its state dict in bits, and its code; "refused" where it raises."""
    try:
        with warnings.catch_warnings(action="ignore"):
            network = torch.jit.load(io.BytesIO(data))
            return to_bits(dict(network.state_dict())), network.code
    except Exception:  # whatever torch raises: nothing was returned
        return "refused"


def packed(source: bytes, size: int | None = None, crc: int | None = None, compressed: bytes | None = None) -> bytes:
    """Return an archive with one more compressed record of code; its size, CRC and bytes may be others than said."""
    file, name = io.BytesIO(scripted()), "archive/code/more.py"
    with zipfile.ZipFile(file, "a") as new:
        if compressed is None:
            new.writestr(name, source, zipfile.ZIP_DEFLATED)
        else:
            new.writestr(name, compressed)
            info = new.getinfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.CRC = zlib.crc32(source)
            info.file_size = len(source)
        info = new.getinfo(name)
        info.file_size = info.file_size if size is None else size
        info.CRC = info.CRC if crc is None else crc
    return file.getvalue()


def deflated(source: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(source) + packer.flush()


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_a_flipped_bit_of_an_archive_is_found_or_changes_nothing(kind: str) -> None:
    """Of 750 bits each, those of the code among them, none passes and changes what torch.jit.load gives."""
    data = scripted(kind)
    expected = state_and_code(data)
    assert ("sound", True) == (verified(data), expected != "refused")
    bits = random.Random(0).sample(range(len(data) * 8), 750)
    verdicts = [(verified(flipped(data, bit)), bit) for bit in bits]
    assert {"sound", "DamagedCheckpointError"} == {verdict for verdict, _ in verdicts}
    unnoticed = [bit for verdict, bit in verdicts if verdict == "sound"]
    assert [] == [bit for bit in unnoticed if state_and_code(flipped(data, bit)) not in (expected, "refused")]


def test_a_flipped_bit_of_packed_code_is_found_or_unpacks_to_the_same() -> None:
    """All bits of all code: the record is named, or the bit is one that deflate has no use for."""
    data = scripted()
    infos = [info for info in zipfile.ZipFile(io.BytesIO(data)).infolist() if info.compress_type != zipfile.ZIP_STORED]
    assert {".py", ".debug_pkl"} == {Path(info.filename).suffix for info in infos}
    for info in infos:
        start, unnoticed = data_of(info, data).start, 0
        stretch = slice(start, start + info.compress_size)
        for bit in range(stretch.start * 8, stretch.stop * 8):
            changed = flipped(data, bit)
            if why := why_damaged(changed):
                assert why.startswith(f"{NAME}: record '{info.filename}' is damaged: expected CRC32 {info.CRC:08x}, ")
            else:
                assert zlib.decompress(data[stretch], -15) == zlib.decompress(changed[stretch], -15)
                unnoticed += 1
        assert unnoticed < 12


@pytest.mark.parametrize("length", [0, 1, *range((1 << 18) - 3, (1 << 18) + 60), (1 << 18) + 258, 1 << 19, 700_001])
def test_code_of_any_length_is_sound(length: int) -> None:
    """Also where the last piece that zlib unpacks does not fit into the one before, with all bytes read already."""
    assert "sound" == verified(packed(b"#" * length))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40_000), st.sampled_from([b"#", b"x = 1\n", bytes(range(256))]), st.integers(1, 9))
def test_packed_code_is_sound_at_each_level(length: int, text: bytes, level: int) -> None:
    """However well it is packed; and not with another checksum or one byte more or less."""
    source = text * (length // len(text) * 20)
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    compressed = packer.compress(source) + packer.flush()
    assert "sound" == verified(packed(source, compressed=compressed))
    for lie in ({"size": len(source) + 1}, {"size": max(len(source) - 1, 0)}, {"crc": zlib.crc32(source) ^ 1}):
        if lie != {"size": len(source)} and source:
            assert "DamagedCheckpointError" == verified(packed(source, compressed=compressed, **lie)), lie


@pytest.mark.parametrize(
    "compressed",
    [
        pytest.param(b"\xff" * 50, id="no stream"),
        pytest.param(b"\x00" * 300_000, id="blocks of nothing"),
        pytest.param(b"", id="nothing"),
        pytest.param(deflated(b"x = 1\n" * 99)[:-1], id="cut short"),
        pytest.param(deflated(b"x = 1\n" * 99) + b"more", id="more behind its end"),
        pytest.param(deflated(b"x = 1\n" * 99) + bytes(1 << 20), id="much more behind its end"),
        pytest.param(deflated(b"x = 1\n" * 99) * 2, id="twice"),
        pytest.param(zlib.compress(b"x = 1\n" * 99), id="with the header of zlib"),
    ],
)
def test_code_that_cannot_be_unpacked_is_damaged(compressed: bytes) -> None:
    """It is one line that names the record."""
    data = packed(b"x = 1\n" * 99, compressed=compressed)
    with pytest.raises(
        DamagedCheckpointError, match=rf"^{NAME}: record 'archive/code/more\.py' is damaged: expected CRC"
    ):
        archive.verify(io.BytesIO(data), NAME)


def zeros(size: int) -> tuple[bytes, int]:
    """Return a stream that unpacks to so many zeros, and their checksum."""
    packer, crc, block = zlib.compressobj(9, zlib.DEFLATED, -15), 0, bytes(1 << 20)
    stream = [packer.compress(block) for _ in range(size >> 20)]
    for _ in range(size >> 20):
        crc = zlib.crc32(block, crc)
    return b"".join(stream) + packer.flush(), crc


def test_code_that_unpacks_to_60_megabytes_is_checked_in_little_memory(tmp_path: Path) -> None:
    """Piece by piece: sound where that is what it says, damaged where it says less or more."""
    size = 60 << 20
    stream, crc = zeros(size)
    paths = [tmp_path / name for name in ("sound.pt", "less.pt", "more.pt")]
    for path, says in zip(paths, (size, 1000, size + 1), strict=True):
        path.write_bytes(packed(b"", compressed=stream, size=says, crc=crc))
    program = (
        "import pathlib, resource, sys\n"
        "from koemorph_tutorial import archive, records\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 25, 3 << 25))\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    with archive.open_file(path) as file:\n"
        "        try:\n            archive.verify(file, path)\n            print('sound')\n"
        "        except records.DamagedCheckpointError as error:\n            print(error)\n"
    )
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    expected = (
        f"record 'archive/code/more.py' is damaged: expected CRC32 {crc:08x}, found bytes that cannot be unpacked"
    )
    sound, less, more = done.stdout.splitlines()
    assert ("sound", True, True) == (sound, f"{paths[1]}: {expected};" in less, f"{paths[2]}: {expected};" in more)


def test_code_that_says_to_unpack_to_more_than_any_is_refused() -> None:
    """64 MB and a byte: nothing of it is unpacked; many records are counted as one."""
    says = (1 << 26) + 1
    message = rf"^{NAME}: expected the source code of a model, found [0-9,]+ bytes of it \(a zip bomb\?\); do not"
    with pytest.raises(DamagedCheckpointError, match=message):
        archive.verify(io.BytesIO(packed(b"", compressed=b"\0" * 99, size=says)), NAME)


@pytest.mark.parametrize("name", ["archive/data/more", "archive/constants.pkl2", "archive/extra/code/x", "code/x"])
def test_only_code_may_be_packed(name: str) -> None:
    """Of an archive of TorchScript as well: a packed tensor may be a bomb."""
    file = io.BytesIO(scripted())
    with zipfile.ZipFile(file, "a") as new:
        new.writestr(name, b"x = 1\n" * 99, zipfile.ZIP_DEFLATED)
    with pytest.raises(
        DamagedCheckpointError, match=rf"record '{re.escape(name)}': expected stored bytes, found a compr"
    ):
        archive.verify(io.BytesIO(file.getvalue()), NAME)


def test_places_say_where_bytes_lie(tmp_path: Path) -> None:
    """Read by its place a record is what zipfile finds; cut short or changed it is refused."""
    path = tmp_path / "model.pth"
    path.write_bytes(SOUND)
    places = read_parts(path).places
    with zipfile.ZipFile(path) as file:
        expected = {name.removeprefix("archive/data/"): file.read(name) for name in file.namelist() if "/data/" in name}
    with archive.open_file(path) as file:
        assert expected == {key: bytes(archive.read_place(file, path, place)) for key, place in places.items()}
    for changed in (SOUND[: places["0"].offset + 70], flipped(SOUND, SOUND.index(expected["0"]) * 8)):
        path.write_bytes(changed)
        with (
            archive.open_file(path) as file,
            pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(str(path))}: "),
        ):
            archive.read_place(file, path, places["0"])


# ------------------------------------------------------------------------------------------------- what is compressed


def compressed(path: Path, data: bytes = SOUND, codec: Codec = "gzip") -> Path:
    """Write `data` compressed."""
    with path.open("wb") as file:
        compression.pack(io.BytesIO(data), file, codec)
    return path


@pytest.mark.parametrize("codec", ["gzip", "zstd", "shuffle-zstd"])
def test_a_compressed_file_is_opened_as_what_is_in_it(tmp_path: Path, codec: Codec) -> None:
    """Whatever its name says; verified, loaded by torch and read in parts like the plain one."""
    path = compressed(tmp_path / "last_model.pth", codec=codec)
    (tmp_path / "plain.pth").write_bytes(SOUND)
    assert (codec, None) == (archive.codec_of_file(path), archive.codec_of_file(tmp_path / "plain.pth"))
    with archive.open_file(path) as file:
        archive.verify(file, path)
        file.seek(0)
        assert SOUND == file.read()
        file.seek(0)
        assert BITS == to_bits(torch.load(file, weights_only=True))
        assert path.stat().st_size == file.packed  # type: ignore[attr-defined]
    assert read_parts(path) == read_parts(tmp_path / "plain.pth")


def test_it_is_read_like_any_file(tmp_path: Path) -> None:
    """Seek, tell, read, readinto, beyond the end; nobody writes to it; closed, it gives nothing."""
    with archive.open_file(compressed(tmp_path / "last_model.pth")) as file, io.BytesIO(SOUND) as plain:
        for each in (file, plain):
            assert (len(SOUND), len(SOUND) - 5) == (each.seek(0, os.SEEK_END), each.seek(-5, os.SEEK_CUR))
            assert (SOUND[-5:], b"", len(SOUND)) == (each.read(9), each.read(9), each.tell())
            assert (len(SOUND) + 9, b"") == (each.seek(9, os.SEEK_CUR), each.read(1))
            assert (7, SOUND[7:]) == (each.seek(7), each.read())
            with pytest.raises(ValueError, match="negative seek"):
                each.seek(-1)
        file.seek(0)
        assert (4, False, True, True) == (
            file.readinto(bytearray(4)),  # type: ignore[attr-defined]  # typeshed: not in BinaryIO
            file.writable(),
            file.readable(),
            file.seekable(),
        )
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_it_is_unpacked_once_for_all_who_read_it_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own place in it; when the last has closed it, its memory is free; another file is another one."""
    path = compressed(tmp_path / "last_model.pth")
    unpacked: list[str] = []
    original = compression.unpack

    def noted(file: Any, codec: Codec, path: Path) -> Any:
        unpacked.append(codec)
        return original(file, codec, path)

    monkeypatch.setattr(archive, "unpack", noted)
    with archive.open_file(path) as one, archive.open_file(path) as other:
        one.seek(100)
        assert SOUND[:4] == other.read(4)
        compressed(path, saved({"epoch": 7}), "zstd")  # over it, while it is read
        assert SOUND[100:110] == one.read(10)
        with archive.open_file(path) as new:
            assert saved({"epoch": 7}) == new.read()
    assert (["gzip", "zstd"], 0) == (unpacked, len(CONTENTS))
    archive.open_file(path).close()
    assert 3 == len(unpacked)


def test_a_large_one_is_checked_by_two_threads_as_by_one(tmp_path: Path) -> None:
    """Damage that was there before it was compressed is found in every record, in the order of the file."""
    file = io.BytesIO()
    torch.save({name: torch.zeros(1 << 20) for name in "abcdef"}, file)
    data = bytearray(file.getvalue())
    infos = [info for info in zipfile.ZipFile(file).infolist() if "/data/" in info.filename]
    for info in (infos[1], infos[4]):
        data[data_of(info, bytes(data))[-1]] ^= 1
    path = compressed(tmp_path / "large.pth", bytes(data), "zstd")
    with archive.open_file(path) as opened:
        found = [str(error) for error in find_damaged(opened, path, read_records(opened, path))]
    assert [True, True] == [f"data/{n}'" in error for n, error in zip((1, 4), found, strict=True)]


@pytest.mark.parametrize(
    ("inside", "error", "words"),
    [
        (
            b"\x80\x05\x95" + bytes(99),
            UnsupportedCheckpointError,
            "found a plain pickle, as gzip and pickle.dump",
        ),
        (
            b"\x80\x04N.",
            UnsupportedCheckpointError,
            "found a plain pickle; name a file of torch.save; to op",
        ),
        (
            gzip.compress(SOUND),
            UnsupportedCheckpointError,
            "in the gzip file, found a gzip file; unpack it with gun",
        ),
        (b"epoch,loss\n0,0.5\n" * 9, DamagedCheckpointError, "writes it in the gzip file, found a file that begins wi"),
        (b"", DamagedCheckpointError, "found the beginning of one: the file is cut short"),
        (SOUND[:-100], DamagedCheckpointError, "the file is cut short"),
        (bytes(1 << 22), DamagedCheckpointError, "in the gzip file, found a file that begins with b'\\x00"),
    ],
)
def test_what_is_no_checkpoint_in_it_gets_one_line(
    tmp_path: Path, inside: bytes, error: type[CheckpointError], words: str
) -> None:
    """The file's own path, and what is in it; what begins like none is not unpacked to its end."""
    path = tmp_path / "last_model.pth.gz"
    path.write_bytes(gzip.compress(inside))
    with pytest.raises(error) as caught, archive.open_file(path) as file:
        archive.verify(file, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


def test_what_is_no_checkpoint_in_it_is_refused_before_all_is_uncompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of gigabytes, or a bomb."""
    monkeypatch.setattr(archive, "unpack", lambda *_: pytest.fail("it was unpacked"))
    for data in (gzip.compress(bytes(1 << 20)), zstd().compress(b"epoch 0\n" * 9)):
        (tmp_path / "log.gz").write_bytes(data)
        with pytest.raises(DamagedCheckpointError, match="found a file that begins with"):
            archive.open_file(tmp_path / "log.gz")


def test_a_name_that_has_another_form_now_says_which(tmp_path: Path) -> None:
    """Somebody has compressed the old files of the run, and a script still names one as it was called."""
    compressed(tmp_path / "checkpoint_epoch_003.pth.gz")
    with pytest.raises(
        CheckpointNotFoundError, match=r"nothing of that name; name checkpoint_epoch_003\.pth\.gz, which l"
    ):
        archive.open_file(tmp_path / "checkpoint_epoch_003.pth")
    with pytest.raises(CheckpointNotFoundError, match="nothing of that name; check the path"):
        archive.open_file(tmp_path / "checkpoint_epoch_004.pth")
    assert [] == archive.other_forms(tmp_path / "notes.txt")
