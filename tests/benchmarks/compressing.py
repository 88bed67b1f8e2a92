"""How small a checkpoint can be, and how fast: each codec on a trained one, beside gzip + pickle and what is possible.

Random weights would not do: only a training gives weights and the optimizer's memory the sizes that they have, and by
these they are packed. So the network of the example, 45 times as large, is trained on its voices for 200 steps.
"""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measuring import Row, in_turns

from tests.packing import CODECS, NAME, Saved, packed, saved

_TRAINING = [
    *("model.width=512", "model.hidden=512", "training.lr=0.001", "training.target_jitter=0", "training.epochs=5"),
    "training.checkpoint.save_freq=50",
]
_SMALLEST = 0.84  # of the uncompressed file
_FASTEST = 0.1  # of the recipe's time


def compressing() -> Iterable[Row]:
    """Measure sizes and times of a file on a disk that is written to another one; nobody waits for the disk."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = torch.load(_trained(Path(folder)), weights_only=True)
        file = saved(checkpoint)
        yield from _sizes(checkpoint, file)
        yield from _entropies(file)
        yield from _times(checkpoint, file, Path(folder))


def _trained(folder: Path) -> Path:
    """Train in a process of its own, as anybody does."""
    command = [sys.executable, "-m", "koemorph_tutorial", "train", "--run-dir", str(folder / "run"), *_TRAINING]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder / "run/checkpoints/last_model.pth"


def _recipe(checkpoint: dict[str, Any], path: Path) -> None:
    with gzip.open(path, "wb") as file:
        pickle.dump(checkpoint, file)


def _sizes(checkpoint: dict[str, Any], file: Saved) -> Iterable[Row]:
    """Yield how many megabytes are left, of the checkpoint and of what inference needs of it."""
    from koemorph_tutorial.compression import for_inference
    from koemorph_tutorial.streams import zstd

    def row(what: str, data: bytes, bound: float | None = None) -> Row:
        sizes = {"measured": len(data) / 1e6, "reference": len(file.data) / 1e6}
        return Row(name=f"{what} / uncompressed, size", **sizes, bound=bound, unit="MB")

    pickled = gzip.compress(pickle.dumps(checkpoint))
    yield row("gzip + pickle", pickled)
    yield row("zstd, level 1, as it comes", zstd().compress(file.data, 1))
    for codec in CODECS:
        yield row(codec, packed(file, codec), _SMALLEST if codec == "shuffle-zstd" else None)
    for what, content in (
        ("without optimizer", for_inference(checkpoint)),
        ("… as bfloat16", for_inference(checkpoint, bf16=True)),
    ):
        slim = saved(content)
        yield row(what, slim.data)
        yield row(f"{what}, shuffle-zstd", packed(slim, "shuffle-zstd"))


def _entropies(file: Saved) -> Iterable[Row]:
    """Yield what each byte of a number carries, of 8 bits; then how near to the sum of it shuffle-zstd comes."""
    from koemorph_tutorial.compression import plane_entropies

    floats = [piece for piece in file.pieces if piece.width == 4 and piece.size >= 4]
    total = sum(piece.size for piece in floats)
    bits = [0.0] * 4
    for piece in floats:
        for at, entropy in enumerate(plane_entropies(file.data[piece.offset : piece.offset + piece.size], 4)):
            bits[at] += entropy * piece.size / total
    for at, entropy in enumerate(reversed(bits)):
        name = f"entropy of byte {at + 1}{' (sign, exponent)' if at == 0 else ''} of a float32 / 8 bits"
        yield Row(name=name, measured=entropy, reference=8.0, unit="b")
    least = total * sum(bits) / 32 + len(file.data) - total
    ours = len(packed(file, "shuffle-zstd"))
    sizes = {"measured": ours / 1e6, "reference": least / 1e6}
    yield Row(name="shuffle-zstd / what these entropies allow", **sizes, bound=1.01, unit="MB")


def _times(checkpoint: dict[str, Any], file: Saved, folder: Path) -> Iterable[Row]:
    """Yield how long it takes to write and to read, in turns."""
    from koemorph_tutorial.compression import pack, unpack
    from koemorph_tutorial.records import Codec

    source = folder / "source.pth"
    source.write_bytes(file.data)

    def write(codec: Codec) -> None:
        with source.open("rb") as plain, (folder / codec).open("wb") as target:
            pack(plain, target, codec, pieces=file.pieces, pickle=file.header)

    def read(codec: Codec) -> None:
        with (folder / codec).open("rb") as packed_file:
            unpack(packed_file, codec, NAME)

    def read_recipe() -> None:
        with gzip.open(folder / "recipe", "rb") as packed_file:
            pickle.load(packed_file)  # one that was written a moment ago

    for what, reference, call, bounds in (
        ("packed", lambda: _recipe(checkpoint, folder / "recipe"), write, {"shuffle-zstd": _FASTEST}),
        ("unpacked", read_recipe, read, {}),
    ):
        calls: dict[str, Callable[[int], object]] = {"recipe": lambda _, reference=reference: reference()}
        calls |= {codec: lambda _, codec=codec, call=call: call(codec) for codec in CODECS}
        times = in_turns(calls, rounds=5)
        for codec in CODECS:
            seconds = {"measured": times[codec], "reference": times["recipe"], "bound": bounds.get(codec)}
            speed = f"{len(file.data) / times[codec] / 1e6:,.0f} MB/s"
            yield Row(name=f"{codec} {what} / gzip + pickle, {speed}", **seconds)
