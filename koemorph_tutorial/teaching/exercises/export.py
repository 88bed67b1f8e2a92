"""Lesson 09: when a file is the model, what an export may change, and what cannot leave Python."""

from __future__ import annotations

import dis
import tempfile
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.records import ExportError
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import (
    expect_kind,
    expect_something,
    is_nothing,
    raise_for_stub,
    shown,
    small_network,
    type_of,
    wrong_if,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------ 09.1 and 09.2

NEEDS = Choice(
    asks="What else does she need, to see the face move?",
    options={
        "a": Option(
            text="Nothing. The file holds the network.",
            reply="It holds the network's numbers. What is done with them stands in the source code of its class: the "
            "Python file with `forward` in it. She needs that, and PyTorch.",
        ),
        "b": Option(
            text="The settings that the network was built with.",
            reply="Those are in the file: our checkpoints carry their config. What is done with the numbers is not. It "
            "stands in the source code of the network's class: she needs that, and PyTorch.",
        ),
        "c": Option(
            text="Python, PyTorch, and the source code of the network's class.",
            reply="A checkpoint holds half a network: numbers and settings. What is done with them is code, and stays "
            "at home. This lesson sends it along.",
        ),
    },
    right="c",
)

PREDICTION = Choice(
    asks="A network was exported in training mode. The file is asked the same thing twice. What happens?",
    options={
        "a": Option(
            text="Two different faces: what was on when it was exported is on in the file.",
            reply="It is on in the file, four times: look at the plain session, which carries the file out as it is "
            "written. But a runtime need not do that. onnxruntime first rewrites a file into something faster, and it "
            "took dropout for something that is not needed.",
        ),
        "b": Option(
            text="The same face twice: to export is to make a network for use, so there is no dropout in the file.",
            reply="The same face, but not for that reason. Dropout is in the file, four times, and on: the plain "
            "session, which carries it out as it is written, gives two faces. The usual one first rewrites the file "
            "into something faster, and left dropout out.",
        ),
        "c": Option(
            text="The same face twice, though dropout is in the file, and on.",
            reply="onnxruntime rewrites a file into something faster before it runs it, and leaves dropout out. The "
            "plain session carries the file out as it is written, and gives two faces. So might the next runtime.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 09.3

_TOLERANCE = 1e-5


def _examine_agrees(agrees: Any) -> None:
    import numpy as np

    raise_for_stub(agrees, _agrees("return None  # your line"))
    chance = np.random.default_rng(9)
    ours = chance.uniform(0, 1, (5, 52)).astype(np.float32)
    equal = _said(agrees, ours, ours.copy())
    swing = np.where(np.arange(52) % 2, np.float32(0.3), np.float32(-0.3))
    far = _said(agrees, ours, ours + swing)
    wrong_if((equal, far) == (False, True), "inverted")
    wrong_if(not equal, "it says no to two arrays that are equal")
    wrong_if(not _said(agrees, ours, np.where(ours > 0.5, ours + np.float32(3e-7), ours)), "exact")
    near = ours.copy()
    near[0, :26] = 1e-6
    wrong_if(not _said(agrees, near, near + np.float32(6e-6)), "default")
    if far:
        once = _said(agrees, ours, ours + np.float32(0.3)) and _said(agrees, ours + np.float32(0.3), ours)
        raise WrongAnswerError("it says yes to answers of which each is off by 0.3" if once else "mean")
    for sign in (1, -1):
        one = ours.copy()
        one[3, 17] += np.float32(sign * 0.001)
        if _said(agrees, ours, one):
            raise WrongAnswerError("signed" if not _said(agrees, one, ours) else "mean")
    missing = ours.copy()
    missing[2, 4] = np.nan
    wrong_if(_said(agrees, ours, missing), "nan")
    if _said(agrees, missing, missing.copy()):
        raise WrongAnswerError("it says yes where both have a NaN: nobody knows whether two of them are the same")
    off = ours.copy()
    off[1, 2] += np.float32(0.00005)
    wrong_if(_said(agrees, ours, off), "it says yes to an answer that is off by 0.00005, five times what is allowed")
    wrong_if(_said(agrees, ours[:1], np.repeat(ours[:1], 3, 0)), "broadcast")
    if _said(agrees, ours, ours.reshape(52, 5)):
        raise WrongAnswerError("52 faces of 5 numbers came where 5 of 52 were expected, and it says yes")
    _said(agrees, ours, ours[:4])


def _said(agrees: Any, ours: Any, theirs: Any) -> bool:
    import numpy as np

    try:
        with np.errstate(all="ignore"):
            said = agrees(ours.copy(), theirs.copy())
    except (ValueError, AssertionError) as error:
        if ours.shape != theirs.shape:
            raise WrongAnswerError("shapes") from error
        raise
    expect_something(said, "agrees")
    wrong_if(isinstance(said, np.ndarray) and said.ndim, "array")
    if not isinstance(said, (bool, np.bool_)) and not (isinstance(said, np.ndarray) and said.dtype == bool):
        raise WrongAnswerError(f"expected True or False, found {shown(said)}")
    return bool(said)


_agrees = form('''\
import numpy as np


def agrees(ours, theirs):
    """Say whether two arrays of answers are the same to 0.00001: True or False."""
    {lines}
''')


AGREES = Exercise(
    asks="The same?",
    answer="agrees",
    expects="a function",
    examine=_examine_agrees,
    misconceptions={
        "exact": Misconception(
            says="It wants every bit equal, and says no to answers that are 0.0000003 apart. Another runtime adds the "
            "same numbers in another order and rounds otherwise: a float32 keeps about seven digits. Allow 0.00001.",
            example=_agrees("return np.array_equal(ours, theirs)"),
        ),
        "default": Misconception(
            says="It says no to answers that are 0.000006 apart. `np.allclose` takes a relative tolerance as well as "
            "an absolute one, and by its own defaults nearly nothing is allowed near 0, where a face at rest is. "
            "`rtol=0, atol=1e-5` allows the same everywhere.",
            example=_agrees("return ours.shape == theirs.shape and np.allclose(ours, theirs)"),
        ),
        "mean": Misconception(
            says="One of 260 numbers was off by 0.001, and it says yes. In a mean, or a sum with its sign, one wrong "
            "number drowns among right ones: ask for the largest difference.",
            example=_agrees("return np.abs(ours - theirs).mean() <= 1e-5"),
        ),
        "signed": Misconception(
            says="It finds a number that is too large on one side, and overlooks one that is too small: a difference "
            "has a sign. `np.abs` takes it off.",
            example=_agrees("return (ours - theirs).max() <= 1e-5"),
        ),
        "nan": Misconception(
            says="One answer is NaN, and it says yes: no comparison with NaN is true, so it never finds “too far”. Ask "
            "the other way round, whether all are near enough.",
            example=_agrees("return ours.shape == theirs.shape and not (np.abs(ours - theirs) > 1e-5).any()"),
        ),
        "broadcast": Misconception(
            says="One face was expected and three came, and it says yes: numpy repeats the one to fit the three "
            "(broadcasting). Compare the shapes first.",
            example=_agrees("return np.allclose(ours, theirs, rtol=0, atol=1e-5)"),
        ),
        "shapes": Misconception(
            says="Asked about five faces and four, it raises an error. Answers of different shapes are not the same: "
            "False.",
            example=_agrees(
                "if 1 in (len(ours), len(theirs)) and len(ours) != len(theirs):",
                "    return False",
                "return np.allclose(ours, theirs, rtol=0, atol=1e-5)",
            ),
        ),
        "array": Misconception(
            says="It answers number by number, with an array. One answer for all is wanted: `.all()`, or the largest "
            "difference.",
            example=_agrees("return np.abs(ours - theirs) <= 1e-5"),
        ),
        "inverted": Misconception(
            says="The wrong way round: it says no to equal answers, and yes to others.",
            example=_agrees("return bool(np.abs(ours - theirs).max() > 1e-5)"),
        ),
    },
    hint="First `ours.shape == theirs.shape`, then `np.allclose` with `rtol=0` and `atol=1e-5`, or the largest "
    "`np.abs` of the difference.",
    solution=_agrees("return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=1e-5)"),
    why="It lets rounding pass, and finds one wrong number of 260, a NaN, and a face too many. How much to allow "
    "depends on the numbers: 0.00001 suits float32 answers between 0 and 1.",
)


# ------------------------------------------------------------------------------------------------ 09.4


def _modes(model: nn.Module) -> list[bool]:
    return [each.training for each in model.modules()]


class _FullDiskError(Exception):
    pass


def _examine_exported(exported: Any) -> None:
    raise_for_stub(exported, _exported(*_AS_HANDED_OUT))
    model = small_network(9)
    _call(exported, model)
    wrong_if(not any(_modes(model)), "eval")
    _expect_modes(model, [True] * len(_modes(model)), "some parts that were in training mode no longer are")
    model = small_network(9).eval()
    _call(exported, model)
    _expect_modes(model, [False] * len(_modes(model)), "always")
    for part in ("1", "1.0"):
        model = small_network(9)
        model.get_submodule(part).eval()
        before = _modes(model)
        _call(exported, model)
        _expect_modes(model, before, "top")
    model.get_submodule("1").training, model.get_submodule("1.0").training = False, True
    before = _modes(model)
    _call(exported, model)
    _expect_modes(model, before, "below")
    model = small_network(9)
    try:
        exported(model, _fails)
    except _FullDiskError:
        _expect_modes(model, [True] * len(_modes(model)), "raise")
    else:
        raise WrongAnswerError("swallowed")


def _fails(model: nn.Module) -> None:
    raise _FullDiskError("no space left on device")


def _call(exported: Any, model: nn.Module) -> None:
    """Call a reader's function, and look at what `write` was called with and what came back."""
    import torch

    seen: list[bool] = []
    receipt = object()

    def write(given: Any) -> object:
        wrong_if(not isinstance(given, torch.nn.Module), f"`write` wants the model, and was given {type_of(given)}")
        seen.append(any(_modes(given)))
        return receipt

    found = exported(model, write)
    wrong_if(not seen, "`write` was never called")
    wrong_if(len(seen) > 1, f"`write` was called {len(seen)} times")
    wrong_if(seen[0], "early")
    wrong_if(found is not receipt, "lost" if is_nothing(found) else "it returns something else than `write` did")


def _expect_modes(model: nn.Module, before: list[bool], says: str) -> None:
    wrong_if(_modes(model) != before, says)


_exported = form('''\
def exported(model, write):
    """Return `write(model)`, called in eval mode; leave each part as it was."""
    {lines}
''')


_AS_HANDED_OUT = ("model.eval()", "return write(model)")
_PARTS = "modes = [(part, part.training) for part in model.modules()]"

EXPORTED = Exercise(
    asks="As it was before",
    answer="exported",
    expects="a function",
    examine=_examine_exported,
    misconceptions={
        "eval": Misconception(
            says="The network was in training mode, and is in eval mode now: whatever stands behind `return` is never "
            "reached. A training that goes on from here has no dropout any more.",
            example=_exported("was = model.training", "model.eval()", "return write(model)", "model.train(was)"),
        ),
        "always": Misconception(
            says="It was in eval mode, and is in training mode now: somebody who only uses it gets other answers from "
            "here on. Bring back what was, not what usually is.",
            example=_exported("model.eval()", "try:", "    return write(model)", "finally:", "    model.train()"),
        ),
        "top": Misconception(
            says="One part was in eval mode and the rest was not, as when somebody freezes a BatchNorm. "
            "`model.train(…)` sets every part below. Note the mode of each: `model.modules()`.",
            example=_exported(
                "was = model.training",
                "model.eval()",
                "try:",
                "    return write(model)",
                "finally:",
                "    model.train(was)",
            ),
        ),
        "below": Misconception(
            says="A part was in training mode, inside one that was not, and is in eval mode now: `part.eval()` sets "
            "every part below as well. `part.training = …` sets one.",
            example=_exported(
                "was = model.training",
                "frozen = [part for part in model.modules() if not part.training]",
                "model.eval()",
                "try:",
                "    return write(model)",
                "finally:",
                "    model.train(was)",
                "    for part in frozen:",
                "        part.eval()",
            ),
        ),
        "raise": Misconception(
            says="The disk was full, `write` raised, and the network stayed in eval mode. What must happen in any case "
            "belongs in `finally`.",
            example=_exported(
                _PARTS,
                "model.eval()",
                "result = write(model)",
                "for part, was in modes:",
                "    part.training = was",
                "return result",
            ),
        ),
        "swallowed": Misconception(
            says="The disk was full, `write` raised, and nobody hears of it. Put the modes back, and let the error "
            "pass: `finally` does both.",
            example=_exported(
                _PARTS,
                "model.eval()",
                "try:",
                "    return write(model)",
                "except Exception:",
                "    return None",
                "finally:",
                "    for part, was in modes:",
                "        part.training = was",
            ),
        ),
        "early": Misconception(
            says="When `write` was called, a part of the network was in training mode: the modes were put back too "
            "early, or never changed.",
            example=_exported(
                _PARTS,
                "model.eval()",
                "for part, was in modes:",
                "    part.training = was",
                "return write(model)",
            ),
        ),
        "lost": Misconception(
            says="What `write` returned is lost: the caller gets None. `return write(model)` inside `try` still runs "
            "what stands in `finally`.",
            example=_exported(
                _PARTS,
                "model.eval()",
                "try:",
                "    write(model)",
                "finally:",
                "    for part, was in modes:",
                "        part.training = was",
            ),
        ),
    },
    hint="Before: `modes = [(part, part.training) for part in model.modules()]`. After, in a `finally`: set "
    "`part.training` of each.",
    solution=_exported(
        _PARTS,
        "model.eval()",
        "try:",
        "    return write(model)",
        "finally:",
        "    for part, was in modes:",
        "        part.training = was",
    ),
    why="Each part came back as it was, also a frozen one, and also when the disk was full. An export in the middle of "
    "a training changes nothing in it.",
)


# ------------------------------------------------------------------------------------------------ 09.5


def _examine_louder(louder: Any) -> None:
    import torch

    raise_for_stub(louder, _louder(*_IN_NUMPY))
    wrong_if(not issubclass(louder, torch.nn.Module), "expected a torch.nn.Module: that is what an exporter takes")
    chance = torch.Generator().manual_seed(9)
    sounds = torch.rand(3, 40, generator=chance) - 0.6  # its loudest samples are below 0
    silent = sounds * torch.tensor([1.0, 0.0, 1.0])[:, None]
    quiet = sounds * torch.tensor([0.5, 1e-6, 1.0])[:, None]
    model = louder()
    for audio in (sounds, quiet, silent):
        _expect_sound(model, audio)
    _expect_export(model)


def _loud(audio: Tensor) -> Tensor:
    import torch

    loudest = audio.abs().amax(1, keepdim=True)
    return audio / torch.where(loudest > 0, loudest, 1.0)


def _expect_sound(model: Any, audio: Tensor) -> None:
    import torch

    given = audio.clone()
    with torch.no_grad():
        found = model(given)
    expect_kind(found, torch.Tensor, "a tensor", of="forward")
    wrong_if(not torch.equal(given, audio), "in place")
    wrong_if(found.shape != audio.shape, f"expected the shape {tuple(audio.shape)}, found {tuple(found.shape)}")
    right = _loud(audio)
    if torch.allclose(found.float(), right, rtol=0, atol=1e-4):
        return
    wrong_if(found.isnan().any() or found.isinf().any(), "nan")
    for name, wrong in (
        ("unchanged", audio),
        ("signed", audio / audio.amax(1, keepdim=True)),
        ("together", audio / audio.abs().max()),
    ):
        wrong_if(torch.allclose(found, wrong, rtol=0, atol=1e-4), name)
    quietest = right.abs().amax(1) > 0
    wrong_if(torch.allclose(found[::2], right[::2], rtol=0, atol=1e-4) and quietest[1], "floor")
    place = int((found - right).abs().argmax())
    raise WrongAnswerError(
        f"expected {right.flatten()[place]:g} where it gives {found.flatten()[place]:g}: each sound by itself is "
        "divided by its loudest sample, and silence stays silence"
    )


def _expect_export(model: Any) -> None:
    import torch

    from koemorph_tutorial.export import export_onnx

    example = torch.rand(2, 40, generator=torch.Generator().manual_seed(9)) - 0.5
    free = {"audio": {0: "batch", 1: "samples"}}
    with tempfile.TemporaryDirectory() as folder:
        try:
            receipt = export_onnx(model, example, Path(folder, "louder.onnx"), input_names=["audio"], free=free)
        except ExportError as error:
            words = str(error)
            for name, phrase in (("numpy", "numpy"), ("branch", "the values of a tensor"), ("loop", "dimension 0")):
                if phrase in words and (name != "loop" or _loops(type(model).forward.__code__)):
                    raise WrongAnswerError(name) from error
            raise WrongAnswerError(f"it computes the right thing, and cannot be exported: {words}") from error
    wrong_if(not receipt.ok, f"exported, it is another model. {receipt.verdict()}")


def _loops(code: CodeType) -> bool:
    inside = [item for item in code.co_consts if isinstance(item, CodeType)]
    return any(step.opname == "FOR_ITER" for step in dis.get_instructions(code)) or any(map(_loops, inside))


_louder = form('''\
import numpy as np
import torch


class Louder(torch.nn.Module):
    """Divide each sound by its loudest sample; silence stays silence."""

    def forward(self, audio):  # (batch, samples)
        {lines}
''')


_IN_NUMPY = (
    "louder = []",
    "for sound in audio:",
    "    loudest = np.abs(sound.numpy()).max()",
    "    louder.append(sound / float(loudest) if loudest > 0 else sound)",
    "return torch.stack(louder)",
)
_LOUDEST = "loudest = audio.abs().amax(1, keepdim=True)"
_DIVIDED = "return audio / torch.where(loudest > 0, loudest, 1.0)"

LOUDER = Exercise(
    asks="Out of Python",
    answer="Louder",
    expects="a class",
    examine=_examine_louder,
    misconceptions={
        "numpy": Misconception(
            says="It computes the right thing, and still in numpy, where no export can follow: `audio.abs().amax(1)` "
            "is the same in torch.",
            example=_louder(
                "loudest = np.abs(audio.numpy()).max(1, keepdims=True)",
                "return audio / torch.from_numpy(np.where(loudest > 0, loudest, np.float32(1)))",
            ),
        ),
        "loop": Misconception(
            says="It computes the right thing, one sound at a time, and Python's `for` is not in the file: it was run "
            "for the two sounds of the example, and only those two steps were noted. The batch is frozen at 2. Compute "
            "all sounds at once: `.amax(1, keepdim=True)`.",
            example=_louder(
                "louder = []",
                "for sound in audio:",
                "    loudest = sound.abs().max()",
                "    louder.append(sound / torch.where(loudest > 0, loudest, 1.0))",
                "return torch.stack(louder)",
            ),
        ),
        "branch": Misconception(
            says="It computes the right thing, and Python decides by what is in a tensor: an `if`, or a number taken "
            "out of it by `float` or `.item()`. Only one of two ways could be written down. `torch.where` writes down "
            "both, and chooses number by number.",
            example=_louder(
                _LOUDEST, "if loudest.min() > 0:", "    return audio / loudest", "else:", f"    {_DIVIDED}"
            ),
        ),
        "together": Misconception(
            says="All sounds of a batch are divided by the loudest of all: a quiet sound stays quiet beside a loud "
            "one, so the answer depends on who else is asking. The loudest of each row: `.amax(1, keepdim=True)`.",
            example=_louder("loudest = audio.abs().max()", _DIVIDED),
        ),
        "signed": Misconception(
            says="A sound swings both ways, and its loudest sample may be below 0: take `.abs()` first.",
            example=_louder("loudest = audio.amax(1, keepdim=True)", _DIVIDED),
        ),
        "nan": Misconception(
            says="Silence came out as NaN: it was divided by 0. Divide by 1 where the loudest sample is 0: "
            "`torch.where`.",
            example=_louder(_LOUDEST, "return audio / loudest"),
        ),
        "floor": Misconception(
            says="A very quiet sound, of 0.000001, does not reach 1: what you add to its loudest sample, or allow it "
            "at least, is no longer small beside it. Only 0 itself needs care: `torch.where(loudest > 0, …)`.",
            example=_louder(_LOUDEST, "return audio / (loudest + 1e-6)"),
        ),
        "in place": Misconception(
            says="It changes the sounds that it was given: they belong to the caller. Make new ones.",
            example=_louder(_LOUDEST, "audio /= torch.where(loudest > 0, loudest, 1.0)", "return audio"),
        ),
        "unchanged": Misconception(
            says="The sounds come back as they were.",
            example=_louder("return audio.clone()"),
        ),
    },
    hint="No loop, no `if`, no numpy: `loudest = audio.abs().amax(1, keepdim=True)`, and `torch.where` for silence.",
    solution=_louder(_LOUDEST, _DIVIDED),
    why="It was exported from two sounds of 40 samples, and the file takes any number of any length, also one sound of "
    "one sample. Silence was tried as well: the file chooses by itself.",
)


LESSON = Lesson(
    prediction="09.2",
    questions={"09.1": NEEDS, "09.2": PREDICTION, "09.3": AGREES, "09.4": EXPORTED, "09.5": LOUDER},
)
