"""Settings from text and back: ``key=value`` of a command line, plain containers of a checkpoint, YAML of a file.

OmegaConf parses, merges and prints. What it would bend in silence (2 to True, no to False, 010 to 8), and every
interpolation, is refused before it sees it.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import Container, OmegaConf

from koemorph_tutorial.training.settings import Config, ConfigError, DataConfig, ModelConfig, TrainingConfig

__all__ = ["Config", "ConfigError", "DataConfig", "ModelConfig", "TrainingConfig", "load_config", "to_plain", "to_yaml"]

_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    tuple[int, ...]: "a list of whole numbers, like [1, 2]",
    tuple[str, ...]: "a list of names, like [a, b]",
}
# Decimal, without leading zeros; alone or in a list.
_NUMBER = r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?"
_PLAIN_NUMBERS = re.compile(rf"null|~|\[?\s*({_NUMBER}\s*,\s*)*{_NUMBER}\s*\]?")


def to_plain(config: Config) -> dict[str, Any]:
    """Return the settings as nested dicts, lists, numbers, words, booleans and None: what a checkpoint may hold.

    The way back is ``load_config([], base=plain)``.

    >>> to_plain(Config())["training"]["checkpoint"]["milestones"]
    [10, 25, 50, 100, 200]
    """
    plain: dict[str, Any] = asdict(config, dict_factory=_lists_for_tuples)
    return plain


def _lists_for_tuples(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


def to_yaml(config: Config) -> str:
    """Return the settings as the text of a YAML file."""
    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def load_config(overrides: Sequence[str], base: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of `base`, where it has them, else the defaults, with ``key=value`` overrides on top.

    Keys are full names (``training.checkpoint.save_freq=2``), values are YAML (``data.test_speakers=[aki]``). `base` is
    what `to_plain` returned, whole or in part. It may come out of a stranger's checkpoint, so an interpolation such as
    ``${oc.env:HOME}`` is refused and never resolved. Raises ConfigError, in one line, for whatever is not right.

    >>> load_config(["training.epochs=2", "training.checkpoint.keep_last_n=null"]).training.epochs
    2
    >>> load_config(["lr=0.1"])
    Traceback (most recent call last):
        ...
    koemorph_tutorial.training.settings.ConfigError: lr: there is no such setting; did you mean training.lr?
    """
    if isinstance(base, Container):
        base = OmegaConf.to_container(base, resolve=False)
    if base and not isinstance(base, Mapping):
        raise ConfigError(f"config: expected settings by their names, found {_short(_show(base))}")
    kinds = _kinds(Config)
    nested: dict[str, Any] = {}
    for key, value, text in [*_walk(base or {}, kinds), *(_parse(override, kinds) for override in overrides)]:
        _check(key, value, text, kinds)
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), nested))
    except ConfigError:
        raise
    except ValueError as error:  # CheckpointSettings knows its fields, but not where they live here
        raise ConfigError(f"training.checkpoint.{error}") from None
    assert isinstance(config, Config)
    return config


def _kinds(of: type, prefix: str = "") -> dict[str, Any]:
    """Return the type of every setting by its full name."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(of).items():
        if isinstance(kind, type) and is_dataclass(kind):
            kinds |= _kinds(kind, f"{prefix}{name}.")
        else:
            kinds[prefix + name] = kind
    return kinds


def _walk(base: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object, None]]:
    """Yield full name and value of every setting in nested mappings; None, since there is no text to quote."""
    for name, value in base.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and any(known.startswith(f"{key}.") for known in kinds):
            yield from _walk(value, kinds, f"{key}.")
        else:
            yield key, value, None


def _parse(override: str, kinds: Mapping[str, Any]) -> tuple[str, object, str]:
    """Return full name, value and text of one ``key=value``."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{_short(repr(override))}: expected key=value, for example training.epochs=8")
    key, text = key.strip(), text.strip()
    if key in kinds and _is_numeric(kinds[key]) and not _PLAIN_NUMBERS.fullmatch(text):
        return key, text, text  # refused as it stands: YAML reads 010 as 8, 1:30 as 90 and nan as a word
    try:
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except Exception as error:  # the parser's own errors are of many families, and several lines each
        raise ConfigError(
            f"{_short(key)}: expected a YAML value, found {_short(text)}; put quotes around text"
        ) from error
    return key, parsed["value"], text


def _check(key: str, value: object, text: str | None, kinds: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the setting exists and the value is of its type: OmegaConf would turn 2 into True."""
    if key not in kinds:
        raise ConfigError(f"{_short(key)}: {_hint(key, kinds)}")
    found = _show(value) if text is None else text or "nothing"
    if "${" in found or "???" in found:
        raise ConfigError(f"{key}: expected a value, found {_short(found)}; nothing is filled in for it, write it out")
    kind = kinds[key]
    choices = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not any(_fits(value, choice) for choice in choices):
        expected = " or ".join(_EXPECTED[choice] for choice in choices)
        # YAML has its own idea of no, on and 5; quotes for the shell around quotes for YAML keep them text.
        advice = f"; write {key}=\"'{text}'\"" if text and str in choices else ""
        raise ConfigError(f"{key}: expected {expected}, found {_short(found)}{advice}")


def _fits(value: object, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]  # not NaN
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind is int:
        return type(value) is int and abs(value) < 2**63  # True is an int to isinstance
    return type(value) is kind


def _is_numeric(kind: Any) -> bool:
    return kind in (int, float) or any(_is_numeric(part) for part in get_args(kind))


def _hint(key: str, kinds: Mapping[str, Any]) -> str:
    """Say what could have been meant by a key that is no setting."""
    members = [known for known in kinds if known.startswith(f"{key}.")]
    if members:
        return f"this is a group of settings; set one of them, for example {members[0]}"
    by_name: dict[str, list[str]] = {}
    for known in kinds:
        by_name.setdefault(known.split(".")[-1], []).append(known)
    close = get_close_matches(key, kinds, n=1) or get_close_matches(key.split(".")[-1], by_name, n=1)
    meant = by_name.get(key.split(".")[-1]) or [full for name in close for full in by_name.get(name, [name])]
    return "there is no such setting" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def _show(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not print whole numbers of more than 4,300 digits
        return "a number too long to print"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
