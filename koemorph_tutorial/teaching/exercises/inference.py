"""Lesson 04: a network out of a file, ready to be used."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import (
    expect_kind,
    first_line,
    is_nothing,
    raise_for_stub,
    small_network,
    type_of,
    wrong_if,
)
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
            reply="On one machine, on the CPU, a run that comes back whole ends with the same loss, to the last bit. "
            "Lower is different, and different means forgotten.",
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
            text="The names are printed. Before that, something else has run.",
            reply="Something that the stranger chose. Most of a `.pth` is numbers, but what puts them together is a "
            "pickle, a list of instructions, and one of them says: call this function. This stranger chose a function "
            "that every Python has, so the class is not needed.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 04.3


_ABOUT_GRADIENTS = {"no_grad", "inference_mode", "set_grad_enabled"}


def _examine_use(for_use: Any) -> None:
    import torch

    raise_for_stub(for_use, _use("# your line"))
    saved, model = small_network(1), small_network(2)
    saved(torch.linspace(-3, 3, 32).reshape(8, 4))  # so that its running averages are not those of a fresh one
    state = _copy_of(saved)
    found = for_use(model, {"model_state_dict": _copy_of(saved)})
    wrong_if(is_nothing(found), "`for_use` returned None: the last line returns the model")
    wrong_if(not isinstance(found, torch.nn.Module), f"expected the model, found {type_of(found)}")
    wrong_if(not _holds(found, state), "the model that came back does not hold what is in the checkpoint")
    parts = dict(found.named_modules())
    training = [part for part in parts.values() if part.training]
    dropping = [part for part in training if isinstance(part, torch.nn.Dropout) and part.p > 0]
    counting = [part for part in training if isinstance(part, torch.nn.BatchNorm1d)]
    if not training:
        _answers_alike(found, state)
    elif dropping and counting:
        raise WrongAnswerError(_why_in_training(for_use, found) if found.training else "flag")
    elif dropping or counting:
        raise WrongAnswerError("batchnorm" if dropping else "dropout")
    else:
        _answers_alike(found, state)


def _why_in_training(for_use: Any, model: nn.Module) -> str:
    """Return what was done in place of the call that is missing."""
    code = getattr(inspect.unwrap(for_use), "__code__", None)
    steps = list(dis.get_instructions(code)) if code else []
    if any(a.argval == "eval" and b.opname == "POP_TOP" for a, b in pairwise(steps)):
        return "brackets"
    named = {step.argval for step in steps if isinstance(step.argval, str)}
    if not any(weight.requires_grad for weight in model.parameters()) or named & _ABOUT_GRADIENTS:
        return "gradients"
    return "seed" if "manual_seed" in named else "training"


def _answers_alike(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless two questions get one answer, and leave the model as it was."""
    import torch

    batch = torch.linspace(-1, 1, 12).reshape(3, 4)
    with torch.no_grad():
        wrong_if(not torch.equal(model(batch), model(batch)), "the same batch, given twice, gets two different answers")
    wrong_if(not _holds(model, state), "the model is changed by being used")


def _holds(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Say whether a model holds the tensors of a state, as far as it has their names."""
    return all(_equal(value, state[name]) for name, value in model.state_dict().items() if name in state)


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


_use = form('''\
def for_use(model, checkpoint):
    """Fill the model, and return it ready to be used."""
    model.load_state_dict(checkpoint["model_state_dict"])
    {lines}
    return model
''')


USE = Exercise(
    asks="One line is missing",
    answer="for_use",
    expects="a function",
    examine=_examine_use,
    misconceptions={
        "training": Misconception(
            says="Its layers still work as in training: dropout drops, and BatchNorm goes by each batch and moves its "
            "running averages. The weights do not say whether a network is being trained or used; a call does.",
            example=_use("model.train()"),
        ),
        "brackets": Misconception(
            says="`model.eval` without brackets names the call, and does not make it: dropout drops, and BatchNorm "
            "goes by each batch, as in training.",
            example=_use("model.eval"),
        ),
        "gradients": Misconception(
            says="That is about gradients. Dropout still drops, and BatchNorm still goes by each batch: neither asks "
            "for gradients. They ask for the mode, which is something else.",
            example=_use("model.requires_grad_(False)"),
        ),
        "seed": Misconception(
            says="Same seed, same mask: dropout still drops. What is to change is the mode, in which nothing is left "
            "to chance.",
            example=_use("torch.manual_seed(0)"),
        ),
        "flag": Misconception(
            says="You set the flag of the outermost module, and the layers inside have flags of their own, still those "
            "of training. There is a call that sets them all.",
            example=_use("model.training = False"),
        ),
        "dropout": Misconception(
            says="Dropout is off, and BatchNorm still works as in training: what it answers depends on the rest of the "
            "batch, and each use moves its running averages. There is a call for all layers at once.",
            example=_use(
                "for part in model.modules():",
                "    if isinstance(part, torch.nn.Dropout):",
                "        part.eval()",
            ),
        ),
        "batchnorm": Misconception(
            says="BatchNorm does not work as in training any more, and dropout does: the same question gets two "
            "answers. There is a call for all layers at once.",
            example=_use(
                "for part in model.modules():",
                "    if isinstance(part, torch.nn.BatchNorm1d):",
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
            "module_list": nn.ModuleList([nn.Linear(1, 2)]),
        }
    )


_LIKE_A_WRAPPER = ["module_list.0.weight", "module_list.0.bias"]
_BOTH_ORDERS = {"module._orig_mod.", "_orig_mod.module."}
_MORE = {"module.module.", "module._orig_mod.module._orig_mod.", 4 * "module.", 2 * "_orig_mod.module."}
_WRAPPERS = ("", "module.", "_orig_mod.", *sorted(_BOTH_ORDERS), *sorted(_MORE))


def _examine_names(plain_names: Any) -> None:
    raise_for_stub(plain_names, _names('return {name.removeprefix("module."): v for name, v in state.items()}'))
    plain = _numbered(_model_with_names())
    results = {wrapper: _became(plain_names, wrapper, plain) for wrapper in _WRAPPERS}
    wrong = {wrapper: became for wrapper, became in results.items() if became != {own: own for own in plain}}
    for became in wrong.values():
        wrong_if("decoder.weight" in became.values(), "replace")
        wrong_if("coder.module.weight" in became.values(), "strip")
    wrong_if("module.weight" in results[""].values(), "split")
    wrong_if([own for own, found in results[""].items() if own != found] == _LIKE_A_WRAPPER, "dot")
    wrong_if(wrong and wrong.keys() <= _MORE, "again")
    wrong_if(wrong and wrong.keys() <= _BOTH_ORDERS | _MORE, "one" if wrong.keys() >= _BOTH_ORDERS else "order")
    for wrapper, became in wrong.items():
        for own, found in became.items():
            wrong_if(own != found, f"of `{wrapper}{own}` it makes `{printable(found, 60)}`; the model calls it `{own}`")
        missing = next(own for own in plain if own not in became)
        before = f"whose names begin with `{wrapper}`" if wrapper else "without wrappers"
        raise WrongAnswerError(f"from a state {before} `{missing}` is missing: every tensor is wanted")


def _numbered(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network, no tensor of it equal to another."""
    return {name: value.fill_(number) for number, (name, value) in enumerate(model.state_dict().items())}


def _became(plain_names: Any, prefix: str, plain: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what became of the model's names, each with a prefix: own name -> name found. Those lost are left out."""
    state = {prefix + name: value.clone() for name, value in plain.items()}
    found = plain_names(dict(state))
    expect_kind(found, Mapping, "a dict from names to tensors", of="plain_names")
    wrong_if(len(found) > len(plain), f"expected {len(plain)} names, as in the state, found {len(found)}")
    names = {}
    for name, value in found.items():
        own = next((own for own, tensor in plain.items() if _equal(tensor, value)), None)
        if own is None:
            raise WrongAnswerError(
                f"what it calls `{printable(str(name), 60)}` is none of the state's tensors any more"
            )
        names[own] = str(name)
    return {own: names[own] for own in plain if own in names}


def _equal(tensor: Tensor, value: Any) -> bool:
    import torch

    alike = isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
    return alike and torch.equal(value, tensor)


_names = form('''\
def plain_names(state):
    """Return the state with the names that the model has without its wrappers."""
    {lines}
''')


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
            says="So many wrappers and no more are taken off, and more may come: the names of an averaged model "
            "(`AveragedModel`) of one that is spread over GPUs begin with `module.module.`, and both may be compiled.",
            example=_names(
                *_LOOP,
                '    name = name.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("_orig_mod.")',
                *_KEEP,
            ),
        ),
        "replace": Misconception(
            says="Your answer takes `module.` out of the middle of a name as well. This model has a part of its own "
            "called `decoder.module`, and its weights have lost their name. A wrapper stands in front.",
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
        "dot": Misconception(
            says="`module_list.0.weight` begins with “module” as well. It is a name of the model's own, and your "
            "answer spoils it: the dot belongs to a wrapper's name.",
            example=_names(
                *_LOOP,
                '    while name.startswith(("module", "_orig_mod")):',
                '        name = name[name.index(".") + 1 :]',
                *_KEEP,
            ),
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
    """Return a network whose body has a part that is called head as well, no tensor of it equal for two seeds."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.ModuleDict({"0": nn.Linear(3, 4), "1": nn.BatchNorm1d(4), "head": nn.Linear(4, 4)})
        model = nn.ModuleDict({"body": body, "head": nn.Linear(4, classes)})
    for value in model.state_dict().values():
        value += seed  # what is new in a BatchNorm is the same in all
    return model


def _examine_body(load_body: Any) -> None:
    import torch

    raise_for_stub(load_body, _body("model.load_state_dict(state, strict=False)"))
    old = _copy_of(_body_and_head(1, 10))
    alike = _copy_of(_body_and_head(1, 2))
    for what, state in (
        ("whose head has another size", old),
        ("whose head has the same size", alike),
        ("without a head", {name: value for name, value in old.items() if not name.startswith("head.")}),
        ("whose tensors stand in another order", _exchanged(old)),
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
        changed = {name for name in _HEAD if not torch.equal(after[name], before[name])}
        taken = all(name in state and torch.equal(after[name], state[name]) for name in changed)
        wrong_if(changed, "head" if taken else "anew")
        late = {name for name in after if name.startswith("body.") and not torch.equal(after[name], state[name])}
        wrong_if(late and late <= {name for name, _ in model.named_buffers()}, "buffers")
        wrong_if(late and all(name.startswith("body.head.") for name in late), "inside")
        wrong_if(late == {*_PAIR} and all(torch.equal(after[a], state[b]) for a, b in (_PAIR, _PAIR[::-1])), "order")
        wrong_if(late, f"from a file {what} the body did not arrive whole")
    for what, state in _unfit(old).items():
        _refused(load_body, what, state, old)


_HEAD = ("head.weight", "head.bias")
_PAIR = ("body.1.weight", "body.1.bias")  # of one shape


def _exchanged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which two names stand in each other's place, each with its own tensor."""
    place = dict(zip(_PAIR, reversed(_PAIR), strict=True))
    return {place.get(name, name): state[place.get(name, name)] for name in state}


def _unfit(old: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return states that are to be refused: what is the matter, or the misconception of whoever takes it -> state."""
    import torch

    return {
        "silent": {f"module.{name}": value for name, value in old.items()},
        "missing": {name: value for name, value in old.items() if name != "body.1.running_mean"},
        "leftover": {**old, "body.2.weight": torch.ones(4, 4)},
        "renamed": {name.replace("running_mean", "running_average"): value for name, value in old.items()},
        "a tensor of another shape was not refused": {**old, "body.1.weight": torch.ones(7)},
        "numbers": {**old, "body.0.weight": old["body.0.weight"].T.contiguous()},
        "a file with nothing that fits was not refused": {"weight": torch.ones(2)},
    }


def _refused(load_body: Any, what: str, state: dict[str, Tensor], old: Mapping[str, Tensor]) -> None:
    """Raise unless a file that does not fit is refused by ValueError, and the model is then as it was."""
    import torch

    model = _body_and_head(2, 2)
    for part in (model, model.get_submodule("body")):
        part.register_load_state_dict_pre_hook(_note_restoring)
    before = _copy_of(model)
    raised: Exception | None = None
    try:
        load_body(model, dict(state))
    except Exception as error:
        raised = error
    after = model.state_dict()
    if raised is None:
        arrived = all(torch.equal(value, old[key]) for key, value in after.items() if key.startswith("body."))
        if what == "silent" and arrived:
            return  # the prefix was taken off: more than was asked for
        raise WrongAnswerError(what)
    restoring = any(hasattr(part, _RESTORED) for part in model.modules())
    wrong_if(not _holds(model, before), "memory" if restoring else "half")
    if not isinstance(raised, ValueError):
        found = first_line(raised).removesuffix(": ")
        raise WrongAnswerError(f"for a file that does not fit: expected ValueError, found {found}") from raised


_RESTORED = "_was_given_what_it_holds"


def _note_restoring(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Note in a module that it is loaded from the very tensors that it holds."""
    own = module.state_dict(prefix=prefix)
    if state and all(name in own and value.data_ptr() == own[name].data_ptr() for name, value in state.items()):
        setattr(module, _RESTORED, True)


_body = form('''\
def load_body(model, state):
    """Fill the `body`, or raise ValueError and change nothing."""
    {lines}
''')


_TAKE = 'body = {k: v for k, v in state.items() if not k.startswith("head.")}'
_LOAD = "model.load_state_dict(body, strict=False)"
_FOUND = "found = model.load_state_dict(body, strict=False)"
_RAISE = '    raise ValueError("the body in the file is not that of the model")'
_OWN = 'own = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}'
_COMPARE = "if own.keys() != body.keys() or any(own[k].shape != body[k].shape for k in own):"

BODY = Exercise(
    asks="A new head",
    answer="load_body",
    expects="a function",
    examine=_examine_body,
    misconceptions={
        "size": Misconception(
            says="The old head has another size, and torch raises an error, with `strict=False` as without: that "
            "forgives names that do not fit, never shapes. Take the head out of the state before you load it.",
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
        "anew": Misconception(
            says="The head has changed, and what it holds now is not the file's: it was to stay as it was made. Leave "
            "it alone.",
            example=_body(_TAKE, _OWN, _COMPARE, _RAISE, _LOAD, "model.head.reset_parameters()"),
        ),
        "silent": Misconception(
            says="A file that was saved from a wrapped model (`module.body.0.weight`) was taken without a word, and "
            "nothing of it has arrived. `load_state_dict` returns what was missing and what was left over: look at it.",
            example=_body(_TAKE, _LOAD),
        ),
        "inside": Misconception(
            says="`body.head.weight` has “head” in the middle of its name, and is a part of the body: it did not "
            "arrive. The head's own names begin with `head.`.",
            example=_body(
                'body = {k: v for k, v in state.items() if "head" not in k}',
                'own = {k: v for k, v in model.state_dict().items() if "head" not in k}',
                _COMPARE,
                _RAISE,
                _LOAD,
            ),
        ),
        "buffers": Misconception(
            says="The parameters arrived, and BatchNorm's running averages (`body.1.running_mean`) did not. They are "
            "buffers: not trained, so not among the parameters, and a part of the state all the same.",
            example=_body(
                _TAKE,
                _OWN,
                _COMPARE,
                _RAISE,
                "for name, weight in model.named_parameters():",
                "    if name in body:",
                "        weight.data.copy_(body[name])",
            ),
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
                _OWN,
                "if not own.keys() <= body.keys():",
                _RAISE,
                _LOAD,
            ),
        ),
        "renamed": Misconception(
            says="The file has as many names as the body, and one of them is another (`body.1.running_average`, not "
            "`body.1.running_mean`): it is the file of another network, and nobody was told. Compare the names, not "
            "how many there are.",
            example=_body(
                _TAKE,
                _OWN,
                "if len(own) != len(body) or any(own[k].shape != body[k].shape for k in own.keys() & body.keys()):",
                _RAISE,
                _LOAD,
            ),
        ),
        "order": Misconception(
            says="In this file `body.1.bias` stands before `body.1.weight`, and each went into the other's place: they "
            "have the same shape, so nothing complained. Go by the names, not by the order.",
            example=_body(
                _TAKE,
                _OWN,
                "if [v.shape for v in own.values()] != [v.shape for v in body.values()]:",
                _RAISE,
                "for mine, value in zip(own.values(), body.values()):",
                "    mine.copy_(value)",
            ),
        ),
        "numbers": Misconception(
            says="A weight of shape (3, 4) was taken for one of (4, 3): as many numbers, in another order, so another "
            "layer. Compare shapes, not how many numbers there are.",
            example=_body(
                _TAKE,
                _OWN,
                _COMPARE.replace("shape", "numel()"),
                _RAISE,
                "for name, value in own.items():",
                "    value.copy_(body[name].reshape(value.shape))",
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
        "memory": Misconception(
            says="You kept the old weights to put them back, and they had changed along: `state_dict()` shares its "
            "memory with the model. Clone each tensor. Or compare names and shapes first: then there is nothing to put "
            "back.",
            example=_body(
                _TAKE,
                "before = model.state_dict()",
                _FOUND,
                'if found.unexpected_keys or any(not name.startswith("head.") for name in found.missing_keys):',
                "    model.load_state_dict(before)",
                _RAISE,
            ),
        ),
    },
    hint="Two dicts, `model.state_dict()` and the state, each without the head. Names and shapes are equal: load. "
    "Otherwise raise, before anything is loaded.",
    solution=_body(_TAKE, _OWN, _COMPARE, _RAISE, _LOAD),
    why="The body arrived whole, whatever head the file had, and one that does not fit changed nothing. The "
    "library's `load_weights` is of this kind: it decides what fits before it fills, and says what it did.",
)


LESSON = Lesson(
    prediction="04.2",
    questions={"04.1": LOWER, "04.2": PREDICTION, "04.3": USE, "04.4": NAMES, "04.5": BODY},
)
