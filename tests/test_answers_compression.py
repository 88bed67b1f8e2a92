"""Lesson 07: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import pytest
import torch

from .test_answers import refused, said_to

# ------------------------------------------------------------------------------------------------ 07.3


def unshuffle(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import numpy as np\ndef unshuffle(data):\n    planes = np.frombuffer(data, np.uint8)\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("return planes.reshape(4, -1).T.tobytes()",),
        ("return planes.reshape(4, -1).tobytes(order='F')",),
        ("return planes.reshape(4, len(data) // 4).transpose().ravel().tobytes()",),
        ("return bytearray(np.stack(np.split(planes, 4), axis=1))",),
        ("return planes.reshape((-1, 4), order='F').tobytes()",),
        ("n = len(data) // 4", "return bytes(data[p * n + i] for i in range(n) for p in range(4))"),
        ("return memoryview(planes.reshape(4, -1).T.tobytes())",),
        ("from koemorph_tutorial.compression import unshuffle", "return unshuffle(data, 4)"),
    ],
)
def test_every_way_back_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "07.3: passed" in said_to("07.3", unshuffle(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("planes.reshape(4, -1).T.tobytes()",), "`unshuffle` returned None: is `return` missing?"),
        (("return planes.tobytes()",), "The bytes come back in the order in which they were given"),
        (("return data",), "The bytes come back in the order in which they were given"),
        (("return planes.reshape(-1, 4).tobytes()",), "The bytes come back in the order in which they were given"),
        (("return planes.reshape(-1, 4).T.tobytes()",), "This sorts a second time."),
        (("return planes.reshape(4, -1).T[:, ::-1].tobytes()",), "and stand backwards"),
        (("return planes.reshape(4, -1).T",), "The right order, in an array."),
        (("return planes[::-1].tobytes()",), "all bytes are there, and not in the order"),
        (("return planes.reshape(4, -1).T.tobytes()[:-1]",), "from 388 bytes it makes 387: each is wanted once"),
        (("return bytes(len(data))",), "what comes back are other bytes than those that were sorted"),
        (("return list(planes)",), "expected bytes, found list"),
        (("return planes.reshape(4, 100).T.tobytes()",), "`unshuffle` raised ValueError: cannot reshape array of size"),
        (("return planes.reshape(4, 97).T.tobytes()",), "`unshuffle` raised ValueError: cannot reshape array of size"),
    ],
)
def test_what_is_said_of_other_ways_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("07.3", unshuffle(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 07.4


def slim(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import copy, torch\ndef slim(checkpoint):\n    {body}\n"


HALVED = (
    "{n: v.to(torch.bfloat16) if v.dtype.is_floating_point else v for n, v in checkpoint['model_state_dict'].items()}"
)


@pytest.mark.parametrize(
    "lines",
    [
        (
            "new = copy.deepcopy(checkpoint)",
            "new.pop('optimizer_state_dict')",
            "for name, v in new['model_state_dict'].items():",
            "    if torch.is_floating_point(v): new['model_state_dict'][name] = v.to(torch.bfloat16)",
            "return new",
        ),
        (
            "new = dict(checkpoint)",
            "del new['optimizer_state_dict']",
            f"new['model_state_dict'] = {HALVED}",
            "return new",
        ),
        (f"return {{n: checkpoint[n] for n in ('epoch', 'metrics', 'config')}} | {{'model_state_dict': {HALVED}}}",),
        (
            "from koemorph_tutorial.compression import for_inference",
            "return for_inference(checkpoint, bf16=True)",
        ),
    ],
)
def test_every_way_to_make_it_slim_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "07.4: passed" in said_to("07.4", slim(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("new = dict(checkpoint)",), "`slim` returned None: is `return` missing?"),
        (("return [checkpoint]",), "expected a dict, found list"),
        (("return checkpoint",), "The optimizer is in it again"),
        (("checkpoint.clear()", "return {}"), "It takes an entry out of the dict that it was given"),
        (
            ("checkpoint['model_state_dict']['layer.weight'] = torch.ones(1)", "return checkpoint"),
            "A copy of a dict is shallow",
        ),
        (
            ("checkpoint['model_state_dict']['layer.weight'].zero_()", "return checkpoint"),
            "`model_state_dict` was changed for both",
        ),
        (
            ("checkpoint['epoch'] = 0", "return checkpoint"),
            "the checkpoint that it was given is not what it was before",
        ),
        (
            (f"return {{'epoch': 11, 'config': checkpoint['config'], 'model_state_dict': {HALVED}}}",),
            "`metrics` has gone as well: it may be needed",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                f"return new | {{'epoch': 0, 'model_state_dict': {HALVED}}}",
            ),
            "`epoch` is not what it was: only the weights were to change",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                f"return new | {{'model_state_dict': list({HALVED})}}",
            ),
            "expected a `model_state_dict` with the same names as before, `layer.weight`",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "return new | {'model_state_dict': {n: v.numpy() for n, v in new['model_state_dict'].items()}}",
            ),
            "`layer.weight`: expected a tensor, found ndarray",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "view = lambda v: v.view(torch.bfloat16) if v.ndim else v",
                "return new | {'model_state_dict': {n: view(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`layer.weight`: expected the shape (2, 3), found (2, 6)",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda v: v.bfloat16() * 2 if v.is_floating_point() else v",
                "return new | {'model_state_dict': {n: pick(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`layer.weight` holds other numbers than before",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda v: v.to(torch.float8_e5m2) if v.is_floating_point() else v",
                "return new | {'model_state_dict': {n: pick(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`layer.weight`: expected bfloat16, found float8_e5m2",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda n, v: v if 'tracked' in n else v.bfloat16()",
                "return new | {'model_state_dict': {n: pick(n, v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`norm.num_batches_tracked` and `position` hold whole numbers, which bfloat16 cannot keep",
        ),
        (
            ("return checkpoint | {'optimizer_state_dict': None}",),
            "its name is still there, with nothing behind it",
        ),
        (("return checkpoint | {'optimizer_state_dict': {}}",), "its name is still there, with nothing behind it"),
        (
            ("return checkpoint | {'optimizer_state_dict': {'state': {}, 'param_groups': []}}",),
            "`optimizer_state_dict` is still in it, with other contents",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda v: v.bfloat16() if v.is_floating_point() else v + 1",
                "return new | {'model_state_dict': {n: pick(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`norm.num_batches_tracked`: expected 1000003 as before, found 1000004 (int64)",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda v: v.bfloat16() if v.is_floating_point() and v.ndim else v",
                "return new | {'model_state_dict': {n: pick(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`scale`: expected bfloat16, found float32",
        ),
        (
            (
                "new = {n: v for n, v in checkpoint.items() if n != 'optimizer_state_dict'}",
                "pick = lambda v: v.bfloat16() if v.is_floating_point() else v.int()",
                "return new | {'model_state_dict': {n: pick(v) for n, v in new['model_state_dict'].items()}}",
            ),
            "`norm.num_batches_tracked` holds the same as before, as int32: it was int64",
        ),
    ],
)
def test_what_is_said_of_other_slim_files_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("07.4", slim(*lines), words, capsys)


def test_the_numbers_in_the_sentences_on_types_are_true() -> None:
    assert 999_424 == torch.tensor(1_000_003).bfloat16().item()
    assert [float("inf"), 0.0] == torch.tensor([100_000, 1e-9]).half().tolist()
    assert 65_504 == torch.finfo(torch.float16).max
    kept = torch.tensor([100_000, 1e-9]).bfloat16()
    assert torch.allclose(kept.double(), torch.tensor([100_000, 1e-9], dtype=torch.float64), rtol=2**-8)


# ------------------------------------------------------------------------------------------------ 07.5


def limit(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import math, zlib\nimport numpy as np\ndef limit(data, width=4):\n    {body}\n"


PLANES = "planes = [data[i::width] for i in range(width)]"


@pytest.mark.parametrize(
    "lines",
    [
        (
            PLANES,
            "bits = 0.0",
            "for plane in planes:",
            "    for value in set(plane):",
            "        p = plane.count(value) / len(plane)",
            "        bits -= p * math.log2(p)",
            "return bits / 8 / width",
        ),
        (
            "from koemorph_tutorial.compression import plane_entropies",
            "return np.mean(plane_entropies(data, width)) / 8",
        ),
        (
            PLANES,
            "def bits(plane):",
            "    _, counts = np.unique(list(plane), return_counts=True)",
            "    p = counts / counts.sum()",
            "    return (p * np.log2(1 / p)).sum()",
            "return np.float32(sum(map(bits, planes)) / (8 * width))",
        ),
        (
            "planes = np.frombuffer(data, np.uint8).reshape(-1, width).T",
            "p = np.array([np.bincount(plane, minlength=256) for plane in planes]) / planes.shape[1]",
            "return np.nansum(-p * np.log2(p)) / (8 * width)",
        ),
    ],
)
def test_every_way_to_the_limit_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "07.5: passed" in said_to("07.5", limit(*lines), capsys)


COUNT = (PLANES, "bits = 0", "for plane in planes:", "    n = np.bincount(list(plane), minlength=256)")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((PLANES,), "`limit` returned None: is `return` missing?"),
        (("return 'a lot'",), "expected a number, found str"),
        (("return [1.0]",), "expected a number, found list"),
        (("return 0.8",), "of 5,000 random weights 0.8"),
        (
            (*COUNT, "    p = n / len(plane)", "    bits -= (p * np.log(p + 1e-30)).sum()", "return bits / 8 / width"),
            "nat",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits -= p @ np.log2(p)", "return bits"),
            "That is a number of bits",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits -= p @ np.log2(p)", "return bits / width"),
            "That is a number of bits",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits -= p @ np.log2(p)", "return bits / 32"),
            "of numbers of two bytes",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits += p @ np.log2(p)", "return bits / 8 / width"),
            "a minus is missing",
        ),
        (
            (*COUNT, "    p = n / len(plane)", "    bits -= (p * np.log2(p)).sum()", "return bits / 8 / width"),
            "What never occurs tells nothing",
        ),
        (
            ("p = np.bincount(list(data)) / len(data)", "return -(p * np.log2(p)).sum() / 8"),
            "all bytes in one heap",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits -= p @ np.log2(p)", "return 100 * bits / 8 / width"),
            "that is a percentage, 82.7: the part itself is wanted",
        ),
        (
            (*COUNT, "    p = n[n > 0] / len(plane)", "    bits -= np.log2(p).mean()", "return bits / 8 / width"),
            "one that comes once has as much to say",
        ),
        (
            (
                "n = len(data) // width",
                "planes = [data[i * n : (i + 1) * n] for i in range(width)]",
                *COUNT[1:],
                "    p = n[n > 0] / len(plane)",
                "    bits -= p @ np.log2(p)",
                "return bits / 8 / width",
            ),
            "four quarters of the data",
        ),
        (("return len(zlib.compress(data)) / len(data)",), "That is what one packer reaches"),
        (("planes = np.frombuffer(data, np.uint8).reshape(4, 7)", "return 1"), "cannot reshape array of size 20000"),
    ],
)
def test_what_is_said_of_other_limits_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("07.5", limit(*lines), words, capsys)


def test_a_limit_that_knows_nothing_of_missing_values_is_told_so_by_numbers_that_are_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Random weights have every value in three planes; where none is missing, nothing is NaN."""
    lines = (
        PLANES,
        "bits = 0",
        "for plane in planes:",
        "    n = np.bincount(list(plane), minlength=256)",
        "    p = n[n > 0] / len(plane) if len(set(plane)) > 1 else n / len(plane)",
        "    bits -= (p * np.log2(p)).sum()",
        "return bits / 8 / width",
    )
    assert "What never occurs tells nothing" in said_to("07.5", limit(*lines), capsys)
