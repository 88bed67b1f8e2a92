"""The tape of an export: which operations an ONNX file holds, and which of them should not be there."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from torch import nn

from koemorph_tutorial import export_onnx
from koemorph_tutorial.teaching import tape
from koemorph_tutorial.teaching.figures import PURPLE, VERMILLION, to_png


class Folding(nn.Module):
    """Two features become pairs, by a shape that names every size, or all but the first."""

    def __init__(self, sounds: int) -> None:
        super().__init__()
        self.sounds, self.linear, self.dropout = sounds, nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        folded: torch.Tensor = self.dropout(self.linear(x).sin()).reshape(self.sounds, 2, 2)
        return folded


def export(model: nn.Module, path: Path) -> Path:
    """Export as a reader does who knows nothing of modes and sizes: every size is fixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.ones(3, 4),), path, verbose=False, external_data=False)
    return path


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Folding(3).train(), tmp_path_factory.mktemp("tape") / "careless.onnx")


def test_a_dropout_and_a_shape_in_which_every_size_is_fixed_are_found(careless: Path) -> None:
    found = tape.operations(careless)
    assert [("Dropout", "dropout", ()), ("Reshape", "frozen", (3, 2, 2))] == [
        (each.name, each.kind, each.shape) for each in found if each.kind
    ]
    assert {"Sin", "Dropout", "Reshape"} <= {each.name for each in found}
    order = [each.name for each in found]
    assert order.index("Sin") < order.index("Dropout") < order.index("Reshape")


def test_a_good_export_has_neither(tmp_path: Path) -> None:
    export_onnx(Folding(-1).train(), torch.ones(3, 4), tmp_path / "good.onnx")
    assert {""} == {each.kind for each in tape.operations(tmp_path / "good.onnx")}


def test_weights_in_a_second_file_are_not_asked_for(careless: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Folding(3).eval(), (torch.ones(3, 4),), tmp_path / "two.onnx", verbose=False)
    (tmp_path / "two.onnx.data").unlink()
    assert ["frozen"] == [each.kind for each in tape.operations(tmp_path / "two.onnx") if each.kind]


def test_what_onnxruntime_runs_has_no_dropout_and_the_file_stays_as_it_was(careless: Path, tmp_path: Path) -> None:
    before = careless.read_bytes()
    run = tape.as_run(careless, tmp_path / "run.onnx")
    assert (tmp_path / "run.onnx", before) == (run, careless.read_bytes())
    assert "dropout" not in {each.kind for each in tape.operations(run)}


def test_a_strip_has_a_cell_for_each_operation_and_the_caption_counts_what_stands_out(
    careless: Path, tmp_path: Path
) -> None:
    run = tape.as_run(careless, tmp_path / "run.onnx")
    figure, caption = tape.strips(careless, run)
    assert [
        "careless.onnx: 1 Dropout, 1 fixed shape ((3, 2, 2))",
        "run.onnx: 0 Dropouts, 1 fixed shape ((3, 2, 2))",
    ] == (caption.splitlines())
    cells = [each for each in figure.axes[0].get_children() if isinstance(each, Rectangle) and each.get_height() < 0.5]
    in_rows = [each for each in cells if each.get_y() < 0]
    assert len(tape.operations(careless)) + len(tape.operations(run)) == len(in_rows)
    edges = [to_hex(each.get_edgecolor()).upper() for each in in_rows]
    assert (1, 2) == (edges.count(VERMILLION), edges.count(PURPLE))
    texts = {each.get_text() for each in figure.axes[0].texts}
    assert {"careless.onnx", "run.onnx", "Dropout", "a fixed shape"} <= texts
    assert to_png(figure).startswith(b"\x89PNG")


def test_what_stands_out_nowhere_is_not_explained(tmp_path: Path) -> None:
    export_onnx(Folding(-1), torch.ones(3, 4), tmp_path / "good.onnx")
    figure, caption = tape.strips(tmp_path / "good.onnx")
    assert "good.onnx: 0 Dropouts, 0 fixed shapes" == caption
    assert {"Dropout", "a fixed shape"}.isdisjoint(each.get_text() for each in figure.axes[0].texts)


def test_after_hush_an_export_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch.onnx").level
    try:
        with warnings.catch_warnings(record=True) as said:
            tape.hush()
            example = (torch.ones(1, 4),)
            axes = {"x": {0: "batch"}}
            torch.onnx.export(Folding(1), example, tmp_path / "a.onnx", dynamic_axes=axes, verbose=False)
            session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
            with pytest.raises(Exception, match="Reshape"):
                session.run(None, {"x": torch.ones(2, 4).numpy()})
        assert ([], ("", "")) == (said, capfd.readouterr())
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
        onnxruntime.set_default_logger_severity(2)
