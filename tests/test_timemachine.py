"""What the lesson on inference shows: a face that learns to speak, and a lip reader who says whether it does."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from koemorph_tutorial.storage import list_checkpoints
from koemorph_tutorial.teaching import timemachine, vowels
from koemorph_tutorial.teaching.timemachine import TimeMachine, network, train
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import ModelConfig
from koemorph_tutorial.training.trainer import KoeMorphTrainer


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of the run that the lesson trains."""
    return train(tmp_path_factory.mktemp("run"))


# --------------------------------------------------------------------------------------------- five vowels, and lips


def test_the_moments_are_those_of_a_voice_that_no_training_hears() -> None:
    audio, faces = vowels.moments()
    assert ((5, 6400), (5, 52)) == (audio.shape, faces.shape)
    assert vowels.VOWELS == vowels.read(faces)
    assert "sora" == vowels.SPEAKER


def test_a_lip_reader_takes_a_face_for_the_nearest_vowel() -> None:
    faces = vowels.moments()[1]
    assert "aaaaa" == vowels.read(faces[:1].expand(5, 52))
    assert "oeuia" == vowels.read(faces.flip(0) + 0.01)
    assert [True, False, True, False, False] == vowels.is_right("aeuoa")


def test_a_network_speaks_in_the_mode_that_it_is_in() -> None:
    model = SimplifiedKoeMorphModel()
    assert not torch.equal(vowels.say(model.train()), vowels.say(model))
    assert torch.equal(vowels.say(model.eval()), vowels.say(model))
    assert not vowels.say(model).requires_grad


class Always(torch.nn.Module):
    def __init__(self, face: torch.Tensor) -> None:
        super().__init__()
        self.face = face

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.face


def test_a_trembling_face_is_counted() -> None:
    model = SimplifiedKoeMorphModel()
    caption = vowels.trembling(model.train())[1]
    assert "One sound, an “i”, asked 12 times: 12 different faces, not all read right." == caption
    png, caption = vowels.trembling(Always(vowels.moments()[1][1:2]), times=3)
    assert "One sound, an “i”, asked 3 times: 1 different face, all read right." == caption
    assert "PNG" == Image.open(io.BytesIO(png)).format


def test_an_untrained_network_is_read_as_the_same_vowel_always() -> None:
    """The lesson shows this one; another processor makes other last bits, and the next vowel is further away."""
    torch.manual_seed(0)
    faces = vowels.say(SimplifiedKoeMorphModel(ModelConfig()).eval())
    assert ("eeeee", "always e") == (vowels.read(faces), vowels.how_read(vowels.read(faces)))
    distances = torch.cdist(faces, vowels.moments()[1]).sort(1).values
    assert (distances[:, 1] / distances[:, 0]).min() > 1.05
    assert ("all right", "not all") == (vowels.how_read("aiueo"), vowels.how_read("aiuee"))


def test_the_picture_of_the_ways_says_which_can_be_read(run: Path) -> None:
    model, _ = network(run / "last_model.pth")
    png, caption = vowels.ways({"as trained": model, "one\nface": Always(vowels.moments()[1][3:4].expand(5, 52))})
    assert "Five vowels, read from the lips: all right (as trained); always e (one face)." == caption
    image = Image.open(io.BytesIO(png))
    assert ("P", 936) == (image.mode, image.width)


# ----------------------------------------------------------------------------------------------------------- the run


def test_the_run_keeps_a_file_of_every_epoch_and_is_trained_once(run: Path) -> None:
    epochs = [file.epoch for file in list_checkpoints(run) if file.kind == "numbered"]
    assert list(range(timemachine.EPOCHS)) == sorted(epochs)
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    assert run == train(run.parent)
    assert before == {file.name: file.stat().st_mtime_ns for file in run.iterdir()}


def test_a_run_that_was_interrupted_is_trained_to_its_end(run: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    shutil.copy(run / "checkpoint_epoch_010.pth", checkpoints)
    assert checkpoints == train(tmp_path)
    assert {"checkpoint_epoch_010.pth", "checkpoint_epoch_011.pth"} < {file.name for file in checkpoints.iterdir()}
    state, other = (torch.load(f / "checkpoint_epoch_011.pth")["model_state_dict"] for f in (run, checkpoints))
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_what_the_lesson_says_of_the_run_does_not_hang_on_the_last_bits(tmp_path: Path) -> None:
    """Another processor rounds differently; here the first weights are a little off, by a hundred times as much."""
    trainer = KoeMorphTrainer(timemachine.load_config(timemachine._SMALL), tmp_path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 1e-5 * torch.randn(weight.shape, generator=generator)
    trainer.train(signals=())
    checkpoints = tmp_path / "checkpoints"
    first, last = (network(checkpoints / f"checkpoint_epoch_{epoch:03d}.pth")[0] for epoch in (0, 11))
    assert sum(vowels.is_right(vowels.read(vowels.say(first)))) <= 2
    assert vowels.VOWELS == vowels.read(vowels.say(last))
    distances = torch.cdist(vowels.say(last), vowels.moments()[1]).sort(1).values
    assert (distances[:, 1] / distances[:, 0]).min() > 1.2  # the next vowel is clearly further away
    other = SimplifiedKoeMorphModel(ModelConfig(n_fft=2048)).eval()
    other.load_state_dict(last.state_dict())
    assert vowels.VOWELS != vowels.read(vowels.say(other))
    assert vowels.trembling(last.train(), times=12)[1].endswith("12 different faces, all read right.")


def test_a_network_is_built_by_the_settings_in_its_file(tmp_path: Path) -> None:
    config = timemachine.load_config(
        [*timemachine._SMALL, "model.width=32", "training.epochs=1", "data.train_windows=16"]
    )
    KoeMorphTrainer(config, tmp_path).train(signals=())
    model, metrics = network(tmp_path / "checkpoints/last_model.pth")
    assert ((52, 32), False) == (model.queries.shape, model.training)
    assert {"loss", "mae", "train_loss"} == metrics.keys()


# --------------------------------------------------------------------------------------------------------- the widget


@pytest.fixture(scope="module")
def machine(run: Path) -> TimeMachine:
    """Return a slider that stands at the last epoch; every test leaves it there."""
    return TimeMachine(run)


def test_the_slider_moves_the_picture(machine: TimeMachine) -> None:
    assert (11, bytes(machine._image.value)) == (machine.value, machine._picture()[0])
    assert "Epoch 11, in a voice that it was not trained on: the lips say all five vowels." == machine.caption
    before = bytes(machine._image.value)
    machine._slider.value = 0
    assert (
        "Epoch 0, in a voice that it was not trained on: the lips say few of the five vowels."
        == machine._labels[0].value
    )
    assert before != bytes(machine._image.value)
    machine.value = 11
    assert (11, before) == (machine._slider.value, bytes(machine._image.value))


def test_what_is_played_begins_where_a_line_of_code_put_the_slider(machine: TimeMachine) -> None:
    machine.value = 0
    assert (0, 0) == (machine._play.value, machine._slider.value)
    machine.value = 11
    assert (11, 11) == (machine._play.value, machine._slider.value)


def test_an_epoch_that_was_not_saved_is_named(machine: TimeMachine) -> None:
    with pytest.raises(ValueError, match=r"expected one of the epochs 0, 1, .*, 11, found 12"):
        machine.value = 12
    assert (11, 11) == (machine.value, machine._play.value)


def test_between_two_files_the_slider_shows_the_earlier_one(run: Path, tmp_path: Path) -> None:
    for epoch in (2, 5):
        name = f"checkpoint_epoch_{epoch:03d}.pth"
        (tmp_path / name).write_bytes((run / name).read_bytes())
    machine = TimeMachine(tmp_path)
    machine._slider.value = 4
    assert 2 == machine.value
    assert machine.caption.startswith("Epoch 2, ")


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected numbered checkpoints, found none; train with save_freq=1"):
        TimeMachine(tmp_path)


def test_where_nothing_runs_the_picture_and_its_caption_are_there(machine: TimeMachine) -> None:
    data = machine._repr_mimebundle_()
    assert data["text/plain"].startswith("Epoch 11, ")
    assert "P" == Image.open(io.BytesIO(data["image/png"])).mode
    assert "application/vnd.jupyter.widget-view+json" in data


def test_in_plain_python_the_widget_prints_its_caption(
    machine: TimeMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.show()
    assert capsys.readouterr().out == machine.caption + "\n"
