"""What differs between two checkpoints as rows, in the order in which it matters, and which part each belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from koemorph_tutorial.stubs import TensorStub
from koemorph_tutorial.text import json_text

from .arrays import Change
from .pairs import Steps, path_text

# What matters first stands first.
SECTIONS = ("damage", "model", "place", "metrics", "weights", "optimizer", "states", "config", "random", "metadata")
_WHATS = ("damaged", "where", "prefix", "only in A", "only in B", "shape", "dtype", "renamed", "code", "value", "order")

WEIGHTS = "weights"  # the first step to weights that the two files keep in different places

_PLACE = {"epoch", "epochs", "global_step", "step", "steps", "iteration", "iter", "position", "run", "batch"}
_METRICS = {"metrics", "metric", "loss", "losses", "accuracy", "acc"}
_CONFIG = {"config", "cfg", "args", "hyper_parameters", "hparams", "hparams_name", "settings"}
_METADATA = {"metadata", "__metadata__", "pytorch-lightning_version", "version", "git_commit", "timestamp"}
_STATES = ("scheduler", "loader", "sampler", "scaler", "early_stopping", "callbacks", "loops")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that differs.

    `section` is one of `SECTIONS`; `where` is the path of it in the file (where the two keep their weights in different
    places, "weights" and the name); `what` says how it differs: "only in A", "only in B", "shape", "dtype", "value",
    "order", "renamed" (to `b`, the same bits), "numbers" (of a tensor, with the `change`), "where" (the weights stand
    in another place of the file), "prefix" (of their names), "code" (a record of TorchScript's code or constants),
    "damaged", "not compared". `a` and `b` are what is there: numbers, text, lists of them. `tensor` says whether it is
    one tensor.
    """

    section: str
    where: str
    what: str
    a: Any = None
    b: Any = None
    tensor: bool = False
    change: Change | None = None
    steps: Steps = field(default=(), repr=False, compare=False)

    @property
    def name(self) -> str:
        """The last of `where`, of a weight all but the state dict that it is in."""
        if self.section in ("weights", "model") and len(self.steps) > 1:
            return path_text(self.steps[1:])
        return self.where

    def to_plain(self) -> dict[str, Any]:
        """Return the row as containers for JSON."""
        plain = {name: getattr(self, name) for name in ("section", "where", "what", "a", "b")}
        return {**plain, "change": self.change.to_plain()} if self.change else plain

    def order(self) -> tuple[int, bool, int, float]:
        """Return what rows are sorted by: the section, what differs, the larger relative change first."""
        what = _WHATS.index(self.what) if self.what in _WHATS else len(_WHATS)
        moved = self.change.relative if self.change and self.section == "weights" else 0.0
        return SECTIONS.index(self.section), self.steps[:1] == ("run",), what, -moved


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between the checkpoints `a` and `b`, two paths; as text, one sentence.

    `rows` are what differs, what matters first: the model (which tensors, shapes, dtypes), where the runs are, metrics,
    weights, optimizers, other states, config, random states, metadata. `identical` is true where there are none: then
    every value of both object trees is equal and every tensor bitwise equal, whatever container holds them (`kinds`)
    and in whichever order the keys of its dicts stand. `tensors` counts, by what they are, the tensors that stand in
    both, and how many of those are bitwise equal; `values` counts the other values that are equal.
    """

    a: str
    b: str
    kinds: tuple[str, str]
    same: str
    rows: tuple[Row, ...]
    tensors: Mapping[str, tuple[int, int]]
    values: int
    sentence: str

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not self.rows

    def to_json(self) -> str:
        """Return one JSON object with every row; a number that is not finite is null there."""
        plain = {name: getattr(self, name) for name in ("a", "b", "identical", "sentence", "same", "kinds", "values")}
        tensors = {name: {"compared": both, "equal": equal} for name, (both, equal) in self.tensors.items()}
        return json_text({**plain, "tensors": tensors, "rows": [row.to_plain() for row in self.rows]})

    def __str__(self) -> str:
        return self.sentence


def is_alone(row: Row) -> bool:
    """Say whether a row is a part of a checkpoint that the other one does not have at all."""
    return row.what.startswith("only in ") and len(row.steps) == 1 and not row.tensor


class Sections:
    """Which part of a checkpoint something belongs to, by its path in the file."""

    def __init__(self, a: Any, b: Any) -> None:
        trees = [tree for tree in (a, b) if isinstance(tree, dict)]
        items = [item for tree in trees for item in tree.items()]
        self._optimizers = {key for key, value in items if is_optimizer(value)}
        if any(map(is_optimizer, trees)):  # an optimizer's state alone
            self._optimizers |= {"state", "param_groups"}
        known: dict[int, bool] = {}
        self._weights = {key for key, value in items if _holds_weights(value, known)}
        self._alone = any(_holds_weights(tree, known) for tree in trees)

    def of(self, steps: Steps, value: Any) -> str:
        """Return the section of what stands at `steps`; `value` is what does."""
        top = steps[0] if steps else ""
        low = top.lower() if type(top) is str else ""
        if low == "metadata" and len(steps) > 2 and steps[1] in ("objects", "settings"):
            return "optimizer" if f"{steps[2]}_state_dict" in self._optimizers else "states"
        if steps[:2] == ("run", "keep"):
            return "config"
        if steps == ("trainer", "iteration"):  # of Ignite
            return "place"
        if low == "format_version":
            return "model"
        if top in self._weights or top == WEIGHTS:
            return "weights"
        if top in self._optimizers or "optim" in low:
            return "optimizer"
        for section, names in (("place", _PLACE), ("metrics", _METRICS), ("config", _CONFIG), ("metadata", _METADATA)):
            if low in names:
                return section
        if low.startswith("best"):
            return "metrics"
        if "rng" in low or "random" in low:
            return "random"
        if any(word in low for word in _STATES) or not isinstance(value, TensorStub):
            return "states"
        return "weights" if self._alone or _is_float(value) else "states"


def is_optimizer(value: Any) -> bool:
    """Say whether a value is an optimizer's state, or a list of them."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and isinstance(first.get("param_groups"), list) and "state" in first


def _holds_weights(value: Any, known: dict[int, bool], depth: int = 0) -> bool:
    """Say whether a dict is a state dict of a module, or made of such: tensors by their names, some of real numbers.

    `known` has the answers so far: a dict may be in a file once and in its tree many times.
    """
    if not isinstance(value, dict) or not value or is_optimizer(value) or depth > 2:
        return False
    if id(value) not in known:
        known[id(value)] = False  # should it hold itself
        tensors = [item for item in value.values() if isinstance(item, TensorStub)]
        if tensors:
            known[id(value)] = 2 * len(tensors) >= len(value) and any(map(_is_float, tensors))
        else:
            known[id(value)] = all(_holds_weights(item, known, depth + 1) for item in value.values())
    return known[id(value)]


def _is_float(stub: TensorStub) -> bool:
    return stub.dtype.startswith(("float", "bfloat", "complex"))
