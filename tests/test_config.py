"""Settings: where they come from, and that whatever is wrong with one is said in one line before anything happens."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from koemorph_tutorial.records import CheckpointSettings
from koemorph_tutorial.training.config import (
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    load_config,
    to_plain,
    to_yaml,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Draw a config with settings of every type, all within their ranges."""
    checkpoint = CheckpointSettings(
        save_freq=draw(st.integers(1, 10**9)),
        milestones=tuple(draw(st.lists(st.integers(0, 10**9), max_size=4))),
        save_best_only=draw(st.booleans()),
        keep_last_n=draw(st.none() | st.integers(2, 10**9)),
        monitor=draw(st.sampled_from(["loss", "mae", "train_loss"])),
        mode=draw(st.sampled_from(["min", "max"])),
        every_minutes=draw(st.none() | st.floats(1e-9, 1e9)),
    )
    training = TrainingConfig(
        epochs=draw(st.integers(1, 100_000)),
        lr=draw(st.floats(0, 10, exclude_min=True)),
        patience=draw(st.none() | st.integers(1, 100)),
        device=draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:1"])),
        checkpoint=checkpoint,
    )
    data = DataConfig(
        seed=draw(st.integers(0, 2**32 - 1)), test_speakers=draw(st.sampled_from([("ren",), ("mei", "ren")]))
    )
    return Config(seed=draw(st.integers(0, 2**32 - 1)), data=data, training=training)


@settings(max_examples=30, deadline=None)
@given(config=configs())
def test_a_config_comes_back_from_plain_containers_and_from_yaml(config: Config) -> None:
    """What is stored in a checkpoint, and what stands beside it, mean the same run."""
    assert config == load_config([], base=to_plain(config))
    assert config == load_config([], base=yaml.safe_load(to_yaml(config)))


@settings(max_examples=30, deadline=None)
@given(config=configs())
def test_a_config_comes_back_from_its_settings_typed_one_by_one(config: Config) -> None:
    """Whatever value is allowed can also be given on the command line."""
    overrides = []

    def collect(plain: dict[str, Any], prefix: str) -> None:
        for name, value in plain.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{name}.")
            else:
                overrides.append(f"{prefix}{name}={OmegaConf.to_yaml([value])[2:].strip()}")

    plain = to_plain(config)
    lists = {"milestones": plain["training"]["checkpoint"].pop("milestones")}
    lists |= {name: plain["data"].pop(name) for name in ("train_speakers", "validation_speakers", "test_speakers")}
    collect(plain, "")
    overrides += [f"data.{name}=[{', '.join(lists[name])}]" for name in lists if name != "milestones"]
    overrides += [f"training.checkpoint.milestones={lists['milestones']}"]
    assert config == load_config(overrides)


def test_plain_containers_hold_nothing_that_weights_only_loading_refuses() -> None:
    """A tuple would pass, but come back from YAML as a list; an OmegaConf object would be refused."""
    found = set()

    def walk(value: object) -> None:
        found.add(type(value))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    walk(to_plain(Config()))
    assert {dict, list, int, float, str, bool, type(None)} == found


def test_overrides_win_over_the_base_and_the_last_one_wins() -> None:
    """The base is what a checkpoint says, whole or in part; the rest are the defaults."""
    base = {"training": {"lr": 1, "epochs": 3}, "data": {}}
    config = load_config(["training.epochs=4", "training.epochs=5", "training.checkpoint.milestones=[]"], base=base)
    assert (1.0, 5, ()) == (config.training.lr, config.training.epochs, config.training.checkpoint.milestones)
    assert replace(Config().training, lr=1.0, epochs=5, checkpoint=CheckpointSettings(milestones=())) == config.training
    assert Config() == load_config([]) == load_config([], base={})


BAD_OVERRIDES = {
    "training.lr=nan": "training.lr: expected a finite number, found nan",
    "training.lr=.inf": "training.lr: expected a finite number, found .inf",
    "training.lr=1e999": "training.lr: expected a finite number, found 1e999",
    "training.lr=": "training.lr: expected a finite number, found nothing",
    "training.lr='0.1'": "training.lr: expected a finite number, found '0.1'",
    "training.lr=-1": "training.lr: expected a number above 0, up to 10, found -1.0",
    "training.lr=0": "training.lr: expected a number above 0, up to 10, found 0.0",
    "training.epochs=2.0": "training.epochs: expected a whole number, found 2.0",
    "training.epochs=true": "training.epochs: expected a whole number, found true",
    "training.epochs=0": "training.epochs: expected a whole number from 1 to 100000, found 0",
    "training.patience=0": "training.patience: expected a whole number from 1 to 100000, found 0",
    "training.device=tpu": "training.device: expected auto, cpu, cuda or cuda:N, found 'tpu'",
    "training.batch_size=321": "training.batch_size: expected a whole number from 1 to 320, found 321",
    "training.checkpoint.save_freq=0": (
        "training.checkpoint.save_freq: expected a whole number of epochs from 1, found 0"
    ),
    "training.checkpoint.save_freq=-3": (
        "training.checkpoint.save_freq: expected a whole number of epochs from 1, found -3"
    ),
    "training.checkpoint.keep_last_n=1": (
        "training.checkpoint.keep_last_n: expected 2 or more, or null to keep all, found 1; all names of the newest "
        "save share one copy of its bytes, so one more file is the only second copy"
    ),
    # What OmegaConf alone would have accepted.
    "training.checkpoint.save_best_only=2": ("training.checkpoint.save_best_only: expected true or false, found 2"),
    "training.checkpoint.monitor=no": (
        "training.checkpoint.monitor: expected text, found no; write training.checkpoint.monitor=\"'no'\""
    ),
    "training.checkpoint.monitor='no'": (
        "training.checkpoint.monitor: expected one of loss, mae, train_loss, found 'no'"
    ),
    "training.checkpoint.mode=5": (
        "training.checkpoint.mode: expected text, found 5; write training.checkpoint.mode=\"'5'\""
    ),
    "seed=010": "seed: expected a whole number, found 010",
    "seed=1:30": "seed: expected a whole number, found 1:30",
    "seed=0x10": "seed: expected a whole number, found 0x10",
    "seed=1_000": "seed: expected a whole number, found 1_000",
    "seed=${oc.env:KOEMORPH_SECRET}": (
        "seed: expected a value, found ${oc.env:KOEMORPH_SECRET}; nothing is filled in for it, write it out"
    ),
    "training.device=${oc.env:KOEMORPH_SECRET}": (
        "training.device: expected a value, found ${oc.env:KOEMORPH_SECRET}; nothing is filled in for it, write it out"
    ),
    "training.device=???": "training.device: expected a value, found ???; nothing is filled in for it, write it out",
    "training.checkpoint.milestones=[1, 010]": (
        "training.checkpoint.milestones: expected a list of whole numbers, like [1, 2], found [1, 010]"
    ),
    "training.checkpoint.milestones=5": (
        "training.checkpoint.milestones: expected a list of whole numbers, like [1, 2], found 5"
    ),
    "data.test_speakers=mei": "data.test_speakers: expected a list of names, like [a, b], found mei",
    "data.test_speakers=[bob]": (
        "data.test_speakers: expected speakers out of haru, aki, ren, yuki, sora, mei, found 'bob'"
    ),
    "data.test_speakers=[aki]": (
        "data.test_speakers: expected nobody who is in data.train_speakers already, found 'aki'"
    ),
    "data.test_speakers=[]": "data.test_speakers: expected a tuple of at least one name, found ()",
    "data.seconds=2": (
        "data.train_windows: expected a whole number from 1 to 160, which is what data.seconds holds, found 320"
    ),
    "data.window_seconds=0.01": "data.window_seconds: expected a number from 0.032 to 10, found 0.01",
    "model.width=65": "model.width: expected a multiple of 4 (2 and model.heads), found 65",
    "model.n_fft=4096 model.hop=320": "model.n_fft: expected a whole number, found 4096 model.hop=320",
    # Keys.
    "lr=nan": "lr: there is no such setting; did you mean training.lr?",
    "training.seed=1": "training.seed: there is no such setting; did you mean seed or data.seed?",
    "training.epoch=3": "training.epoch: there is no such setting; did you mean training.epochs?",
    "--training.lr=3": "--training.lr: there is no such setting; did you mean training.lr?",
    "training.checkpoint.savefreq=3": (
        "training.checkpoint.savefreq: there is no such setting; did you mean training.checkpoint.save_freq?"
    ),
    "training=3": "training: this is a group of settings; set one of them, for example training.epochs",
    "colour=blue": "colour: there is no such setting",
    "train": "'train': expected key=value, for example training.epochs=8",
    "training.device=[1": "training.device: expected a YAML value, found [1; put quotes around text",
    "training.device=!!python/object/apply:os.getcwd []": (
        "training.device: expected a YAML value, found !!python/object/apply:os.getcwd []; put quotes around text"
    ),
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_bad_override_is_one_line_that_says_which_and_what_was_expected(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing out of the environment gets into it."""
    monkeypatch.setenv("KOEMORPH_SECRET", "3141592653")
    with pytest.raises(ConfigError) as refused:
        load_config([override])
    line = str(refused.value)
    assert BAD_OVERRIDES[override] == line
    assert "\n" not in line
    assert "3141592653" not in line
    assert isinstance(refused.value, ValueError)


BAD_BASES: list[tuple[Any, str]] = [
    ({"training": {"lr": math.nan}}, "training.lr: expected a finite number, found nan"),
    ({"training": {"lr": True}}, "training.lr: expected a finite number, found True"),
    ({"training": {"lr": "0.1"}}, "training.lr: expected a finite number, found '0.1'"),
    ({"training": {"lr": 10**400}}, "training.lr: expected a finite number, found 1"),
    ({"training": {"lr": {"value": 1}}}, "training.lr: expected a finite number, found {'value': 1}"),
    ({"training": 3}, "training: this is a group of settings; set one of them, for example training.epochs"),
    (
        {"training": {"checkpoint": {"save_best_only": 2}}},
        "training.checkpoint.save_best_only: expected true or false, found 2",
    ),
    (
        {"training": {"checkpoint": {"monitor": False}}},
        "training.checkpoint.monitor: expected text, found False",
    ),
    ({"data": {"test_speakers": "mei"}}, "data.test_speakers: expected a list of names, like [a, b], found 'mei'"),
    (
        {"training": {"device": "${oc.env:KOEMORPH_SECRET}"}},
        "training.device: expected a value, found '${oc.env:KOEMORPH_SECRET}'; nothing is filled in for it, "
        "write it out",
    ),
    (
        {"data": {"test_speakers": ["${oc.env:KOEMORPH_SECRET}"]}},
        "data.test_speakers: expected a value, found ['${oc.env:KOEMORPH_SECRET}']; nothing is filled in for it, "
        "write it out",
    ),
    ({"${oc.env:KOEMORPH_SECRET}": 1}, "${oc.env:KOEMORPH_SECRET}: there is no such setting"),
    ({3: 4}, "3: there is no such setting"),
    ([1], "config: expected settings by their names, found [1]"),
    ({"optimizer": {"lr": 1}}, "optimizer: there is no such setting"),
    ({"seed": 10**5000}, "seed: expected a whole number, found a number too long to print"),
]


@pytest.mark.parametrize(("base", "start"), BAD_BASES)
def test_a_config_out_of_a_strangers_checkpoint_is_read_as_data(
    base: Any, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No interpolation is resolved, no value bent, whether it comes plain or as an OmegaConf object."""
    monkeypatch.setenv("KOEMORPH_SECRET", "3141592653")
    for form in (base, OmegaConf.create(base)):
        with pytest.raises(ConfigError) as refused:
            load_config([], base=form)
        line = str(refused.value)
        assert line.startswith(start)
        assert "\n" not in line
        assert "3141592653" not in line
        assert len(line) < 250


def outcome(overrides: list[str], base: dict[str, Any] | None = None) -> str:
    """Return the line of the error, or the first word of the config."""
    try:
        return type(load_config(overrides, base=base)).__name__
    except ConfigError as error:
        return str(error)


def test_a_config_that_holds_itself_is_refused() -> None:
    """Pickle can write such a dict, and walking down into it would not end."""
    base: dict[str, Any] = {"seed": 1}
    base["training"] = {"lr": base}
    base["more"] = base
    assert outcome([], base).startswith("training.lr: expected a finite number, found {'seed': 1")
    del base["training"]
    assert outcome([], base).startswith("more: there is no such setting")


@settings(max_examples=150, deadline=None)
@given(
    key=st.sampled_from(["seed", "training.lr", "training.device", "data.test_speakers", "data", "x"]), value=st.text()
)
def test_no_text_at_all_gives_anything_but_a_config_or_one_line(key: str, value: str) -> None:
    """Whatever is typed, pasted or mangled by a shell."""
    assert 1 == len(outcome([f"{key}={value}"]).splitlines())
    assert 1 == len(outcome([f"{value}={key}"]).splitlines())


@settings(max_examples=30, deadline=None)
@given(
    base=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["seed", "data", "training", "lr", "checkpoint", "monitor", "a.b"]), inner
            )
        ),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict))
)
def test_no_containers_at_all_give_anything_but_a_config_or_one_line(base: dict[str, Any]) -> None:
    """A checkpoint's config may be anything."""
    assert 1 == len(outcome([], base).splitlines())


def test_settings_cannot_be_changed_and_are_named_when_made() -> None:
    """Frozen and keyword-only, as every record."""
    with pytest.raises(FrozenInstanceError):
        Config().seed = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainingConfig(3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("made", "values", "line"),
    [
        (TrainingConfig, {"lr": math.nan}, "training.lr: expected a number above 0, up to 10, found nan"),
        (TrainingConfig, {"lr": True}, "training.lr: expected a number above 0, up to 10, found True"),
        (TrainingConfig, {"noise": math.inf}, "training.noise: expected a number from 0 to 1, found inf"),
        (TrainingConfig, {"device": None}, "training.device: expected auto, cpu, cuda or cuda:N, found None"),
        (TrainingConfig, {"checkpoint": {}}, "training.checkpoint: expected CheckpointSettings, found {}"),
        (ModelConfig, {"heads": True}, "model.heads: expected a whole number from 1 to 64, found True"),
        (ModelConfig, {"dropout": 0.95}, "model.dropout: expected a number from 0 to 0.9, found 0.95"),
        (
            DataConfig,
            {"train_speakers": "aki"},
            "data.train_speakers: expected a tuple of at least one name, found 'aki'",
        ),
        (Config, {"model": None}, "model: expected ModelConfig, found None"),
        (Config, {"seed": 2**32}, "seed: expected a whole number from 0 to 4294967295, found 4294967296"),
        (
            Config,
            {"model": ModelConfig(n_fft=1024), "data": DataConfig(window_seconds=0.04)},
            "data.window_seconds: expected a number from 0.064 to 10, found 0.04",
        ),
    ],
)
def test_a_setting_out_of_range_fails_when_it_is_made(made: Any, values: dict[str, Any], line: str) -> None:
    """Before the training, not an hour in; with its full name, though the dataclass knows only its own part."""
    with pytest.raises(ConfigError) as refused:
        made(**values)
    assert line == str(refused.value)
