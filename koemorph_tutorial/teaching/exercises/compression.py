"""Lesson 07: which bytes of a checkpoint can be packed, and what may be left out."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.compression import plane_entropies, shuffle
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import (
    expect_kind,
    expect_something,
    names_in,
    raise_for_stub,
    same,
    type_of,
    wrong_if,
)
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    from torch import Tensor

# ------------------------------------------------------------------------------------------------ 07.1 and 07.2

SHARE = Choice(
    asks="How much of the file are the weights?",
    options={
        "a": Option(
            text="Nearly all of it. The rest is settings and counters.",
            reply="Settings and counters are small, but the optimizer is not: for each weight AdamW remembers two "
            "numbers, the running means of the gradient and of its square. The weights are a third.",
        ),
        "b": Option(
            text="About half. The optimizer remembers one number for each weight.",
            reply="SGD with momentum does. AdamW remembers two for each weight: the running mean of the gradient and "
            "that of its square. So the weights are a third.",
        ),
        "c": Option(
            text="About a third. The optimizer remembers two numbers for each weight.",
            reply="The running means of the gradient and of its square. Whoever goes on training needs them, and "
            "nobody else does.",
        ),
    },
    right="c",
)

PREDICTION = Choice(
    asks="How much of the file does gzip leave?",
    options={
        "a": Option(
            text="Half or less. Training has put a pattern into the weights, and patterns can be packed.",
            reply="A network does have a pattern: that is what it computes with. But gzip knows of bytes that recur, "
            "and the digits of a weight, three bytes of its four, are as good as random. What recurs is only how "
            "large the weights are.",
        ),
        "b": Option(
            text="Nine tenths, about. Something in each number recurs, and most of it does not.",
            reply="What recurs is how large the numbers are, which is written in one byte of four. The digits behind "
            "it are as good as random.",
        ),
        "c": Option(
            text="All of it. The weights began as random numbers, and what is random cannot be packed.",
            reply="Nearly. Their digits are as good as random. But most weights are of much the same size, and that is "
            "written in a byte of its own: of this byte gzip can make less.",
        ),
    },
    right="b",
)


# ------------------------------------------------------------------------------------------------ 07.3


def _examine_unshuffle(unshuffle: Any) -> None:
    raise_for_stub(unshuffle, _unshuffle("return None  # your line"))
    chance = random.Random(7)
    for numbers in (97, 12, 1):
        data = chance.randbytes(4 * numbers)
        _expect_bytes(unshuffle(shuffle(data, 4)), data)


def _expect_bytes(found: Any, data: bytes) -> None:
    import numpy as np

    expect_something(found, "unshuffle")
    raw = found.tobytes() if isinstance(found, (np.ndarray, memoryview)) else found
    wrong_if(not isinstance(raw, (bytes, bytearray)), f"expected bytes, found {type_of(found)}")
    wrong_if(len(raw) != len(data), f"from {len(data)} bytes it makes {len(raw)}: each is wanted once")
    if raw == data:
        wrong_if(isinstance(found, np.ndarray), "array")
        return
    whole = np.frombuffer(data, np.uint8).reshape(-1, 4)
    for name, wrong in (
        ("unchanged", shuffle(data, 4)),
        ("again", shuffle(shuffle(data, 4), 4)),
        ("backwards", whole[:, ::-1].tobytes()),
    ):
        wrong_if(raw == wrong, name)
    if sorted(raw) == sorted(data):
        raise WrongAnswerError("all bytes are there, and not in the order that they had before they were sorted")
    raise WrongAnswerError("what comes back are other bytes than those that were sorted")


_unshuffle = form('''\
import numpy as np


def unshuffle(data):
    """Of four planes, one behind the other, make the bytes of the numbers again."""
    planes = np.frombuffer(data, np.uint8)
    {lines}
''')


UNSHUFFLE = Exercise(
    asks="The way back",
    answer="unshuffle",
    expects="a function",
    examine=_examine_unshuffle,
    misconceptions={
        "unchanged": Misconception(
            says="The bytes come back in the order in which they were given, still sorted: `reshape` alone moves "
            "nothing. It says where a row ends. `.T` makes columns of the rows.",
            example=_unshuffle("return planes.reshape(4, -1).tobytes()"),
        ),
        "again": Misconception(
            says="This sorts a second time. On the way there each row held the 4 bytes of a number; now there are 4 "
            "rows, each of which is a plane.",
            example=_unshuffle("return planes.reshape(-1, 4).T.tobytes()"),
        ),
        "backwards": Misconception(
            says="The four bytes of each number are together again, and stand backwards. The planes lie in the order "
            "of the bytes in memory: the first plane is the first byte.",
            example=_unshuffle("return planes.reshape(4, -1)[::-1].T.tobytes()"),
        ),
        "array": Misconception(
            says="The right order, in an array. A file is made of bytes: `.tobytes()`.",
            example=_unshuffle("return planes.reshape(4, -1).T.flatten()"),
        ),
    },
    hint="Four rows, one for each plane: `planes.reshape(4, -1)`. Its columns are the numbers.",
    solution=_unshuffle("return planes.reshape(4, -1).T.tobytes()"),
    why="Sorted and brought back, every byte stood where it had been: sorting loses nothing and costs next to nothing. "
    "The packing is left to others.",
)


# ------------------------------------------------------------------------------------------------ 07.4

_COUNTED = 1_000_003  # batches: as a bfloat16 it would be 999,424
_LARGE, _SMALL = 100_000.0, 1e-9  # float16 has neither


def _full_checkpoint() -> dict[str, Any]:
    """Return a checkpoint whose parts are told apart, with numbers that other formats do not hold."""
    import torch

    weights = {
        "layer.weight": torch.tensor([[0.1, -1.7, _LARGE], [_SMALL, 3.0, 0.5]]),
        "norm.running_var": torch.tensor([1.0, 2.5], dtype=torch.float64),
        "norm.num_batches_tracked": torch.tensor(_COUNTED),
        "position": torch.tensor([0, 1, _COUNTED]),
        "scale": torch.tensor(0.3),
    }
    moments = {"exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    return {
        "epoch": 11,
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "metrics": {"loss": 0.25},
        "config": {"model": {"width": 64}},
    }


def _examine_slim(slim: Any) -> None:
    raise_for_stub(slim, _slim(_STUB))
    given, before = _full_checkpoint(), _full_checkpoint()
    found = slim(given)
    wrong_if(given.keys() != before.keys(), "removed")
    wrong_if(not _alike(given["model_state_dict"], before["model_state_dict"]), "in place")
    wrong_if(not same(given, before), "the checkpoint that it was given is not what it was before")
    expect_kind(found, Mapping, "a dict", of="slim")
    if "optimizer_state_dict" in found:
        raise WrongAnswerError(_what_is_left_of_it(found["optimizer_state_dict"], before["optimizer_state_dict"]))
    if missing := [name for name in before if name not in found and name != "optimizer_state_dict"]:
        raise WrongAnswerError("lost" if len(missing) > 1 else f"`{missing[0]}` has gone as well: it may be needed")
    for name in ("epoch", "metrics", "config"):
        wrong_if(not same(found[name], before[name]), f"`{name}` is not what it was: only the weights were to change")
    _expect_halved(found["model_state_dict"], before["model_state_dict"])


def _what_is_left_of_it(found: Any, before: Any) -> str:
    """Say what an answer has where the optimizer was: all of it, nothing, or something else."""
    if same(found, before):
        return "optimizer"
    if found is None or (isinstance(found, Mapping) and not found):
        return "emptied"
    return "`optimizer_state_dict` is still in it, with other contents: nobody needs it who only uses the network"


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether two states are equal, and of the same types."""
    return same(dict(one), dict(other)) and all(one[name].dtype == other[name].dtype for name in other)


def _is_float(value: Tensor) -> bool:
    return value.is_floating_point()


def _expect_halved(found: Any, before: Mapping[str, Tensor]) -> None:
    import torch

    if isinstance(found, Mapping) and found.keys() == {name for name, value in before.items() if _is_float(value)}:
        raise WrongAnswerError("left out")
    if not isinstance(found, Mapping) or found.keys() != before.keys():
        names = ", ".join(f"`{name}`" for name in before)
        raise WrongAnswerError(f"expected a `model_state_dict` with the same names as before, {names}")
    for name, value in found.items():
        wrong_if(not isinstance(value, torch.Tensor), f"`{name}`: expected a tensor, found {type_of(value)}")
        if value.shape != before[name].shape:
            shape = tuple(before[name].shape)
            raise WrongAnswerError(f"`{name}`: expected the shape {shape}, found {tuple(value.shape)}")
    floats = {name: value for name, value in found.items() if _is_float(before[name])}
    wrong_if(any(value.dtype == torch.float16 for value in floats.values()), "float16")
    wrong_if(all(value.dtype == before[name].dtype for name, value in floats.items()), "whole")
    for name in [name for name in before if name not in floats]:
        _expect_whole(name, found[name], before[name])
    for name, value in floats.items():
        if value.dtype != torch.bfloat16:
            types = printable(str(value.dtype).removeprefix("torch."))
            wrong_if(before[name].dtype == torch.float64, "double")
            raise WrongAnswerError(f"`{name}`: expected bfloat16, found {types}")
        if not torch.allclose(value.double(), before[name].double(), rtol=2**-7, atol=0):
            raise WrongAnswerError(f"`{name}` holds other numbers than before: {value.flatten()[:3].tolist()} …")


def _expect_whole(name: str, found: Tensor, before: Tensor) -> None:
    import torch

    if _alike({name: found}, {name: before}):
        return
    wrong_if(found.dtype == torch.bfloat16, "counter")
    types = printable(str(found.dtype).removeprefix("torch."))
    if found.dtype != before.dtype and torch.equal(found.double(), before.double()):
        raise WrongAnswerError(f"`{name}` holds the same as before, as {types}: it was int64, and only floats change")
    raise WrongAnswerError(f"`{name}`: expected {before.tolist()} as before, found {found.tolist()} ({types})")


_slim = form('''\
import torch


def slim(checkpoint):
    """Return what is needed to use the network; the checkpoint itself stays as it is."""
    {lines}
''')


_STUB = 'return {name: value for name, value in checkpoint.items() if name != "optimizer_state_dict"}'
_KEPT = 'kept = {name: value for name, value in checkpoint.items() if name != "optimizer_state_dict"}'
_STATE = 'weights = checkpoint["model_state_dict"]'
_RETURN = 'return kept | {"model_state_dict": halved}'
_BF16 = "v.bfloat16() if v.is_floating_point() else v"


def _halved(to: str) -> tuple[str, ...]:
    return (_KEPT, _STATE, f"halved = {{name: {to} for name, v in weights.items()}}", _RETURN)


SLIM = Exercise(
    asks="Drop and halve",
    answer="slim",
    expects="a function",
    examine=_examine_slim,
    misconceptions={
        "removed": Misconception(
            says="It takes an entry out of the dict that it was given. That belongs to the caller, whose next save "
            "would be without it. Make a new dict.",
            example=_slim('del checkpoint["optimizer_state_dict"]', *_halved(_BF16)),
        ),
        "in place": Misconception(
            says="The new dict is yours, the dict inside it is still the caller's: `model_state_dict` was changed for "
            "both. A copy of a dict is shallow. Make the inner one anew as well.",
            example=_slim(
                _KEPT,
                'for name, v in kept["model_state_dict"].items():',
                "    if v.is_floating_point():",
                '        kept["model_state_dict"][name] = v.bfloat16()',
                "return kept",
            ),
        ),
        "optimizer": Misconception(
            says="The optimizer is in it again, two thirds of the file: nobody needs it who only uses the network.",
            example=_slim(
                _STATE,
                f"halved = {{name: {_BF16} for name, v in weights.items()}}",
                'return checkpoint | {"model_state_dict": halved}',
            ),
        ),
        "emptied": Misconception(
            says="The optimizer is gone, and its name is still there, with nothing behind it. Leave out the name too: "
            "who asks for it later should hear that it is missing, and not be handed an empty one.",
            example=_slim(
                _STATE,
                f"halved = {{name: {_BF16} for name, v in weights.items()}}",
                'return checkpoint | {"model_state_dict": halved, "optimizer_state_dict": None}',
            ),
        ),
        "lost": Misconception(
            says="Only the weights are left. Whoever finds this file in a year will want to know its epoch, how good "
            "it was, and the settings to build the network by (lesson 04). They are small: keep them.",
            example=_slim(
                _STATE,
                f"halved = {{name: {_BF16} for name, v in weights.items()}}",
                'return {"model_state_dict": halved}',
            ),
        ),
        "whole": Misconception(
            says="The weights are still as long as they were: float32. (`v.bfloat16()` returns a new tensor; the old "
            "one stays as it is.)",
            example=_slim(
                _KEPT,
                'for v in kept["model_state_dict"].values():',
                "    v.bfloat16()",
                "return kept",
            ),
        ),
        "float16": Misconception(
            says="`float16` has as many bits and shares them out otherwise: five for the exponent. So it knows nothing "
            "above 65,504, and little near 0: 100,000 became infinite, and 0.000000001 became 0. `bfloat16` keeps all "
            "eight.",
            example=_slim(*_halved("v.half() if v.is_floating_point() else v")),
        ),
        "counter": Misconception(
            says="`norm.num_batches_tracked` and `position` hold whole numbers, which bfloat16 cannot keep: it has "
            "about three digits, and 1,000,003 becomes 999,424. Halve floats only: "
            "`is_floating_point()`.",
            example=_slim(*_halved("v.bfloat16()")),
        ),
        "left out": Misconception(
            says="`norm.num_batches_tracked` and `position` are gone: whole numbers were to stay as they are. An `if` "
            "behind the `for` leaves things out. `… if … else v` in front of it keeps them.",
            example=_slim(
                _KEPT,
                _STATE,
                "halved = {name: v.bfloat16() for name, v in weights.items() if v.is_floating_point()}",
                _RETURN,
            ),
        ),
        "double": Misconception(
            says="It halves float32 and overlooks a float64, `norm.running_var`, of which a quarter would do. "
            "`is_floating_point()` knows them all.",
            example=_slim(*_halved("v.bfloat16() if v.dtype == torch.float32 else v")),
        ),
    },
    hint="A new dict for the weights: `v.bfloat16() if v.is_floating_point() else v` for each. Then a new dict around "
    "it.",
    solution=_slim(*_halved(_BF16)),
    why="What came back is of use, half as long, and what it was made from is untouched: the run may go on with it. "
    "`compress_checkpoint(…, for_inference=True, bf16=True)` does this and packs the rest.",
)


# ------------------------------------------------------------------------------------------------ 07.5

_CHANCE = random.Random(7)
_WEIGHTS = struct.pack("<5000f", *(_CHANCE.gauss(0, 0.05) for _ in range(5000)))
_HALVES = struct.pack("<5000e", *(_CHANCE.gauss(0, 0.05) for _ in range(5000)))


def _limit_of(data: bytes, width: int) -> float:
    return sum(plane_entropies(data, width)) / (8 * width)


def _examine_limit(limit: Any) -> None:
    raise_for_stub(limit, _limit(_LAST))
    found = _number(limit, _WEIGHTS, 4)
    right = _limit_of(_WEIGHTS, 4)
    if not math.isclose(found, right, abs_tol=1e-4):
        raise WrongAnswerError(_what_was_computed(limit, found, right))
    for what, data, width in (
        ("numbers of two bytes", _HALVES, 2),
        ("bytes of which half are 0 and half are 255", bytes([0, 255]) * 50, 1),
        ("bytes in which each value occurs once", bytes(range(256)), 1),
        ("numbers that are all the same", bytes(400), 4),
    ):
        found, right = _number(limit, data, width), _limit_of(data, width)
        wrong_if(math.isnan(found), "nothing")
        if not math.isclose(found, right, abs_tol=1e-4):
            raise WrongAnswerError(f"of {what} {right:g} is left at best; `limit` says {found:g}")


def _number(limit: Any, data: bytes, width: int) -> float:
    import numpy as np

    with np.errstate(all="ignore"):  # 0 times infinity is told in words
        found = limit(data, width)
    expect_something(found, "limit")
    try:
        return float(found)
    except (TypeError, ValueError):
        raise WrongAnswerError(f"expected a number, found {type_of(found)}") from None


def _what_was_computed(limit: Any, found: float, right: float) -> str:
    """Return the misconception that leads to this number, or a sentence with both numbers."""
    import numpy as np

    if math.isnan(found):
        return "nothing"
    bytes_ = np.frombuffer(_WEIGHTS, np.uint8)
    planes = bytes_.reshape(-1, 4).T
    counts = [np.unique(plane, return_counts=True)[1] for plane in planes]
    distinct = float(np.mean([math.log2(len(each)) for each in counts])) / 8
    unweighed = float(np.mean([np.log2(planes.shape[1] / each).mean() for each in counts])) / 8
    for name, wrong in (
        ("nats", right * math.log(2)),
        ("mixed", plane_entropies(_WEIGHTS, 1)[0] / 8),
        ("quarters", float(np.mean([plane_entropies(each.tobytes(), 1)[0] for each in bytes_.reshape(4, -1)])) / 8),
        ("distinct", distinct),
        ("unweighed", unweighed),
        ("saved", 1 - right),
        ("negative", -right),
        ("numbers", math.log2(len(np.unique(np.frombuffer(_WEIGHTS, "<f4")))) / 32),
    ):
        if math.isclose(found, wrong, abs_tol=1e-4):
            return name
    if math.isclose(found, 100 * right, rel_tol=1e-4):
        return f"that is a percentage, {found:.1f}: the part itself is wanted, from 0 to 1"
    for factor in (4, 8, 32):
        if math.isclose(found, right * factor, rel_tol=1e-4):
            return "bits"
    if names_in(limit) & {"compress", "zlib", "gzip", "zstd", "lzma", "bz2"}:
        return "packer"
    return f"of 5,000 random weights {right:.3f} is left at best; `limit` says {found:.3f}"


_limit = form('''\
import numpy as np


def limit(data, width=4):
    """Return what is left at best, 0 to 1, of numbers of `width` bytes, packed byte by byte in their planes."""
    planes = np.frombuffer(data, np.uint8).reshape(-1, width).T
    {lines}
''')


_LAST = "return 1.0  # all of it: 8 bits for each byte"


def _bits_of(*lines: str, last: str = "return bits / (8 * width)") -> tuple[str, ...]:
    return ("bits = 0", "for plane in planes:", *(f"    {line}" for line in lines), last)


_COUNT = "counts = np.bincount(plane)"
_P = "p = counts[counts > 0] / len(plane)"
_ADD = "bits += -(p * np.log2(p)).sum()"

LIMIT = Exercise(
    asks="How far can it go?",
    answer="limit",
    expects="a function",
    examine=_examine_limit,
    misconceptions={
        "nats": Misconception(
            says="Your logarithm is the natural one, so your unit is not the bit. A byte has 8 bits: `np.log2`.",
            example=_limit(*_bits_of(_COUNT, _P, "bits += -(p * np.log(p)).sum()")),
        ),
        "mixed": Misconception(
            says="That is the entropy of all bytes in one heap, the planes mixed: the limit of whoever packs without "
            "sorting. Count in each plane by itself.",
            example=_limit(
                "counts = np.bincount(planes.ravel())",
                "p = counts[counts > 0] / planes.size",
                "return -(p * np.log2(p)).sum() / 8",
            ),
        ),
        "quarters": Misconception(
            says="Those are four quarters of the data, one behind the other, and no planes: in each the four bytes of "
            "a number are mixed. A plane is every fourth byte: `.reshape(-1, width).T`.",
            example=_limit("planes = planes.T.reshape(width, -1)", *_bits_of(_COUNT, _P, _ADD)),
        ),
        "distinct": Misconception(
            says="You count how many values occur, not how often each does. A value that comes once in a thousand "
            "times may have a long code if the frequent ones have short ones: weigh each by its probability.",
            example=_limit(*_bits_of("bits += np.log2(len(np.unique(plane)))")),
        ),
        "unweighed": Misconception(
            says="You take the mean over the values, so one that comes once has as much to say as one that comes a "
            "thousand times. The mean is over the bytes: weigh each −log2(p) by its p, and add up.",
            example=_limit(*_bits_of(_COUNT, _P, "bits += -np.log2(p).mean()")),
        ),
        "saved": Misconception(
            says="That is the part which is saved. What is left is wanted: take it from 1.",
            example=_limit(*_bits_of(_COUNT, _P, _ADD, last="return 1 - bits / (8 * width)")),
        ),
        "numbers": Misconception(
            says="You ask how often whole numbers recur, and a weight hardly ever does: each would count as new. The "
            "question is about single bytes, plane by plane.",
            example=_limit(
                "counts = np.unique(np.frombuffer(data, np.float32), return_counts=True)[1]",
                "p = counts / counts.sum()",
                "return -(p * np.log2(p)).sum() / 32",
            ),
        ),
        "negative": Misconception(
            says="Less than nothing would be left. The logarithm of a probability is negative: a minus is missing.",
            example=_limit(*_bits_of(_COUNT, _P, "bits += (p * np.log2(p)).sum()")),
        ),
        "bits": Misconception(
            says="That is a number of bits, or of bytes. Which part of the data is it? Each number has `width` bytes, "
            "each byte 8 bits.",
            example=_limit(*_bits_of(_COUNT, _P, _ADD, last="return bits / 8")),
        ),
        "nothing": Misconception(
            says="NaN: some value does not occur, and its 0 · log 0 cannot be computed. What never occurs tells "
            "nothing: leave it out.",
            example=_limit(*_bits_of("p = np.bincount(plane, minlength=256) / len(plane)", _ADD)),
        ),
        "packer": Misconception(
            says="That is what one packer reaches, with its tables and headers. The limit is computed from "
            "probabilities, and nothing is packed.",
            example=_limit(
                "import zlib",
                "return len(zlib.compress(planes.tobytes())) / len(data)",
            ),
        ),
    },
    hint="For each plane: `np.bincount`, divide by the length, leave out the zeros; the sum of −p · log2(p) is its "
    "bits per byte. Add up the planes, and divide by 8 · width.",
    solution=_limit(*_bits_of(_COUNT, _P, _ADD)),
    why="Run the next cell again: the limit of this network's weights, and what `shuffle-zstd` makes of them. The two "
    "are close, so no packer that takes a byte at a time, by one table for a plane, has much left to win. To get "
    "lower, leave something out, or know more than how often a byte occurs in its plane. (The whole file gets lower, "
    "to 80 %: a twelfth of it is names and headers, which are full of patterns.)",
)


LESSON = Lesson(
    prediction="07.2",
    questions={"07.1": SHARE, "07.2": PREDICTION, "07.3": UNSHUFFLE, "07.4": SLIM, "07.5": LIMIT},
)
