"""By what a run keeps its files: its own settings, wherever it has written them down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from koemorph_tutorial.records import (
    LAST_NAME,
    Best,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSettings,
    UnsupportedCheckpointError,
    numbered_epoch,
)
from koemorph_tutorial.text import every, printable

_NAMES = ("keep_last_n", "keep_best_n", "milestones", "monitor", "mode")
_MOST = 1 << 20  # bytes of a config.yaml; one of a run has 2,000
_KEPT = re.compile(r"last (None|\d{1,9}), best (\d{1,9}), milestones \[((?:\d{1,9}(?:, )?)*)\]", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What says which files of a run stay: its settings, found in `source`, and every n-th epoch if asked for."""

    settings: CheckpointSettings
    source: str
    every_n: int | None = None

    @property
    def best(self) -> Best:
        """What is watched, and whether less of it is better."""
        return Best(monitor=self.settings.monitor, mode=self.settings.mode)

    def asked(self, last_n: int | None, best_n: int | None, every_n: int | None) -> Keeping:
        """Return the same with what a person asks for instead; None: nothing is asked for."""
        asked = {"keep_last_n": last_n, "keep_best_n": best_n}
        given: dict[str, Any] = {name: number for name, number in asked.items() if number is not None}
        said = "the command line and " if given or every_n is not None else ""
        return Keeping(settings=replace(self.settings, **given), source=said + self.source, every_n=every_n)

    def as_plain(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        rules = {name: getattr(self.settings, name) for name in _NAMES}
        return {**rules, "keep_every_n": self.every_n, "source": self.source}

    def __str__(self) -> str:
        last, best, milestones = (getattr(self.settings, name) for name in _NAMES[:3])
        rules = ["all" if last is None else f"the newest {last}"]
        if best:
            watched = f"by {printable(self.settings.monitor, 60)} ({self.settings.mode})"
            rules.append(f"the best {watched}" if best == 1 else f"the best {best} {watched}")
        if self.every_n is not None:
            rules.append(every(self.every_n))
        if milestones:
            more = f" and {len(milestones) - 12} more" if len(milestones) > 12 else ""
            rules.append(f"the milestone{'s' * (len(milestones) > 1)} {', '.join(map(str, milestones[:12]))}{more}")
        return f"to stay: {', '.join(rules)} (from {self.source})"


def keeping_of(folder: Path) -> Keeping:
    """Return by what the run in `folder`, its folder of checkpoints, keeps its files, without torch.

    First what ``config.yaml`` beside ``checkpoints/`` says under ``training.checkpoint``, then the config in the newest
    checkpoint, then what the `CheckpointManager` has noted in it, each where the one before says nothing; else the
    defaults.

    Raises:
        CheckpointError: no run there, or settings that cannot be used: the defaults might remove what they keep.
    """
    from koemorph_tutorial.header import read_header

    newest = _newest(folder)
    found: dict[str, Any] = {}
    sources = []
    for where, settings in _written_down(folder, newest, read_header(newest, whole=False).content):
        new = {name: settings[name] for name in _NAMES if name in settings and name not in found}
        if not new:
            continue
        try:
            CheckpointSettings(**new)
        except ValueError as error:
            message = f"{where}: training.checkpoint.{error}; put it right, or nothing says what is to stay"
            raise UnsupportedCheckpointError(message) from None
        found |= new
        sources.append(where.name)
    return Keeping(settings=CheckpointSettings(**found), source=" and ".join(dict.fromkeys(sources)) or "the defaults")


def _newest(folder: Path) -> Path:
    """Return the newest checkpoint of a run; of thousands only two are looked into, where these agree."""
    from koemorph_tutorial.storage import describe, list_checkpoints

    with suppress(OSError, ValueError, CheckpointError):
        last = describe(folder / LAST_NAME)
        epochs = {name: epoch for name in os.listdir(folder) if (epoch := numbered_epoch(name)) is not None}
        highest = describe(folder / max(epochs, key=epochs.__getitem__))
        if last.line == highest.line and last.saves >= highest.saves:
            return last.path
    listing = list_checkpoints(folder)
    if not listing:
        why = f"none that can be used ({_why(*listing.ignored[0])})" if listing.ignored else "none; check the path"
        raise CheckpointNotFoundError(f"{folder}: expected the checkpoints of a run, found {why}")
    return listing[0].path


def _written_down(folder: Path, newest: Path, content: Any) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield each place where settings may be, with what it says, first the one that counts most."""
    if folder.resolve().name == "checkpoints":
        path = folder.resolve().parent / "config.yaml"
        yield path, _checkpoint_settings(_read_yaml(path))
    content = content if isinstance(content, dict) else {}
    yield newest, _checkpoint_settings(content.get("config"))
    yield newest, _noted(content)


def _checkpoint_settings(config: Any) -> Mapping[str, Any]:
    for name in ("training", "checkpoint"):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        return None
    import yaml  # comes with omegaconf, which would fill in what a stranger's file asks for

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST + 1)
        if len(text) > _MOST:
            raise ValueError(f"more than {_MOST:,} characters")
        return yaml.safe_load(text)
    except Exception as error:  # a stranger's file can make a parser fail in any way
        why = printable(" ".join(str(error).split()), 200) or type(error).__name__
        raise UnsupportedCheckpointError(f"{path}: expected the config of a run, in YAML, found {why}") from None


def _noted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `CheckpointManager` has noted in a checkpoint of the settings that it was given."""
    run, best = content.get("run"), content.get("best")
    keep = run.get("keep") if isinstance(run, dict) else None
    noted: dict[str, Any] = {}
    match = _KEPT.fullmatch(keep) if isinstance(keep, str) else None
    if match is not None:
        last, count, milestones = match.groups()
        noted["keep_last_n"] = None if last == "None" else int(last)
        noted["keep_best_n"] = int(count)
        noted["milestones"] = [int(epoch) for epoch in milestones.split(", ") if epoch]
    if isinstance(best, dict):
        noted |= {name: best[name] for name in ("monitor", "mode") if name in best}
    return noted


def _why(name: str, error: CheckpointError) -> str:
    return printable(str(error) if name in str(error) else f"{name}: {error}", 300)
