"""The exercises of lesson 04: answers that are right but written otherwise, and what is said to odd ones."""

from __future__ import annotations

import pytest

from .test_answers import refused, said_to

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
        (f"{LOAD}; model.eval().train(); return model", "Its layers still work as in training"),
        (f"{LOAD}; model[1][:0].eval(); return model", "Its layers still work as in training"),
        (f"{LOAD}; model.eval; return model", "`model.eval` without brackets"),
        (f"model.eval; torch.no_grad(); {LOAD}; return model", "`model.eval` without brackets"),
        (f"{LOAD}; return model.eval", "expected the model, found method"),
        (f"{LOAD}; torch.no_grad(); return model", "That is about gradients."),
        (f"{LOAD}; torch.set_grad_enabled(False); return model", "That is about gradients."),
        (f"{LOAD}\n    with torch.inference_mode(): return model", "That is about gradients."),
        (
            f"{LOAD}\n    for w in model.parameters(): w.requires_grad = False\n    return model",
            "That is about gradients.",
        ),
        (f"torch.manual_seed(0); {LOAD}; return model", "Same seed, same mask: dropout still drops."),
        (f"{LOAD}\n    for part in model: part.training = False\n    return model", "Its layers still work as in"),
        (
            f"{LOAD}\n    for part in model.modules(): part.training = isinstance(part, nn.Dropout)\n    return model",
            "BatchNorm does not work as in training any more, and dropout does",
        ),
        (f"{LOAD}; model[1][0].eval(); return model", "BatchNorm does not work as in training any more"),
        (f"{LOAD}; model[1][0] = nn.Identity(); return model", "BatchNorm does not work as in training any more"),
        (f"{LOAD}; model.training = False; model[1][1].eval(); return model", "Dropout is off, and BatchNorm still"),
        (f"{LOAD}; model[1][1].p = 0.0; return model", "Dropout is off, and BatchNorm still works as in training"),
        (
            f"{LOAD}; model[1][1] = nn.Identity(); return model",
            "Dropout is off, and BatchNorm still works as in training",
        ),
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
    refused("04.3", use(body), words, capsys)


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
        "return {re.sub(r'^((module|_orig_mod)\\.)+', '', name): state[name].clone() for name in sorted(state)}",
        "return {re.sub(r'^((module|_orig_mod)\\.)+', '', n): nn.Parameter(v) for n, v in reversed(state.items())}",
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
            "Your answer takes `module.` out of the middle",
        ),
        (
            ONE_BY_ONE.format(line="name = re.sub(r'(module|_orig_mod)\\.', '', name)"),
            "Your answer takes `module.` out of the middle",
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
            ONE_BY_ONE.format(line="name = re.sub(r'^((module|_orig_mod)\\.){1,2}', '', name)"),
            "So many wrappers and no more are taken off",
        ),
        (
            ONE_BY_ONE.format(
                line="name = name.removeprefix('module.').removeprefix('_orig_mod.').removeprefix('module.')"
            ),
            "So many wrappers and no more are taken off",
        ),
        (
            ONE_BY_ONE.format(line="name = '.'.join(p for p in name.split('.') if p not in ('module', '_orig_mod'))"),
            "Your answer takes `module.` out of the middle",
        ),
        (
            ONE_BY_ONE.format(line="name = re.sub(r'^((module|_orig_mod).)+', '', name)"),
            "`module_list.0.weight` begins with “module” as well.",
        ),
        (
            ONE_BY_ONE.format(line="if name.startswith('module'): name = name[7:]"),
            "`module_list.0.weight` begins with “module” as well.",
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
        ("return {}", "from a state without wrappers `model.weight` is missing: every tensor is wanted"),
        (
            "return {n.removeprefix('module.'): v for n, v in state.items() if n.startswith('module.')}",
            "from a state without wrappers `model.weight` is missing",
        ),
        (
            "return {n.removeprefix('module.'): v for n, v in state.items() if not n.startswith('_orig_mod.')}",
            "from a state whose names begin with `_orig_mod.` `model.weight` is missing",
        ),
        ("return {**state, 'epoch': 3}", "expected 10 names, as in the state, found 11"),
        ("return list(state)", "expected a dict from names to tensors, found list"),
        ("state = {}", "`plain_names` returned None: is `return` missing?"),
        (
            "return {name.removeprefix('module.'): v.clone() for name, v in sorted(state.items())}",
            "of `_orig_mod.model.weight` it makes `_orig_mod.model.weight`",
        ),
        ("return {name: v + 1 for name, v in list(state.items())[-1:]}", "is none of the state's tensors any more"),
        ("return {name: v.half() for name, v in state.items()}", "what it calls `model.weight` is none of the state's"),
        ("return dict(zip(state, reversed(state.values())))", "of `model.weight` it makes `module_list.0.bias`"),
        ("return {name: v for name, v in state.items() if 'list' not in name}", "`module_list.0.weight` is missing"),
        ("return {1: 2}", "what it calls `1` is none of the state's tensors any more"),
        ("return {name: 1 / 0 for name in state}", "`plain_names` raised ZeroDivisionError"),
    ],
)
def test_what_is_said_of_other_names_is_true(body: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused("04.4", names(body), words, capsys)


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
LOAD_IT = "model.load_state_dict(body, strict=False)"
OWN = "own = {n: v for n, v in model.state_dict().items() if not n.startswith('head.')}"
FITS = (
    f"{TAKE}; {OWN}\n    "
    "if set(body) != set(own) or any(body[n].shape != own[n].shape for n in own): raise ValueError('another body')"
)


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
            "try: copy.deepcopy(model).load_state_dict({**body, **head})",
            "except RuntimeError as error: raise ValueError(str(error))",
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
        (
            "body = {n: v for n, v in state.items() if n.startswith('body.')}",
            "own = {n: v for n, v in model.state_dict().items() if n.startswith('body.')}",
            "if {n: v.shape for n, v in body.items()} != {n: v.shape for n, v in own.items()}: raise ValueError",
            LOAD_IT,
        ),
        (
            "body = {n.removeprefix('body.'): v for n, v in state.items() if n.startswith('body.')}",
            "own = model.body.state_dict()",
            "if set(body) != set(own) or any(body[n].shape != own[n].shape for n in own): raise ValueError",
            "model.body.load_state_dict(body)",
        ),
        (
            "body = {n.removeprefix('body.'): v for n, v in state.items() if n.startswith('body.')}",
            "new = copy.deepcopy(model.body)",
            "try: new.load_state_dict(body)",
            "except RuntimeError as error: raise ValueError('another body') from error",
            "model.body = new",
        ),
        (
            "body = {n: v for n, v in state.items() if not n.startswith('head')}",
            OWN,
            "if set(body) != set(own) or any(body[n].shape != own[n].shape for n in own): raise ValueError",
            LOAD_IT,
        ),
        (
            TAKE,
            "before = copy.deepcopy(model.state_dict())",
            "try: model.load_state_dict({**model.state_dict(), **body})",
            "except RuntimeError as error:",
            "    model.load_state_dict(before)",
            "    raise ValueError('another body') from error",
            "if not all(n in body for n in before if n.startswith('body.')):",
            "    model.load_state_dict(before)",
            "    raise ValueError('another body')",
        ),
    ],
)
def test_every_right_way_to_load_a_body_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "04.5: passed" in said_to("04.5", body_of(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("model.load_state_dict(state)",), "torch raises an error, with `strict=False` as without"),
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
                LOAD_IT,
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
        (
            (
                TAKE,
                OWN,
                "if set(body) != set(own) or any(body[n].numel() != own[n].numel() for n in own): raise ValueError",
                "model.load_state_dict({n: body[n].reshape(own[n].shape) for n in own}, strict=False)",
            ),
            "A weight of shape (3, 4) was taken for one of (4, 3)",
        ),
        (
            (
                FITS,
                "for n, p in model.named_parameters():",
                "    if not n.startswith('head.'): p.data = body[n]",
            ),
            "BatchNorm's running averages (`body.1.running_mean`) did not.",
        ),
        (
            (
                FITS,
                "model.load_state_dict({n: v for n, v in body.items() if 'head' not in n}, strict=False)",
            ),
            "`body.head.weight` has “head” in the middle of its name",
        ),
        (
            (
                TAKE,
                OWN,
                "if sorted(v.shape for v in body.values()) != sorted(v.shape for v in own.values()): raise ValueError",
                LOAD_IT,
            ),
            "The file has as many names as the body, and one of them is another",
        ),
        (
            (
                "body = sorted((n, v) for n, v in state.items() if n.startswith('body.'))",
                "own = sorted((n, v) for n, v in model.state_dict().items() if n.startswith('body.'))",
                "if [v.shape for _, v in body] != [v.shape for _, v in own]: raise ValueError",
                "for (_, mine), (_, value) in zip(own, body): mine.copy_(value)",
            ),
            "Compare the names, not how many there are.",
        ),
        (
            (TAKE, OWN, "for mine, value in zip(own.values(), body.values()): mine.copy_(value)"),
            "Go by the names, not by the order.",
        ),
        (
            (FITS, "if list(body) != list(own): raise ValueError('another order')", LOAD_IT),
            "a file whose tensors stand in another order was refused: ValueError: another order",
        ),
        ((FITS, LOAD_IT, "for p in model.head.parameters(): p.data.zero_()"), "what it holds now is not the file's"),
        (
            (
                "before = dict(model.body.state_dict())",
                "body = {n.removeprefix('body.'): v for n, v in state.items() if n.startswith('body.')}",
                "try: model.body.load_state_dict(body)",
                "except RuntimeError as error:",
                "    model.body.load_state_dict(before)",
                "    raise ValueError('another body') from error",
            ),
            "`state_dict()` shares its memory with the model",
        ),
        (
            (
                TAKE,
                "before = {n: v.detach() for n, v in model.state_dict().items() if n.startswith('body.')}",
                "found = model.load_state_dict(body, strict=False)",
                "if found.unexpected_keys or len(found.missing_keys) > 2:",
                "    model.load_state_dict(before, strict=False)",
                "    raise ValueError('another body')",
            ),
            "`state_dict()` shares its memory with the model",
        ),
        (
            (
                TAKE,
                "try: model.load_state_dict({**model.state_dict(), **body})",
                "except RuntimeError as error: raise ValueError('another body') from error",
                "if len(body) < 9: raise ValueError('another body')",
            ),
            "It refuses, but too late",
        ),
        (
            (TAKE, "copy.deepcopy(model['body']).load_state_dict({n[5:]: v for n, v in body.items()})", LOAD_IT),
            "expected ValueError, found RuntimeError: Missing key(s)",
        ),
        (("model.head = 1 / 0",), "`load_body` raised ZeroDivisionError"),
    ],
)
def test_what_is_said_of_other_bodies_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("04.5", body_of(*lines), words, capsys)


@pytest.mark.parametrize("error", ["KeyError", "RuntimeError", "TypeError", "Exception", "AssertionError"])
def test_any_error_but_a_value_error_gets_one_diagnosis(error: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = body_of(FITS.replace("ValueError('another body')", error), LOAD_IT)
    said = said_to("04.5", source, capsys)
    assert f"04.5: not yet\nfor a file that does not fit: expected ValueError, found {error}\n" == said


@pytest.mark.parametrize("error", ["ValueError", "UnicodeError", "type('Unfit', (ValueError,), {})"])
def test_every_value_error_is_one(error: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = body_of(FITS.replace("ValueError", error), LOAD_IT)
    assert "04.5: passed" in said_to("04.5", source, capsys)


def test_an_assertion_gets_the_same_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (TAKE, OWN, "assert {n: v.shape for n, v in body.items()} == {n: v.shape for n, v in own.items()}")
    said = said_to("04.5", body_of(*lines, LOAD_IT), capsys)
    assert "for a file that does not fit: expected ValueError, found AssertionError\n" in said
