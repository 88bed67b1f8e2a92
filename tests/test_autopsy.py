"""Five harmed files, each with the cause that it is said to have, and what each tool says of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from koemorph_tutorial.difference.compare import diff_checkpoints
from koemorph_tutorial.teaching import autopsy
from koemorph_tutorial.teaching.autopsy import CAUSES, CUT, DIVERGED, FLIPPED, LOST, PATIENTS, REMEMBERED, UNCHECKED
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.validation import validate_checkpoint

VERDICTS = {
    FLIPPED: "damaged",
    REMEMBERED: "sound",
    LOST: "damaged",
    DIVERGED: "incomplete",
    UNCHECKED: "cannot tell",
}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of the example and, in `five`, the harmed ones."""
    folder = tmp_path_factory.mktemp("autopsy")
    torch.manual_seed(0)
    model = SimplifiedKoeMorphModel()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 6400)).sum().backward()
    optimizer.step()
    states = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({"epoch": 3, "config": {}, "metrics": {"loss": 0.5}, **states}, folder / "good.pth")
    autopsy.lay_out(folder / "good.pth", folder / "five")
    return folder


def patient(ward: Path, cause: str) -> Path:
    (name,) = [name for name, of in PATIENTS.items() if of == cause]
    return ward / "five" / name


def test_there_are_five_files_with_five_causes_and_one_cause_is_left_over(ward: Path) -> None:
    assert {*PATIENTS} == {path.name for path in (ward / "five").iterdir()}
    assert {*CAUSES} - {*PATIENTS.values()} == {CUT}
    assert 5 == len(set(PATIENTS.values()))


@pytest.mark.parametrize("cause", VERDICTS)
def test_each_gets_the_verdict_of_its_cause(ward: Path, cause: str) -> None:
    assert VERDICTS[cause] == validate_checkpoint(patient(ward, cause)).verdict


def test_the_good_file_is_sound_and_stays_as_it_was(ward: Path) -> None:
    assert validate_checkpoint(ward / "good.pth")


@pytest.mark.parametrize("cause", [FLIPPED, REMEMBERED])
def test_a_flipped_bit_is_one_number_wherever_it_flipped(ward: Path, cause: str) -> None:
    (row,) = [row for row in diff_checkpoints(ward / "good.pth", patient(ward, cause)).rows if row.change]
    assert row.change is not None
    assert (1, 31) == (row.change.differing, row.change.bit)


def test_verdicts_alone_do_not_tell_them_apart(ward: Path) -> None:
    """Two have the same verdict, and two differ from the good file by one number, the sign of a weight."""
    verdicts = [validate_checkpoint(patient(ward, cause)).verdict for cause in PATIENTS.values()]
    differing = [
        [row.change.differing for row in diff_checkpoints(ward / "good.pth", patient(ward, cause)).rows if row.change]
        for cause in PATIENTS.values()
    ]
    assert (4, 4) == (len(set(verdicts)), len(set(map(tuple, differing))))
    assert 5 == len({(verdict, tuple(numbers)) for verdict, numbers in zip(verdicts, differing, strict=True)})


def test_a_lost_block_is_a_thousand_numbers_that_are_now_zero(ward: Path) -> None:
    (row,) = [row for row in diff_checkpoints(ward / "good.pth", patient(ward, LOST)).rows if row.change]
    assert row.change is not None
    assert (1024, True) == (row.change.differing, row.change.zeroed)
    said = str(diff_checkpoints(ward / "good.pth", patient(ward, LOST)))
    assert "1,024 of 12,288 numbers of conv2.weight differ, all of them 0 in B" in said
    good, lost = ((ward / "good.pth").read_bytes(), patient(ward, LOST).read_bytes())
    blocks = {place // autopsy.BLOCK for place in range(len(good)) if good[place] != lost[place]}
    assert 1 == len(blocks)  # a whole block of the disk, and nothing beside it


def test_a_diverged_run_fits_its_checksums_and_is_nan_in_every_weight_and_in_the_loss(ward: Path) -> None:
    path = patient(ward, DIVERGED)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    checkpoint, good = torch.load(path), torch.load(ward / "good.pth")
    assert good.keys() == checkpoint.keys()
    said = str(diff_checkpoints(ward / "good.pth", path))
    assert "all numbers of all 17 weight tensors are NaN in B; loss 0.5 -> nan" in said
    assert "expected finite numbers, found 3,328 NaN of 3,328" in str(validate_checkpoint(path))


def test_a_diverged_run_is_what_one_loss_of_nan_makes_of_the_network(ward: Path) -> None:
    model = SimplifiedKoeMorphModel()
    optimizer = torch.optim.AdamW(model.parameters())
    (model(torch.randn(2, 6400)).sum() * float("nan")).backward()
    optimizer.step()
    diverged = torch.load(patient(ward, DIVERGED))
    for kept, made in (
        (diverged["model_state_dict"], model.state_dict()),
        *zip(diverged["optimizer_state_dict"]["state"].values(), optimizer.state.values(), strict=True),
    ):
        assert {name: True for name in made if name != "step"} == {
            name: bool(made[name].isnan().all() and kept[name].isnan().all()) for name in made if name != "step"
        }


def test_a_file_without_checksums_has_the_same_numbers(ward: Path) -> None:
    path = patient(ward, UNCHECKED)
    with zipfile.ZipFile(path) as archive:
        assert {0} == {info.CRC for info in archive.infolist()}
    assert diff_checkpoints(ward / "good.pth", path).identical
    assert torch.utils.serialization.config.save.compute_crc32  # turned on again


def test_they_can_be_laid_out_again(ward: Path, tmp_path: Path) -> None:
    for _ in range(2):
        autopsy.lay_out(ward / "good.pth", tmp_path / "again")
    for name in PATIENTS:
        if PATIENTS[name] in (FLIPPED, LOST):
            assert (ward / "five" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_who_lists_the_lessons_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from koemorph_tutorial.teaching.lessons import lesson; lesson('08'); "
        "print([name for name in ('torch', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == ran.stdout
