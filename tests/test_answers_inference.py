"""The exercises of lesson 04: answers that are right but written otherwise, and what is said to odd ones."""

from __future__ import annotations

import pytest
import torch

from koemorph_tutorial.teaching import check
from koemorph_tutorial.teaching.exercises.inference import LESSON
from koemorph_tutorial.teaching.lessons import Exercise


def said_to(number: str, source: str, capsys: pytest.CaptureFixture[str]) -> str:
    asked = LESSON.questions[number]
    assert isinstance(asked, Exercise)
    namespace: dict[str, object] = {"torch": torch, "nn": torch.nn}
    exec(compile(source, "a cell", "exec"), namespace)
    capsys.readouterr()
    check(number, namespace[asked.answer])
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ 04.3


def use(body: str) -> str:
    return f"import copy\ndef for_use(model, checkpoint):\n    {body}"


LOAD = "model.load_state_dict(checkpoint['model_state_dict'])"


@pytest.mark.parametrize(
    "body",
    [
        f"{LOAD}; return model.eval()",
        f"{LOAD}; return model.train(False)",
        f"model.eval(); {LOAD}; return model",
        f"{LOAD}\n    for part in model.modules(): part.training = False\n    return model",
        f"{LOAD}; return copy.deepcopy(model).eval().requires_grad_(False)",
        f"model = model.eval(); model.requires_grad_(False); {LOAD}; return model",
    ],
)
def test_every_right_way_to_make_a_model_ready_passes(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "04.3: passed" in said_to("04.3", use(body), capsys)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f"{LOAD}; model.eval; return model", "Its layers still work as in training"),
        (f"{LOAD}; torch.no_grad(); return model", "Its layers still work as in training"),
        (f"{LOAD}; model.eval().train(); return model", "Its layers still work as in training"),
        (f"{LOAD}\n    for w in model.parameters(): w.requires_grad = False\n    return model", "Now no weight has"),
        (f"{LOAD}\n    for part in model: part.training = False\n    return model", "Its layers still work as in"),
        (f"{LOAD}; model[1][1].p = 0.0; return model", "Dropout is off, and BatchNorm goes on counting"),
        (f"{LOAD}; model[1][1] = nn.Identity(); return model", "Dropout is off, and BatchNorm goes on counting"),
        (f"{LOAD}; model.eval()", "`for_use` returned None: the last line returns the model"),
        ("return model.eval()", "the model that came back does not hold what is in the checkpoint"),
        (f"{LOAD}; return checkpoint", "expected the model, found dict"),
        (f"{LOAD}; return model, {{}}", "expected the model, found tuple"),
        ("return model.load_state_dict(checkpoint['weights'])", "`for_use` raised KeyError: 'weights'"),
    ],
)
def test_what_is_said_of_other_ways_to_use_a_model_is_true(
    body: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_to("04.3", use(body), capsys)
    assert said.startswith("04.3: not yet\n")
    assert words in said


# ------------------------------------------------------------------------------------------------ 04.4


def names(body: str) -> str:
    return f"import re\nfrom collections import OrderedDict\ndef plain_names(state):\n    {body}"


@pytest.mark.parametrize(
    "body",
    [
        "return {re.sub(r'^((module|_orig_mod)\\.)+', '', name): v for name, v in state.items()}",
        "return OrderedDict((re.sub(r'\\A(?:module\\.|_orig_mod\\.)*', '', k), state[k]) for k in state)",
        "while any(n.startswith(p) for n in state for p in ('module.', '_orig_mod.')):\n"
        "        state = {n.removeprefix('module.').removeprefix('_orig_mod.'): v for n, v in state.items()}\n"
        "    return state",
        "out = {}\n    for name, value in state.items():\n        parts = name.split('.')\n"
        "        while parts[0] in ('module', '_orig_mod'): parts = parts[1:]\n"
        "        out['.'.join(parts)] = value\n    return out",
    ],
)
def test_every_right_way_to_unwrap_names_passes(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "04.4: passed" in said_to("04.4", names(body), capsys)


ONE_BY_ONE = (
    "out = {{}}\n    for name, value in state.items():\n        {line}\n        out[name] = value\n    return out"
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            ONE_BY_ONE.format(line="if name.startswith('module.'): name = name.replace('module.', '')"),
            "`replace` finds `module.` in the middle",
        ),
        (
            ONE_BY_ONE.format(line="name = re.sub(r'(module|_orig_mod)\\.', '', name)"),
            "`replace` finds `module.` in the middle",
        ),
        (
            ONE_BY_ONE.format(line="if 'module.' in name or '_orig_mod.' in name: name = name.lstrip('module._orig')"),
            '`lstrip("module.")` does not take a word off',
        ),
        (
            ONE_BY_ONE.format(line="name = re.sub(r'^(module|_orig_mod)\\.', '', name)"),
            "It takes one wrapper off",
        ),
        (
            ONE_BY_ONE.format(line="name = name.removeprefix('_orig_mod.').removeprefix('module.')"),
            "Right for one order of the two",
        ),
        (ONE_BY_ONE.format(line="name = name[name.find('.') + 1 :]"), "It takes the first part off, whatever it is"),
        (ONE_BY_ONE.format(line="name = name[7:]"), "of `model.weight` it makes"),
        (
            "return {name.removeprefix('_orig_mod.'): v for name, v in state.items()}",
            "of `module.model.weight` it makes `module.model.weight`; the model calls it `model.weight`",
        ),
        ("return state", "of `module.model.weight` it makes `module.model.weight`"),
        ("return {}", "of `model.weight` it makes `nothing`"),
        ("return list(state)", "expected a dict from names to tensors, found list"),
        ("state = {}", "`plain_names` returned None: is `return` missing?"),
        ("return {name.removeprefix('module.'): v.clone() for name, v in state.items()}", "the tensors are not those"),
        ("return {1: 2}", "it makes `1`"),
        ("return {name: 1 / 0 for name in state}", "`plain_names` raised ZeroDivisionError"),
    ],
)
def test_what_is_said_of_other_names_is_true(body: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("04.4", names(body), capsys)
    assert said.startswith("04.4: not yet\n")
    assert words in said


def test_a_loop_without_an_end_is_ended(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koemorph_tutorial.teaching.trial.PATIENCE", 1.0)
    body = (
        "for name in state:\n        while name.startswith('module.'): name.removeprefix('module.')\n    return state"
    )
    assert "did not come to an end within 1 seconds" in said_to("04.4", names(body), capsys)


# ------------------------------------------------------------------------------------------------ 04.5


def body_of(*lines: str) -> str:
    return "import copy\ndef load_body(model, state):\n    " + "\n    ".join(lines)


TAKE = "body = {n: v for n, v in state.items() if not n.startswith('head.')}"


@pytest.mark.parametrize(
    "lines",
    [
        (
            "body = {n.removeprefix('body.'): v for n, v in state.items() if n.startswith('body.')}",
            "try: copy.deepcopy(model['body']).load_state_dict(body)",
            "except RuntimeError as error: raise ValueError('another body') from error",
            "if any(not n.startswith(('body.', 'head.')) for n in state): raise ValueError('more than a body')",
            "model['body'].load_state_dict(body)",
        ),
        (
            TAKE,
            "head = {n: v for n, v in model.state_dict().items() if n.startswith('head.')}",
            "copy.deepcopy(model).load_state_dict({**body, **head})",
            "model.load_state_dict({**body, **head})",
        ),
        (
            "state = {n.removeprefix('module.'): v for n, v in state.items()}",
            TAKE,
            "own = {n: v for n, v in model.state_dict().items() if not n.startswith('head.')}",
            "if body.keys() != own.keys() or any(body[n].shape != own[n].shape for n in own):",
            "    raise ValueError('another body')",
            "for name in own: own[name].copy_(body[name])",
        ),
    ],
)
def test_every_right_way_to_load_a_body_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "04.5: passed" in said_to("04.5", body_of(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("model.load_state_dict(state)",), "The old head has another size, and torch raises an error"),
        (("try: model.load_state_dict(state, strict=False)", "except RuntimeError: pass"), "was loaded as well"),
        ((TAKE, "model.load_state_dict(body)"), "a file whose head has another size was refused: RuntimeError"),
        (("return model",), "from a file whose head has another size the body did not arrive whole"),
        (("raise ValueError('no')",), "a file whose head has another size was refused: ValueError: no"),
        (
            (
                "now = model.state_dict()",
                "same = {n: v for n, v in state.items() if n in now and v.shape == now[n].shape}",
                "if not same: raise ValueError('nothing fits')",
                "model.load_state_dict({n: v for n, v in same.items() if not n.startswith('head.')}, strict=False)",
            ),
            "The file lacks a part of the body",
        ),
        (
            (
                TAKE,
                "if set(body) != {n for n in model.state_dict() if not n.startswith('head.')}: raise ValueError",
                "model.load_state_dict(body, strict=False)",
            ),
            "It refuses, but too late",
        ),
        (
            (
                TAKE,
                "now = {n: v for n, v in model.state_dict().items() if not n.startswith('head.')}",
                "if set(body) != set(now): raise ValueError",
                "fits = {n: v for n, v in body.items() if v.shape == now[n].shape}",
                "model.load_state_dict(fits, strict=False)",
            ),
            "a tensor of another shape was not refused",
        ),
        (("model.head = 1 / 0",), "`load_body` raised ZeroDivisionError"),
    ],
)
def test_what_is_said_of_other_bodies_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_to("04.5", body_of(*lines), capsys)
    assert said.startswith("04.5: not yet\n")
    assert words in said
