"""Every bit of small files, hundreds of larger ones, every length, bombs: by each codec, and each is found.

What tests/test_compression.py samples. The figures are printed, for the README.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from koemorph_tutorial.records import CheckpointError, Codec
from koemorph_tutorial.streams import zstd
from tests import damage
from tests.packing import CODECS, PEAK, Saved, beginning, forged, packed, saved, unpacked
from tests.test_compression import INDEX, KINDS, LIES, OTHER_RECORDS, RECORDS, small, zstd_that_says

SMALL = ["training.epochs=2", "data.train_windows=64", "data.validation_windows=16", "data.seconds=3.0"]
MOST = 100 << 20  # bytes of memory above the start, for a file of a few kilobytes that lies


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Return the newest checkpoint of a short training of the example."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "koemorph_tutorial", "train", "--run-dir", str(folder / "run"), *SMALL]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300)
    return saved(torch.load(folder / "run/checkpoints/last_model.pth", weights_only=True))


def outcomes(damaged: Iterator[tuple[str, bytes]], codec: Codec, original: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for what, data in damaged:
        try:
            outcome = "the same bytes" if unpacked(data, codec) == original else "silently wrong"
        except CheckpointError as error:
            outcome = "found" if 1 == len(str(error).splitlines()) else "not said in one line"
        found.setdefault(outcome, []).append(what)
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_every_bit_of_a_small_file_is_guarded(codec: Codec) -> None:
    file = saved(small())
    data = packed(file, codec)
    bits = ((f"bit {bit}", damage.flipped(data, bit)) for bit in range(8 * len(data)))
    found = outcomes(bits, codec, file.data)
    print(f"\n{codec}, {len(data):,} bytes, each of {8 * len(data):,} bits flipped: {len(found['found']):,} found")
    assert {"found"} == set(found), {what: which[:9] for what, which in found.items()}


@pytest.mark.parametrize("codec", CODECS)
def test_every_bit_of_a_file_of_many_kinds_of_tensors_is_guarded(codec: Codec) -> None:
    """Of two bytes, of eight, none at all: other parts, other runs."""
    file = saved([KINDS["empty tensors"], torch.arange(40), torch.randn(300).bfloat16(), torch.randn(9).double(), True])
    data = packed(file, codec)
    bits = ((f"bit {bit}", damage.flipped(data, bit)) for bit in range(8 * len(data)))
    assert {"found"} == set(outcomes(bits, codec, file.data))


@pytest.mark.parametrize("codec", CODECS)
def test_five_hundred_flipped_bits_of_a_trained_checkpoint_are_found(trained: Saved, codec: Codec) -> None:
    data = packed(trained, codec)
    found = outcomes(damage.flips(data, 500), codec, trained.data)
    print(f"\n{codec}, {len(data):,} bytes, 500 flipped bits: { {what: len(n) for what, n in found.items()} }")
    assert {"found"} == set(found)


@pytest.mark.parametrize("codec", CODECS)
def test_two_hundred_overwrites_of_a_trained_checkpoint_are_found(trained: Saved, codec: Codec) -> None:
    data = packed(trained, codec)
    changed = ((what, other) for what, other in damage.overwrites(data, 200) if other != data)
    assert {"found"} == set(outcomes(changed, codec, trained.data))


@pytest.mark.parametrize("codec", CODECS)
def test_every_length_of_a_file_is_cut_short_or_gives_the_same_bytes(codec: Codec) -> None:
    file = saved(small())
    data = packed(file, codec)
    cuts = ((f"{length} bytes", data[:length]) for length in range(len(data)))
    found = outcomes(cuts, codec, file.data)
    # Just before its seal a stream is what gzip or zstd would have written.
    assert {"found": len(data) - (codec != "shuffle-zstd")} | (
        {} if codec == "shuffle-zstd" else {"the same bytes": 1}
    ) == {what: len(which) for what, which in found.items()}


@pytest.mark.parametrize("codec", CODECS)
def test_a_listing_reads_the_true_header_or_says_so(trained: Saved, codec: Codec) -> None:
    data = packed(trained, codec)
    said: Counter[str] = Counter()
    for what, other in [*damage.flips(data[:9000], 2000), *damage.truncations(data, 300)]:
        try:
            whole = beginning(other + data[9000:] if "bit" in what else other, codec) == trained.pickle
            said["the true header" if whole else "another one"] += 1
        except CheckpointError:
            said["found"] += 1
    print(f"\n{codec}, 2,000 bits flipped in the beginning, 300 cuts, the header alone read: {dict(said)}")
    assert 0 == said["another one"]


def bombs() -> Iterator[tuple[str, Codec, bytes]]:
    for lie, changes in LIES.items():
        yield lie, "shuffle-zstd", forged({**INDEX, **changes}, RECORDS)
    for what, records in OTHER_RECORDS.items():
        yield what, "shuffle-zstd", forged(INDEX, records)
    yield "a gigabyte in one record", "shuffle-zstd", forged(INDEX, {**RECORDS, "0": zstd().compress(bytes(1 << 30))})
    yield "deep JSON", "shuffle-zstd", forged(b"[" * (1 << 22), RECORDS)
    yield "lists of nothing", "shuffle-zstd", forged(b"[" + b"[]," * 1_000_000 + b"0]", RECORDS)
    for size in (1 << 20, 1 << 30, 1 << 50):
        yield f"zstd that says {size:,}", "zstd", zstd_that_says(size)
    yield "gzip that says 4 GB", "gzip", gzip.compress(b"PK\x03\x04" + bytes(500))[:-4] + b"\xff" * 4


_ASK = (
    PEAK
    + """
import sys, time, zlib
from pathlib import Path
import numpy
from koemorph_tutorial.compression import pack, unpack
from koemorph_tutorial.records import CheckpointError
codec, *paths = sys.argv[1:]
packed = zlib.compress(bytes(1 << 22))
begin = time.process_time()
for _ in range(32):
    zlib.decompress(packed)
gigabyte = 8 * (time.process_time() - begin)  # so long it takes zlib, on this machine
before = peak()
for path in paths:
    begin = time.process_time()
    try:
        with open(path, "rb") as file:
            unpack(file, codec, Path(path))
        print("NOT FOUND", path)
    except CheckpointError as error:
        if "\\n" in str(error) or time.process_time() - begin > 4 * gigabyte:
            print("SLOW OR LONG", path, time.process_time() - begin, gigabyte)
print(peak() - before)
"""
)


@pytest.mark.parametrize("codec", CODECS)
def test_what_lies_takes_little_memory_and_time(codec: Codec, tmp_path: Path) -> None:
    paths = []
    for number, (_what, kind, data) in enumerate(bombs()):
        if kind == codec:
            paths.append(str(tmp_path / str(number)))
            Path(paths[-1]).write_bytes(data)
    said = subprocess.run([sys.executable, "-c", _ASK, codec, *paths], capture_output=True, text=True, check=True)
    *complaints, peak = said.stdout.splitlines()
    print(f"\n{codec}, {len(paths)} files that lie: at most {int(peak) / 1e6:.0f} MB of memory")
    assert [] == complaints
    assert int(peak) < MOST


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_two_gigabytes_of_zeros_are_refused_at_half_of_it(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    with gzip.open(path, "wb") if codec == "gzip" else zstd().open(path, "wb") as file:
        for _ in range(2 << 10):
            file.write(bytes(1 << 20))
    said = subprocess.run([sys.executable, "-c", _ASK, codec, str(path)], capture_output=True, text=True, check=True)
    *complaints, peak = said.stdout.splitlines()
    print(f"\n{codec}, a bomb of 2 GiB in {path.stat().st_size:,} bytes: {int(peak) / 1e6:,.0f} MB of memory")
    assert [] == complaints
    assert int(peak) < 1300 << 20
