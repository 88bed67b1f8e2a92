"""Lesson 04: a network out of a file, ready to be used."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.teaching.lessons import (
    Choice,
    Exercise,
    Lesson,
    Misconception,
    NotAttemptedError,
    Option,
    WrongAnswerError,
)
from koemorph_tutorial.teaching.trial import first_line, is_nothing, is_untouched
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------ 04.1 and 04.2

LOWER = Choice(
    asks="Was the resume right?",
    options={
        "a": Option(
            text="Yes. The loss is even lower, so nothing can have been lost.",
            reply="Then both losses would be equal, to the last bit. Something was forgotten, and what came of it is "
            "another run. This one had luck; the next one may not.",
        ),
        "b": Option(
            text="No. Something was forgotten.",
            reply="On one machine a run that comes back whole ends with the same loss, to the last bit. Lower is "
            "different, and different means forgotten.",
        ),
        "c": Option(
            text="Nobody can tell: random numbers make every run end a little differently.",
            reply="A run that is begun anew does. One that comes back goes on with its own random numbers, and ends "
            "with the same loss, to the last bit. This one did not: something was forgotten.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="What happens when the file is opened?",
    options={
        "a": Option(
            text="The names are printed, and that is all. A file holds data; code runs only when it is called.",
            reply="Somebody did call it: the line that you trusted. Most of a `.pth` is numbers, but what puts them "
            "together is a pickle, a list of instructions, and one of them says: call this function.",
        ),
        "b": Option(
            text="An error. The class is not on this computer, so its object cannot be made.",
            reply="That is so for an ordinary object. But whoever writes a class chooses how its objects are made "
            "again, by which function and with which arguments. Here the class is not needed at all, only a function "
            "that every Python has.",
        ),
        "c": Option(
            text="The names are printed. Before that, something has run that the stranger chose.",
            reply="Most of a `.pth` is numbers, but what puts them together is a pickle, a list of instructions, and "
            "one of them says: call this function. The class itself is not needed.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 04.3


def _small_model(seed: int) -> nn.Module:
    """Return a network with two layers that behave otherwise in use than in training, the second one deep inside."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inner = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))
        return nn.Sequential(nn.Linear(4, 8), inner, nn.Linear(8, 2))


def _examine_use(for_use: Any) -> None:
    import torch

    if is_untouched(for_use, _use("# your line")):
        raise NotAttemptedError
    saved, model = _small_model(1), _small_model(2)
    saved(torch.linspace(-3, 3, 32).reshape(8, 4))  # so that its running statistics are not those of a fresh one
    state = {name: value.clone() for name, value in saved.state_dict().items()}
    found = for_use(model, {"model_state_dict": {name: value.clone() for name, value in state.items()}})
    if is_nothing(found):
        raise WrongAnswerError("`for_use` returned None: the last line returns the model")
    if not isinstance(found, torch.nn.Module):
        raise WrongAnswerError(f"expected the model, found {printable(type(found).__name__, 60)}")
    if any(not torch.equal(value, state[name]) for name, value in found.state_dict().items() if name in state):
        raise WrongAnswerError("the model that came back does not hold what is in the checkpoint")
    parts = dict(found.named_modules())
    training = [part for part in parts.values() if part.training]
    dropping = [part for part in training if isinstance(part, torch.nn.Dropout) and part.p > 0]
    counting = [part for part in training if isinstance(part, torch.nn.BatchNorm1d)]
    if not training:
        _answers_alike(found, state)
    elif not found.training and (dropping or counting):
        raise WrongAnswerError("flag")
    elif dropping and not any(weight.requires_grad for weight in found.parameters()):
        raise WrongAnswerError("frozen")
    elif counting and not dropping:
        raise WrongAnswerError("dropout")
    elif dropping or counting:
        raise WrongAnswerError("training")
    else:
        _answers_alike(found, state)


def _answers_alike(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless two questions get one answer, and leave the model as it was."""
    import torch

    batch = torch.linspace(-1, 1, 12).reshape(3, 4)
    with torch.no_grad():
        if not torch.equal(model(batch), model(batch)):
            raise WrongAnswerError("the same batch, given twice, gets two different answers")
    if any(not torch.equal(value, state[name]) for name, value in model.state_dict().items() if name in state):
        raise WrongAnswerError("the model is changed by being used")


def _use(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f'''\
def for_use(model, checkpoint):
    """Fill the model, and return it ready to be used."""
    model.load_state_dict(checkpoint["model_state_dict"])
    {body}
    return model
'''


USE = Exercise(
    asks="One line is missing",
    answer="for_use",
    expects="a function",
    examine=_examine_use,
    misconceptions={
        "training": Misconception(
            says="Its layers still work as in training: dropout drops, BatchNorm goes on counting. The weights do not "
            "say whether a network is being trained or used; a call does. (With its brackets.)",
            example=_use("model.train()"),
        ),
        "frozen": Misconception(
            says="Now no weight has a gradient, which saves memory. But dropout still drops, and BatchNorm goes on "
            "counting: neither asks for gradients. They ask for the mode, which is something else.",
            example=_use("model.requires_grad_(False)"),
        ),
        "flag": Misconception(
            says="You set the flag of the outermost module, and the layers inside have flags of their own, still those "
            "of training. There is a call that sets them all.",
            example=_use("model.training = False"),
        ),
        "dropout": Misconception(
            says="Dropout is off, and BatchNorm goes on counting: what it answers depends on the rest of the batch, "
            "and each use changes its statistics. There is a call for all layers at once.",
            example=_use(
                "for part in model.modules():",
                "    if isinstance(part, torch.nn.Dropout):",
                "        part.eval()",
            ),
        ),
    },
    hint="The opposite of `model.train()`.",
    solution=_use("model.eval()"),
    why="The same question got the same answer twice, and the model was not changed by it, through dropout and "
    "BatchNorm both. (Gradients are another matter: `torch.inference_mode()` does without.)",
)


# ------------------------------------------------------------------------------------------------ 04.4


def _model_with_names() -> nn.Module:
    """Return a network whose own names are easily taken for a wrapper's."""
    from torch import nn

    return nn.ModuleDict(
        {
            "model": nn.Linear(2, 2),
            "mel": nn.Linear(2, 2),
            "decoder": nn.ModuleDict({"module": nn.Linear(2, 1), "my_module": nn.Linear(1, 1)}),
        }
    )


_BOTH_ORDERS = {"module._orig_mod.", "_orig_mod.module."}
_WRAPPERS = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.")


def _examine_names(plain_names: Any) -> None:
    if is_untouched(plain_names, _names('return {name.removeprefix("module."): v for name, v in state.items()}')):
        raise NotAttemptedError
    plain = dict(_model_with_names().state_dict())
    results = {wrapper: _renamed(plain_names, wrapper, plain) for wrapper in _WRAPPERS}
    wrong = {wrapper: names for wrapper, names in results.items() if names != list(plain)}
    for names in wrong.values():
        if "decoder.weight" in names:
            raise WrongAnswerError("replace")
        if "coder.module.weight" in names:
            raise WrongAnswerError("strip")
    if "module.weight" in results[""]:
        raise WrongAnswerError("split")
    if wrong.keys() == {"module.module."}:
        raise WrongAnswerError("again")
    if wrong and wrong.keys() <= {*_BOTH_ORDERS, "module.module."}:
        raise WrongAnswerError("one" if wrong.keys() >= _BOTH_ORDERS else "order")
    for wrapper, names in wrong.items():
        pairs = zip_longest(plain, names, fillvalue="nothing")
        name, found = next((own, found) for own, found in pairs if own != found)
        raise WrongAnswerError(f"of `{wrapper}{name}` it makes `{printable(found, 60)}`; the model calls it `{name}`")


def _renamed(plain_names: Any, prefix: str, plain: Mapping[str, Tensor]) -> list[str]:
    state = {prefix + name: value for name, value in plain.items()}
    found = plain_names(dict(state))
    if is_nothing(found):
        raise WrongAnswerError("`plain_names` returned None: is `return` missing?")
    if not isinstance(found, Mapping):
        raise WrongAnswerError(f"expected a dict from names to tensors, found {printable(type(found).__name__, 60)}")
    values = list(state.values())
    if len(found) == len(values) and any(a is not b for a, b in zip(found.values(), values, strict=True)):
        raise WrongAnswerError("the tensors are not those of the state any more, or stand in another order")
    return [str(name) for name in found]


def _names(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f'''\
def plain_names(state):
    """Return the state with the names that the model has without its wrappers."""
    {body}
'''


_LOOP = ("plain = {}", "for name, value in state.items():")
_KEEP = ("    plain[name] = value", "return plain")

NAMES = Exercise(
    asks="Wrapped twice",
    answer="plain_names",
    expects="a function",
    examine=_examine_names,
    apart=True,
    misconceptions={
        "one": Misconception(
            says="It takes one wrapper off. Many models are compiled and spread over GPUs: `module._orig_mod.` comes "
            "first in their names.",
            example=_names(
                *_LOOP,
                '    if name.startswith("module."):',
                '        name = name.removeprefix("module.")',
                "    else:",
                '        name = name.removeprefix("_orig_mod.")',
                *_KEEP,
            ),
        ),
        "order": Misconception(
            says="Right for one order of the two, and the other occurs as well. A model that is compiled and then "
            "spread over GPUs has `module._orig_mod.` in front of its names, done the other way round "
            "`_orig_mod.module.`.",
            example=_names(
                'return {name.removeprefix("module.").removeprefix("_orig_mod."): v for name, v in state.items()}'
            ),
        ),
        "again": Misconception(
            says="Each wrapper is taken off once, and one may come twice: an averaged model (`AveragedModel`) of one "
            "that is spread over GPUs begins with `module.module.`.",
            example=_names(
                *_LOOP,
                '    name = name.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("_orig_mod.")',
                *_KEEP,
            ),
        ),
        "replace": Misconception(
            says="`replace` finds `module.` in the middle of a name as well. This model has a part of its own called "
            "`decoder.module`, and after your line its weights have lost their name. A wrapper stands in front.",
            example=_names(
                'return {name.replace("module.", "").replace("_orig_mod.", ""): v for name, v in state.items()}'
            ),
        ),
        "strip": Misconception(
            says='`lstrip("module.")` does not take a word off. It takes letters off, as long as they are among m, o, '
            "d, u, l, e and the dot: of `module.model.weight` it leaves `weight`. `removeprefix` knows words.",
            example=_names('return {name.lstrip("module.").lstrip("_orig_mod."): v for name, v in state.items()}'),
        ),
        "split": Misconception(
            says="It takes the first part off, whatever it is. A file without wrappers loses a part of its names: "
            "`model.weight` becomes `weight`.",
            example=_names('return {name.split(".", 1)[1]: value for name, value in state.items()}'),
        ),
    },
    hint='`while name.startswith(("module.", "_orig_mod."))`: take one off, and look again.',
    solution=_names(
        *_LOOP,
        '    while name.startswith(("module.", "_orig_mod.")):',
        '        name = name.removeprefix("module.").removeprefix("_orig_mod.")',
        *_KEEP,
    ),
    why="Wrapped in any order and any number of times, or not at all, the names became those of the model. The library "
    "goes further: it takes off whatever stands before all of the model's names (`net.` of Lightning, say).",
)


# ------------------------------------------------------------------------------------------------ 04.5


def _body_and_head(seed: int, classes: int) -> nn.Module:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        return nn.ModuleDict({"body": body, "head": nn.Linear(4, classes)})


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _examine_body(load_body: Any) -> None:
    import torch

    if is_untouched(load_body, _body("model.load_state_dict(state, strict=False)")):
        raise NotAttemptedError
    old = _copy_of(_body_and_head(1, 10))
    alike = _copy_of(_body_and_head(1, 2))
    for what, state in (
        ("whose head has another size", old),
        ("whose head has the same size", alike),
        ("without a head", {name: value for name, value in old.items() if not name.startswith("head.")}),
    ):
        model = _body_and_head(2, 2)
        before = _copy_of(model)
        try:
            load_body(model, dict(state))
        except (RuntimeError, ValueError, KeyError) as error:
            if what == "whose head has another size" and "size mismatch for head" in str(error):
                raise WrongAnswerError("size") from error
            raise WrongAnswerError(f"a file {what} was refused: {first_line(error)}") from error
        after = model.state_dict()
        if any(not torch.equal(after[name], before[name]) for name in after if name.startswith("head.")):
            raise WrongAnswerError("head")
        if any(not torch.equal(after[name], state[name]) for name in after if name.startswith("body.")):
            raise WrongAnswerError(f"from a file {what} the body did not arrive whole")
    longer = {**old, "body.2.weight": torch.ones(4, 4)}
    shorter = {name: value for name, value in old.items() if name != "body.1.running_mean"}
    reshaped = {**old, "body.1.weight": torch.ones(7)}
    wrapped = {f"module.{name}": value for name, value in old.items()}
    unrelated = {"weight": torch.ones(2)}
    for name, state in (("wrapped", wrapped), ("missing", shorter), ("leftover", longer), ("reshaped", reshaped)):
        _refused(load_body, name, state, old)
    _refused(load_body, "unrelated", unrelated, old)


def _refused(load_body: Any, name: str, state: dict[str, Tensor], old: Mapping[str, Tensor]) -> None:
    """Raise unless a file that does not fit is refused, and the model is then as it was."""
    import torch

    model = _body_and_head(2, 2)
    before = _copy_of(model)
    try:
        load_body(model, dict(state))
    except (RuntimeError, ValueError, KeyError):
        is_refused = True
    else:
        is_refused = False
    after = model.state_dict()
    if not is_refused:
        arrived = all(torch.equal(value, old[key]) for key, value in after.items() if key.startswith("body."))
        if name == "wrapped" and arrived:
            return  # the prefix was taken off: more than was asked for
        says = {"wrapped": "silent", "unrelated": "silent", "missing": "missing", "leftover": "leftover"}
        raise WrongAnswerError(says.get(name, "a tensor of another shape was not refused"))
    if any(not torch.equal(after[key], before[key]) for key in before):
        raise WrongAnswerError("half")


def _body(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f'''\
def load_body(model, state):
    """Fill all of `model` but its `head`. Where that does not fit, raise ValueError and change nothing."""
    {body}
'''


_TAKE = 'body = {name: value for name, value in state.items() if not name.startswith("head.")}'
_LOAD = "model.load_state_dict(body, strict=False)"
_FOUND = "found = model.load_state_dict(body, strict=False)"
_RAISE = '    raise ValueError("the body in the file is not that of the model")'
_SHAPES = (
    "wanted = {",
    "    name: value.shape",
    "    for name, value in model.state_dict().items()",
    '    if not name.startswith("head.")',
    "}",
)

BODY = Exercise(
    asks="A new head",
    answer="load_body",
    expects="a function",
    examine=_examine_body,
    misconceptions={
        "size": Misconception(
            says="The old head has another size, and torch raises an error: `strict=False` forgives names that do not "
            "fit, never shapes. Take the head out of the state before you load it.",
            example=_body(
                "found = model.load_state_dict(state, strict=False)",
                "if found.missing_keys:",
                _RAISE,
            ),
        ),
        "head": Misconception(
            says="Here the old head has the size of the new one, so it was loaded as well. The head was to stay new: "
            "take it out of the state by its name, not by its shape.",
            example=_body(
                "now = model.state_dict()",
                "body = {n: v for n, v in state.items() if n not in now or v.shape == now[n].shape}",
                _FOUND,
                'if found.unexpected_keys or any(not name.startswith("head.") for name in found.missing_keys):',
                _RAISE,
            ),
        ),
        "silent": Misconception(
            says="A file that was saved from a wrapped model (`module.body.0.weight`) was taken without a word, and "
            "nothing of it has arrived. `load_state_dict` returns what was missing and what was left over: look at it.",
            example=_body(_TAKE, _LOAD),
        ),
        "missing": Misconception(
            says="The file lacks a part of the body (`body.1.running_mean`), and nobody was told: the model keeps what "
            "it had there. Names that are missing count, not only those that are left over.",
            example=_body(
                _TAKE,
                "if not body.keys() <= model.state_dict().keys():",
                _RAISE,
                _LOAD,
            ),
        ),
        "leftover": Misconception(
            says="The file has more of a body than the model (`body.2.weight`), and nobody was told: it is the file of "
            "another network. Names that are left over count, not only those that are missing.",
            example=_body(
                _TAKE,
                'wanted = {name for name in model.state_dict() if not name.startswith("head.")}',
                "if not wanted <= body.keys():",
                _RAISE,
                _LOAD,
            ),
        ),
        "half": Misconception(
            says="It refuses, but too late: what did fit is in the model by then, and whoever catches the error goes "
            "on with a mixture. `load_state_dict` fills first and complains afterwards. Compare names and shapes, then "
            "load.",
            example=_body(
                _TAKE,
                _FOUND,
                'if found.unexpected_keys or any(not name.startswith("head.") for name in found.missing_keys):',
                _RAISE,
            ),
        ),
    },
    hint="Two dicts from names to shapes, of the model and of the state, each without the head. Equal: load. "
    "Otherwise raise, before anything is loaded.",
    solution=_body(
        _TAKE,
        *_SHAPES,
        "if {name: value.shape for name, value in body.items()} != wanted:",
        _RAISE,
        _LOAD,
    ),
    why="The body arrived whole, whatever head the file had, and a file that does not fit changed nothing. The "
    "library's `load_weights` is of this kind: it decides what fits before it fills, and says what it did.",
)


LESSON = Lesson(
    prediction="04.2",
    questions={"04.1": LOWER, "04.2": PREDICTION, "04.3": USE, "04.4": NAMES, "04.5": BODY},
)
