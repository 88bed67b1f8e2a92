"""What a person asks of a checkpoint, from its header alone: without torch, and nothing in the file can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from koemorph_tutorial.header import Header, read_header
from koemorph_tutorial.records import Codec, PathLike, Position
from koemorph_tutorial.storage import describe_content
from koemorph_tutorial.stubs import TensorStub
from koemorph_tutorial.text import json_text, printable
from koemorph_tutorial.unpickling import Attributes

from .tree import Node, grow_tree
from .values import plain, plain_dict, plain_keys, short, whole

_STATE = "_state_dict"
_SHOWN = {"format_version", "run", "epoch", "global_step", "position", "optimizer_parameters", "metrics", "best"}
_SHOWN |= {"rng_state", "config", "metadata", "hyper_parameters", "pytorch-lightning_version"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of an optimizer: how many parameters it trains, their `names` where the file has them, the settings."""

    parameters: int
    names: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerSummary:
    """One optimizer: its groups, and how many parameters have each kind of state (``exp_avg``, …)."""

    name: str
    groups: tuple[Group, ...]
    state: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in one checkpoint file.

    `epoch`, `global_step` and `position` are None where the file does not say. Whatever came from the file is plain:
    numbers, text, lists and dicts with text as keys. `tensors` and `rest`, the bytes of everything else, add up to
    `size`; of a compressed file that is the size of what is in it, and `packed` what it takes on the disk. `foreign`
    are names in the file that would run code if it were loaded by an ordinary unpickler.
    """

    path: str
    size: int
    codec: Codec | None
    packed: int
    format: str
    format_version: int | None
    epoch: int | None
    global_step: int | None
    position: Position | None
    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    best: Mapping[str, Any]
    states: tuple[str, ...]
    other: Mapping[str, str]
    optimizers: tuple[OptimizerSummary, ...]
    schedulers: Mapping[str, Any]
    rng_state: tuple[str, ...]
    config: Any
    metadata: Mapping[str, Any]
    tensors: Node
    rest: int
    foreign: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return one JSON object with everything; a number that is not finite is null there."""
        plain = {name: value for name, value in vars(self).items() if name != "tensors"}
        plain["position"] = self.position and asdict(self.position)
        plain["optimizers"] = [asdict(optimizer) for optimizer in self.optimizers]
        return json_text({**plain, "tensors": self.tensors.to_plain()})

    def __str__(self) -> str:
        place = f"epoch {self.epoch}" if self.epoch is not None else self.format
        return f"{Path(self.path).name}: {place}; {self.tensors.numbers:,} numbers in {self.size:,} bytes"


def inspect_checkpoint(path: PathLike) -> Summary:
    """Say what is in a checkpoint file, ours or another program's, without torch and without reading its tensors.

    Raises:
        CheckpointError: no such file, no checkpoint, damaged, or a newer format: one line.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> file = save_checkpoint({"epoch": 3, "model_state_dict": {}}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> inspect_checkpoint(file.path).epoch
    3
    """
    path = Path(path)
    header = read_header(path)
    file = describe_content(path, header.content, size=header.size, inode=0)
    content: Mapping[Any, Any] = header.content
    tree = grow_tree(header)
    ours = "format_version" in content
    recipe = not ours and "model_state_dict" in content and whole(content.get("epoch")) is not None
    rng = content.get("rng_state")
    optimizers = tuple(_optimizers(content))
    ends = ("state_dict", "_states", "schedulers")
    states = tuple(n for n, value in plain_keys(content) if n.endswith(ends) and isinstance(value, (dict, list)))
    return Summary(
        path=str(path),
        size=header.size,
        codec=header.codec,
        packed=header.packed,
        format=_format(header, recipe),
        format_version=content.get("format_version", 0 if recipe else None),
        epoch=whole(content.get("epoch")),
        global_step=whole(content.get("global_step")),
        position=file.position if ours or recipe else None,
        run=plain_dict(content.get("run")),
        metrics=plain_dict(content.get("metrics")),
        best=plain_dict(content.get("best")),
        states=states,
        other={
            name: short(value)
            for name, value in plain_keys(content)
            if name not in _SHOWN and name not in states and not isinstance(value, (TensorStub, Attributes))
        },
        optimizers=optimizers,
        schedulers={
            name: plain(value)
            for name, value in plain_keys(content)
            if "scheduler" in name and isinstance(value, (dict, list))
        },
        rng_state=tuple(name for name, value in plain_keys(rng) if value not in (None, [])),
        config=plain(content.get("config", content.get("hyper_parameters"))),
        metadata=plain_dict(header.metadata or content.get("metadata")),
        tensors=tree,
        rest=header.size - tree.bytes,
        foreign=header.foreign,
        notes=tuple(_notes(header, tree, optimizers)),
    )


def _format(header: Header, recipe: bool) -> str:
    content = header.content
    if header.kind == "torchscript":
        return "an archive of TorchScript: a model and its code"
    if header.kind == "safetensors":
        return "a safetensors file: weights alone"
    old = ", in the format of torch before 1.6" if header.kind == "legacy" else ""
    return _written_by(content, recipe) + old


def _written_by(content: Mapping[Any, Any], recipe: bool) -> str:
    if "format_version" in content:
        return f"koemorph checkpoint, format version {content['format_version']}"
    if recipe:
        return "the recipe's format (version 0)"
    if "pytorch-lightning_version" in content:
        return f"a checkpoint of PyTorch Lightning {short(content['pytorch-lightning_version'])}"
    if content and all(isinstance(value, TensorStub) for value in content.values()):
        return "weights alone, with nothing to go on from"
    return "a dict of another program"


def _optimizers(content: Mapping[Any, Any]) -> Iterator[OptimizerSummary]:
    known = content.get("optimizer_parameters")
    for key, value in plain_keys(content):
        several = isinstance(value, list)
        for number, item in enumerate(value if several else [value]):
            if not isinstance(item, dict) or not isinstance(item.get("param_groups"), list):
                continue
            name = f"{key}[{number}]" if several else key.removesuffix(_STATE)
            names = known.get(name) if isinstance(known, dict) else None
            states = item.get("state")
            kinds: dict[str, int] = {}
            for state in states.values() if isinstance(states, dict) else ():
                for kind, _ in plain_keys(state):
                    kinds[kind] = kinds.get(kind, 0) + 1
            yield OptimizerSummary(name=name, groups=tuple(_groups(item["param_groups"], names)), state=kinds)


def _groups(groups: list[Any], names: Any) -> Iterator[Group]:
    for number, group in enumerate(groups):
        if isinstance(group, dict):
            own = names[number] if isinstance(names, list) and number < len(names) else []
            held = group.get("params")
            yield Group(
                parameters=len(held) if isinstance(held, (list, tuple)) else 0,
                names=tuple(
                    short(entry.get("name")) for entry in (own if isinstance(own, list) else []) if type(entry) is dict
                ),
                settings={name: plain(value) for name, value in plain_keys(group) if name != "params"},
            )


def _notes(header: Header, tree: Node, optimizers: tuple[OptimizerSummary, ...]) -> Iterator[str]:
    if not header.checksums:
        yield "it holds no checksums, so whether its bytes are as they were written cannot be told"
    named = sum(header.stored.values()) - tree.bytes
    if named:
        yield f"{named:,} bytes of tensors are in the file that nothing in it names"
    shared = [(name, leaf) for name, leaf in tree.leaves() if leaf.note]
    for name, leaf in shared[:5]:
        yield f"{printable(name)} {leaf.note}"
    if len(shared) > 5:
        yield f"{len(shared) - 5:,} more tensors share bytes, use a part of them or have none (--json names them)"
    for optimizer in optimizers:
        if optimizer.groups and not optimizer.state:
            yield f"{optimizer.name} has no state: it had made no step, or keeps none"
