"""Lesson 09: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .test_answers import cell_of, refused, said_to

# ------------------------------------------------------------------------------------------------ 09.3


def agrees(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import numpy as np\ndef agrees(ours, theirs):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("return ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= 1e-5).all())",),
        ("return ours.shape == theirs.shape and np.abs(ours - theirs).max() < 0.00001",),
        ("return ours.shape == theirs.shape and np.isclose(ours, theirs, rtol=0, atol=1e-5).all()",),
        ("return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)",),
        (
            "if ours.shape != theirs.shape: return False",
            "return np.linalg.norm((ours - theirs).ravel(), np.inf) <= 1e-5",
        ),
        ("return np.shape(ours) == np.shape(theirs) and np.array(np.ptp([ours, theirs], axis=0).max() <= 1e-5)",),
        (
            "try:",
            "    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, equal_nan=False)",
            "except AssertionError:",
            "    return False",
            "return True",
        ),
    ],
)
def test_every_way_to_compare_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "09.3: passed" in said_to("09.3", agrees(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("np.array_equal(ours, theirs)",), "`agrees` returned None: is `return` missing?"),
        (("return True",), "it says yes to answers of which each is off by 0.3"),
        (("return False",), "it says no to two arrays that are equal"),
        (("return ours is theirs",), "it says no to two arrays that are equal"),
        (("return np.abs(ours - theirs).max()",), "expected True or False, found"),
        (("return 'yes'",), "expected True or False, found 'yes'"),
        (("return ours == theirs",), "It answers number by number, with an array."),
        (("return (ours == theirs).all()",), "answers that are 0.0000003 apart"),
        (("return abs((ours - theirs).mean()) <= 1e-5",), "one wrong number drowns among right ones"),
        (("return abs(ours.sum() - theirs.sum()) < 1e-2",), "one wrong number drowns among right ones"),
        (("return (theirs - ours).max() <= 1e-5",), "a difference has a sign"),
        (("return abs(ours.max() - theirs.max()) < 1e-5",), "one wrong number drowns among right ones"),
        (("return np.nanmax(np.abs(ours - theirs)) <= 1e-5",), "One answer is NaN, and it says yes"),
        (("return np.abs(ours - theirs).max() <= 1e-5",), "numpy repeats the one to fit the three"),
        (
            ("np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, equal_nan=False)", "return True"),
            "`agrees` raised AssertionError",
        ),
        (("return ours.shape == theirs.shape and np.allclose(ours, theirs, 1e-5)",), "by its own defaults nearly"),
        (("return not np.allclose(ours, theirs, rtol=0, atol=1e-5)",), "The wrong way round"),
    ],
)
def test_what_is_said_of_other_comparisons_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("09.3", agrees(*lines), words, capsys)


def test_the_numbers_in_the_sentences_on_tolerance_are_true() -> None:
    rest, loud = np.float32(1e-6), np.float32(0.9)
    assert not np.allclose(rest, rest + np.float32(6e-6))
    assert np.allclose(loud, loud + np.float32(6e-6))
    assert np.allclose(np.ones((1, 52)), np.ones((3, 52)))
    assert 3e-7 > np.spacing(loud)  # so a float32 does tell the two apart


# ------------------------------------------------------------------------------------------------ 09.4


def exported(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import contextlib, copy\ndef exported(model, write):\n    {body}\n"


PARTS = "was = {part: part.training for part in model.modules()}"


@pytest.mark.parametrize(
    "lines",
    [
        ("return write(copy.deepcopy(model).eval())",),
        (
            "was = [part.training for part in model.modules()]",
            "try:",
            "    model.train(False)",
            "    result = write(model)",
            "finally:",
            "    for part, mode in zip(model.modules(), was): part.train(mode)",  # a part comes before its own parts
            "return result",
        ),
        (
            "was = dict(model.named_modules())",
            "was = {name: part.training for name, part in was.items()}",
            "model.eval()",
            "try:",
            "    return write(model)",
            "finally:",
            "    for name, mode in was.items(): model.get_submodule(name).training = mode",
        ),
        (
            PARTS,
            "with contextlib.ExitStack() as stack:",
            "    for part, mode in was.items(): stack.callback(setattr, part, 'training', mode)",
            "    return write(model.eval())",
        ),
        (
            PARTS,
            "model.eval()",
            "try:",
            "    result = write(model)",
            "except BaseException:",
            "    for part in was: part.training = was[part]",
            "    raise",
            "for part in was: part.training = was[part]",
            "return result",
        ),
    ],
)
def test_every_way_to_leave_a_network_as_it_was_passes(
    lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "09.4: passed" in said_to("09.4", exported(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("return write(model)",), "a part of the network was in training mode"),
        (("model.eval", "return write(model)"), "a part of the network was in training mode"),
        (("model[1].eval()", "return write(model)"), "a part of the network was in training mode"),
        (("model.eval()", "write(model)", "model.train()"), "What `write` returned is lost"),
        (("model.eval()", "result = write(model)", "model.train()", "return result"), "in training mode now"),
        (("pass",), "`write` was never called"),
        (("model.eval()", "write(model)", "return write(model)"), "`write` was called 2 times"),
        (("return write(model.eval)",), "`write` wants the model, and was given method"),
        (("model.eval()", "return write(model) is None"), "it returns something else than `write` did"),
        (
            ("was = model.training", "model.eval()", "try: return write(model)", "finally: model.train(was)"),
            "One part was in eval mode and the rest was not",
        ),
        (
            (
                "was = {part: part.training for part in model.children()}",
                "model.eval()",
                "try:",
                "    return write(model)",
                "finally:",
                "    for part in was: part.train(was[part])",
            ),
            "some parts that were in training mode no longer are",
        ),
        (
            (
                PARTS,
                "model.eval()",
                "try:",
                "    return write(model)",
                "finally:",
                "    for part in reversed(list(was)): part.train(was[part])",
            ),
            "One part was in eval mode and the rest was not",
        ),
        (("model.eval()", "with contextlib.suppress(Exception): return write(model)"), "is in eval mode now"),
        (
            (
                PARTS,
                "model.eval()",
                "with contextlib.suppress(Exception): result = write(model)",
                "for part in was: part.training = was[part]",
                "return result",
            ),
            "`exported` raised UnboundLocalError",
        ),
    ],
)
def test_what_is_said_of_other_ways_to_export_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("09.4", exported(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 09.5


def louder(*lines: str) -> str:
    body = "\n        ".join(lines)
    head = "import numpy as np\nimport torch\nclass Louder(torch.nn.Module):\n    def forward(self, audio):\n        "
    return f"{head}{body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("loudest = audio.abs().max(dim=1, keepdim=True).values", "return audio / loudest.where(loudest > 0, 1.0)"),
        ("loudest = audio.abs().amax(1)[:, None]", "return torch.where(loudest > 0, audio / loudest, audio)"),
        ("return torch.nan_to_num(audio / audio.abs().amax(1, keepdim=True))",),
        (
            "loudest = torch.maximum(audio.amax(1), -audio.amin(1))",
            "return audio / (loudest + (loudest == 0))[:, None]",
        ),
        (
            "def one(sound):",
            "    loudest = sound.abs().max()",
            "    return sound / torch.where(loudest > 0, loudest, 1.0)",
            "return torch.vmap(one)(audio)",
        ),
    ],
)
def test_every_way_out_of_python_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "09.5: passed" in said_to("09.5", louder(*lines), capsys)


LOUDEST = "loudest = audio.abs().amax(1, keepdim=True)"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("audio.abs()",), "`forward` returned None: is `return` missing?"),
        (("return audio.abs().max(1, keepdim=True)",), "expected a tensor, found"),
        (("return audio.abs().amax(1)",), "expected the shape (3, 40), found (3,)"),
        (("return audio / audio.abs().amax(0)",), "each sound by itself is divided by its loudest sample"),
        (("return audio * 2",), "each sound by itself is divided by its loudest sample"),
        ((LOUDEST, "return audio / loudest.clamp(min=1e-4)"), "A very quiet sound, of 0.000001, does not reach 1"),
        ((LOUDEST, "return audio / (loudest + 1e-8)"), "A very quiet sound, of 0.000001, does not reach 1"),
        ((LOUDEST, "return audio.div_(loudest)"), "It changes the sounds that it was given"),
        (("return audio / audio.abs().amax(1)",), "`Louder` raised RuntimeError: The size of tensor"),
        (("return torch.nn.functional.normalize(audio)",), "each sound by itself is divided by its loudest sample"),
        (
            (
                "peaks = [float(sound.abs().max()) or 1.0 for sound in audio]",
                "return audio / torch.tensor(peaks)[:, None]",
            ),
            "Python decides by what is in a tensor",
        ),
        (("return torch.stack([s / (s.abs().max().item() or 1.0) for s in audio])",), "Python decides by what is in a"),
        (
            (
                "peaks = torch.stack([audio[i].abs().max() for i in range(len(audio))])[:, None]",
                "return audio / torch.where(peaks > 0, peaks, 1.0)",
            ),
            "The batch is frozen at 2",
        ),
        (
            (LOUDEST, "return audio / torch.where(loudest > 0, loudest, 1.0) + torch.zeros(len(audio), 40)"),
            "it computes the right thing, and cannot be exported",
        ),
        (
            ("if len(audio) == 2 and audio.shape[1] == 41: audio = audio + 1", LOUDEST, "return audio / loudest"),
            "Silence came out as NaN",
        ),
    ],
)
def test_what_is_said_of_other_ways_out_of_python_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("09.5", louder(*lines), words, capsys)


def test_a_class_that_is_no_module_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    source = "class Louder:\n    def __call__(self, audio):\n        return audio\n"
    assert "expected a torch.nn.Module" in said_to("09.5", source, capsys)


def test_the_step_that_is_handed_out_computes_what_is_asked_for_and_only_cannot_leave() -> None:
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(cell_of("09.5").partition("\n\n\ncheck(")[0], namespace)
    audio = torch.tensor([[0.5, -0.25], [0.0, 0.0], [1e-6, -2e-6]])
    expected = torch.tensor([[1.0, -0.5], [0.0, 0.0], [0.5, -1.0]])
    assert torch.allclose(expected, namespace["Louder"]()(audio))
