"""What was found in a file or a folder as lines for a terminal: labelled, aligned, bounded, of at most `columns`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from koemorph_tutorial.rebuild import is_numpy_number
from koemorph_tutorial.text import count, cut, pad, printable, size, width, wrapped

from .folder import DirectorySummary
from .summary import OptimizerSummary, Summary
from .tree import Node
from .values import pairs_text, value_text

_MOST_ROWS = 40  # of the tree
_MOST_SIBLINGS = 12
_VERSIONS = (("package_version", "koemorph-tutorial"), ("pytorch_version", "torch"), ("python", "Python"))
_TOLD = {"timestamp", "training_time", "git_commit", "model_params", "hostname", "platform", "device"}


def file_lines(summary: Summary, columns: int) -> list[str]:
    """Return what a person wants to know of a checkpoint file."""
    rows: list[tuple[str, list[str]]] = [
        ("file", [f"{printable(summary.path)}, {summary.packed:,} bytes"]),
        ("compressed", [summary.codec, f"{summary.size:,} bytes unpacked"] if summary.codec else []),
        ("format", [summary.format]),
    ]
    if summary.epoch is not None:
        place = summary.position
        word = "" if place is None else " ended" if place.batch == 0 else " begun"
        step = [] if summary.global_step is None else [f"global step {summary.global_step:,}"]
        rows.append(("epoch", [f"{summary.epoch}{word}", *step]))
    rows += [
        ("goes on at", [str(summary.position)] if summary.position else []),
        ("metrics", pairs_text(summary.metrics)),
        ("best", _best(summary.best)),
        ("saves", _saves(summary.run)),
        ("states", [name.removesuffix("_state_dict") for name in summary.states]),
        ("random states", list(summary.rng_state)),
        *(row for optimizer in summary.optimizers for row in _optimizer(optimizer)),
        *((name.removesuffix("_state_dict"), _flat(value)) for name, value in summary.schedulers.items()),
        *_config(summary.config),
        *_provenance(summary.metadata),
        ("also in it", [f"{name}: {what}" for name, what in list(summary.other.items())[:_MOST_SIBLINGS]]),
        ("foreign names", _foreign(summary.foreign)),
        *(("note", [note]) for note in summary.notes),
    ]
    lines = [line for label, phrases in rows for line in wrapped(label, phrases, columns)]
    return [*lines, "", *_tree_lines(summary, columns)]


def directory_lines(summary: DirectorySummary, columns: int) -> list[str]:
    """Return a run's checkpoints as a table, newest first."""
    metrics = list(dict.fromkeys(name for content in summary.contents for name in content.metrics))
    codecs = any(content.codec for content in summary.contents)
    head = ["name", "", "epoch", "next", "saves", "size", *["codec"] * codecs]
    rows = []
    for content in summary.contents:
        place = content.position
        rows.append(
            [
                next((name for name in content.names if name.startswith("checkpoint_")), content.names[0]),
                " ".join(word for word, true in (("last", content.last), ("best", content.best)) if true),
                str(content.epoch),
                str(place.epoch) if place.batch == 0 else f"{place.epoch}, batch {place.batch}",
                str(content.saves),
                size(content.size),
                *[content.codec or ""] * codecs,
                *(f"{content.metrics[name]:.4g}" if name in content.metrics else "" for name in metrics),
            ]
        )
    table = [[*head, *metrics], *rows]
    widths = [max(width(row[at]) for row in table) for at in range(len(table[0]))]
    fitting = len(head)
    while fitting < len(widths) and sum(widths[: fitting + 1]) + 2 * fitting <= columns:
        fitting += 1
    names = sum(len(content.names) for content in summary.contents)
    on_disk = f"{summary.size:,} bytes on the disk"
    lines = [
        *wrapped("folder", [printable(summary.directory, 1000)], columns),
        *wrapped(
            "in it", [f"{count(len(summary.contents), 'checkpoint')} under {count(names, 'name')}", on_disk], columns
        ),
        "",
    ]
    for row in table:
        cells = [pad(cell, widths[at], left=at < 2) for at, cell in enumerate(row[:fitting])]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "next: the epoch that it goes on at"]
    if fitting < len(widths):
        lines.append(f"{count(len(widths) - fitting, 'more metric')}: in a wider terminal, or by --json")
    for name, why in summary.ignored[:12]:
        lines += wrapped("ignored", [f"{name}: {why}"], columns)
    if len(summary.ignored) > 12:
        lines += wrapped("ignored", [f"{len(summary.ignored) - 12:,} more; --json names them"], columns)
    return lines


def _best(best: Mapping[str, Any]) -> list[str]:
    words = {name: value_text(best.get(name)) for name in ("monitor", "mode", "value", "epoch")}
    if best.get("value") is None:
        return [f"no {words['monitor']} yet that counts"] if best else []
    return ["{monitor} {value} at epoch {epoch} ({mode})".format(**words)]


def _saves(run: Mapping[str, Any]) -> list[str]:
    if not run:
        return []
    line = f"{value_text(run.get('saves'))} so far in the line of runs {value_text(run.get('line'))}"
    return [line, f"went on from {value_text(run['parent'])}"] if run.get("parent") else [line]


def _foreign(names: Sequence[str]) -> list[str]:
    """Say what in the file is code to be called. A number of numpy's is such a call, and does no harm."""
    if not names:
        return []
    numpy = all(map(is_numpy_number, names))
    why = "only an unpickler that runs code reads these; nothing ran here"
    more = [f"{len(names) - 8:,} more"] if len(names) > 8 else []
    return [*names[:8], *more, "as numbers of numpy are stored" if numpy else why]


def _optimizer(optimizer: OptimizerSummary) -> Iterator[tuple[str, list[str]]]:
    label = optimizer.name
    for number, group in enumerate(optimizer.groups[:4]):
        of = f"group {number} of {len(optimizer.groups)}: " if len(optimizer.groups) > 1 else ""
        used = {name: value for name, value in group.settings.items() if value not in (None, False)}
        yield label, [f"{of}{count(group.parameters, 'parameter')}", *pairs_text(used)]
        label = ""
    if len(optimizer.groups) > 4:
        yield "", [f"{len(optimizer.groups) - 4} more groups"]
    kinds: dict[int, list[str]] = {}
    for kind, number in optimizer.state.items():
        kinds.setdefault(number, []).append(kind)
    for number, names in list(kinds.items())[:4]:
        yield "", [f"state of {count(number, 'parameter')}: {', '.join(names[:8])}"]


def _config(config: Any) -> Iterator[tuple[str, list[str]]]:
    """One row per section, in the order of the file."""
    if not isinstance(config, dict):
        yield "config", [] if config is None else [value_text(config)]
        return
    label = "config"
    sections = [("", config)]
    while sections:
        name, section = sections.pop(0)
        inner = [(f"{name}.{key}".strip("."), value) for key, value in section.items() if isinstance(value, dict)]
        phrases = pairs_text({key: value for key, value in section.items() if not isinstance(value, dict)})
        if phrases:
            yield label, [f"{name}: {phrases[0]}" if name else phrases[0], *phrases[1:]]
            label = ""
        sections[:0] = inner


def _provenance(metadata: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    when = [_time(metadata["timestamp"])] if "timestamp" in metadata else []
    if "training_time" in metadata:
        when.append(f"after {value_text(metadata['training_time'])} s of training")
    yield "saved", when
    yield "by", [f"{word} {value_text(metadata[name])}" for name, word in _VERSIONS if name in metadata]
    yield "on", [value_text(metadata[name]) for name in ("hostname", "platform", "device") if name in metadata]
    if "git_commit" in metadata:
        commit = metadata["git_commit"]
        dirty = isinstance(commit, str) and commit.endswith("-dirty")
        yield (
            "git commit",
            [value_text(commit) if commit else "none: no repository", *["files differed from it"] * dirty],
        )
    if "model_params" in metadata:
        number = metadata["model_params"]
        yield "parameters", [f"{number:,}" if type(number) is int else value_text(number)]
    known = {*_TOLD, *(name for name, _ in _VERSIONS)}
    yield "also there", pairs_text({name: value for name, value in metadata.items() if name not in known})


def _time(seconds: Any) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (TypeError, ValueError, OverflowError, OSError):
        return value_text(seconds)


def _tree_lines(summary: Summary, columns: int) -> list[str]:
    # An optimizer's state counts its parameters; where the file has their names they are shown beside the number.
    names = {
        f"{optimizer.name}_state_dict": [name for group in optimizer.groups for name in group.names]
        for optimizer in summary.optimizers
    }
    total = summary.tensors
    for depth in range(7, 0, -1):
        tree = list(_tree(total, depth, names))
        if len(tree) <= _MOST_ROWS:
            break
    rows = [
        ("tensors", "numbers", "bytes"),
        *tree,
        (f"all {count(total.tensors, 'tensor')}", f"{total.numbers:,}", f"{total.bytes:,}"),
        ("names, settings, checksums, padding", "", f"{summary.rest:,}"),
        ("the whole file" + ", unpacked" * bool(summary.codec), "", f"{summary.size:,}"),
    ]
    right = [max(len(row[at]) for row in rows) for at in (1, 2)]
    left = min(max(width(row[0]) for row in rows), columns - sum(right) - 4)
    return [
        f"{pad(cut(name, left), left)}  {numbers:>{right[0]}}  {stored:>{right[1]}}" for name, numbers, stored in rows
    ]


def _tree(
    node: Node, depth: int, names: Mapping[str, Sequence[str]], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    shown = node.children if len(node.children) <= _MOST_SIBLINGS else node.children[: _MOST_SIBLINGS - 1]
    for child in shown:
        name, indent = printable(child.name, 50), "  " * len(path)
        if path[1:] == ("state",) and name.isdecimal() and int(name) < len(names.get(path[0], ())):
            name += f"  {names[path[0]][int(name)]}"
        if not child.children:
            name += f"  {printable(child.dtype, 20)} {list(child.shape)}"
        yield _row(indent + name, [child])
        if depth > 1:
            yield from _tree(child, depth - 1, names, (*path, child.name))
    if len(shown) < len(node.children):
        more = node.children[len(shown) :]
        yield _row("  " * len(path) + f"… {len(more):,} more", more)


def _row(name: str, nodes: Sequence[Node]) -> tuple[str, str, str]:
    return name, f"{sum(node.numbers for node in nodes):,}", f"{sum(node.bytes for node in nodes):,}"


def _flat(value: Any) -> list[str]:
    if isinstance(value, list):
        return [phrase for item in value[:4] for phrase in _flat(item)]
    if isinstance(value, dict):  # what a scheduler keeps for itself is left out
        return pairs_text({name: item for name, item in value.items() if name[:1] != "_" or name == "_last_lr"})
    return [value_text(value)]
