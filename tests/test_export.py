"""Out of PyTorch: every export is asked what the network was asked, and its receipt says what came of it."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from koemorph_tutorial import (
    export_onnx,
    export_safetensors,
    export_torchscript,
    load_for_inference,
    save_checkpoint,
    verify_export,
)
from koemorph_tutorial.exporting.placing import receipt_path
from koemorph_tutorial.exporting.receipt import Receipt
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.records import CheckpointError, CheckpointWriteError, ExportError, MismatchError
from koemorph_tutorial.testing import crash_test, saved
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import DataConfig
from koemorph_tutorial.training.shipping import voices
from tests import shipping

ROOT = Path(__file__).parent.parent
FREE = {"audio": {0: "batch", 1: "samples"}}
SILENT = logging.CRITICAL + 1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> SimplifiedKoeMorphModel:
    torch.manual_seed(0)
    return SimplifiedKoeMorphModel()


@pytest.fixture(scope="module")
def checkpoint(model: SimplifiedKoeMorphModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best_model.pth"
    torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "metrics": {"loss": 0.5}}, path)
    return path


@pytest.fixture(scope="module")
def exported(model: SimplifiedKoeMorphModel, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    """Return the receipt of the example's model in ONNX, compared on the voice of the test split."""
    example, cases = voices(DataConfig())
    path = tmp_path_factory.mktemp("exported") / "face.onnx"
    return export_onnx(model, example, path, output_names=["blendshapes"], free=FREE, cases=cases, source=checkpoint)


# -------------------------------------------------------------------------------------------------- the example's model


def test_the_model_is_the_same_in_every_shape(exported: Receipt) -> None:
    shapes = {case.shapes[0] for case in exported.cases}
    assert exported.ok, exported
    assert shapes >= {(1, 6400), (2, 6400), (128, 6400), (5, 16000), (1, 32000), (1, 512)}
    assert exported.largest is not None
    assert exported.largest <= 1e-5
    assert {"batch": 1, "samples": 512} == exported.smallest
    assert ("audio", ("batch", "samples")) == (exported.inputs[0].name, exported.inputs[0].shape)
    assert ("blendshapes", ("batch", 52)) == (exported.outputs[0].name, exported.outputs[0].shape)


def test_the_file_passes_the_checker_and_holds_the_facts_of_its_receipt(exported: Receipt, checkpoint: Path) -> None:
    proto = onnx.load(exported.path)
    onnx.checker.check_model(proto, full_check=True)
    assert 20 == exported.opset == proto.opset_import[0].version
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    for name, value in exported.facts().items():
        written = facts[f"koemorph.{name}"]
        assert json.loads(json.dumps(value)) == (written if isinstance(value, str) else json.loads(written)), name
    beside = json.loads(receipt_path(exported.path).read_text())
    assert hashlib.sha256(exported.path.read_bytes()).hexdigest() == beside["sha256"] == exported.sha256
    assert exported.source is not None
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == exported.source.sha256
    assert (3, "model_state_dict") == (exported.source.epoch, exported.source.weights)


def test_the_file_says_nothing_of_the_machine_that_made_it(exported: Receipt) -> None:
    data = exported.path.read_bytes()
    assert str(ROOT).encode() not in data
    assert b"stack_trace" not in data
    assert b"def forward" not in data


def test_torchscript_answers_with_the_same_bits_where_this_package_is_not(
    model: SimplifiedKoeMorphModel, tmp_path: Path
) -> None:
    sound = voices(DataConfig())[0]
    receipt = export_torchscript(model, tmp_path / "face.pt", example_inputs=sound, free=FREE, tolerance=0.0)
    assert receipt.ok, receipt
    assert 0.0 == receipt.largest
    torch.save(sound, tmp_path / "sound.pt")
    program = (
        "import sys, torch\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('koemorph'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "torch.set_num_threads(1)\n"
        "model = torch.jit.load('face.pt')\n"
        "with torch.no_grad(): torch.save(model(torch.load('sound.pt')), 'answer.pt')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, check=True)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model).eval()(sound), torch.load(tmp_path / "answer.pt"))


def test_safetensors_fill_a_fresh_model_bit_for_bit(
    model: SimplifiedKoeMorphModel, checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    receipt = export_safetensors(model, tmp_path / "face.safetensors", source=checkpoint)
    assert receipt.ok, receipt
    fresh = SimplifiedKoeMorphModel()
    fresh.load_state_dict(load_file(receipt.path))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())
    other, _ = load_for_inference(receipt.path, SimplifiedKoeMorphModel())
    assert torch.equal(other.queries, model.queries)


def test_a_tied_weight_is_written_under_both_names_and_said(tmp_path: Path) -> None:
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    receipt = export_safetensors(tied, tmp_path / "tied.safetensors")
    assert receipt.ok
    assert "2 names that share their numbers, each written whole: a.weight, b.weight" in receipt.notes


# ------------------------------------------------------------------------------------------------ other people's models

STRANGERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "convolutional": (shipping.convolutional, ((2, 3, 20),)),
    "recurrent": (shipping.Recurrent, ((2, 5, 8),)),
    "transformer": (shipping.transformer, ((2, 5, 16),)),
    "two and two": (shipping.TwoAndTwo, ((2, 8), (2, 6))),
    "a dict": (shipping.Named, ((2, 8),)),
}


@pytest.mark.parametrize("name", list(STRANGERS)[::2])
def test_a_strangers_model_leaves_with_a_receipt(name: str, tmp_path: Path) -> None:
    """Every second; `make proof` exports them all."""
    torch.manual_seed(0)
    make, shapes = STRANGERS[name]
    network, inputs = make(), tuple(torch.randn(shape) for shape in shapes)
    for receipt in (
        export_onnx(network, inputs, tmp_path / "net.onnx"),
        export_torchscript(network, tmp_path / "net.pt", example_inputs=inputs),
    ):
        assert receipt.ok, receipt
        assert {"batch": 1} == receipt.smallest
        assert {1, 3} <= {case.shapes[0][0] for case in receipt.cases}


def test_outputs_are_called_as_the_model_calls_them(tmp_path: Path) -> None:
    receipt = export_onnx(shipping.Named(), torch.randn(2, 8), tmp_path / "net.onnx")
    assert ["logits", "loudness"] == [port.name for port in receipt.outputs]


def test_an_example_of_one_is_exported_as_two(tmp_path: Path) -> None:
    receipt = export_onnx(nn.Linear(4, 2), torch.randn(1, 4), tmp_path / "net.onnx")
    assert receipt.ok
    assert ("batch",) == receipt.free
    assert "the example has 1 in batch; exported with 2, since a 1 would be frozen" in receipt.notes


def test_a_model_that_takes_sizes_by_steps_is_tried_in_more_than_one(tmp_path: Path) -> None:
    receipt = export_torchscript(
        shipping.Hops(), tmp_path / "net.pt", example_inputs=torch.randn(2, 1600), free={"audio": (0, 1)}
    )
    assert 1 < len({case.shapes[0][1] for case in receipt.cases}), receipt
    assert not any("takes 1600 alone" in note for note in receipt.notes), receipt


REFUSED: list[tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any], str]] = [
    (
        shipping.UsesNumpy,
        (2, 8),
        {},
        r"forward, in shipping.py:\d+ `.*np\.interp.*`: the tensor leaves PyTorch for numpy",
    ),
    (shipping.Branches, (2, 8), {}, r"forward, in shipping.py:\d+ `if sound.sum\(\) > 0:`: what it does next depends"),
    (
        shipping.Holds,
        (2, 64),
        {},
        r"sound: dimension 0 should be free, and forward holds it at 2, in shipping.py:\d+ `return self.a\(.*reshape",
    ),
    (
        shipping.Recurrent,
        (2, 5, 8),
        {"free": {"frames": (0, 1)}},
        r"frames: dimension 1 .* holds it at 5, in shipping.py:\d+ `found, _ = self.lstm",
    ),
    (shipping.Decomposes, (2, 4, 4), {}, r"the exporter knows nothing in ONNX for aten\._linalg_svd"),
    (shipping.Talks, (2, 8), {}, r"forward: expected tensors, .*, as its answer, found str under output_1"),
]


@pytest.mark.parametrize(
    ("make", "shape", "options", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_cannot_leave_is_said_in_one_line_with_its_line(
    make: Callable[[], nn.Module], shape: tuple[int, ...], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=words) as raised:
        export_onnx(make(), torch.randn(shape), tmp_path / "net.onnx", **options)
    assert "\n" not in str(raised.value)
    assert [] == list(tmp_path.iterdir())


def test_a_branch_that_the_exporter_froze_is_found(tmp_path: Path) -> None:
    """The exporter takes a branch on a free size for decided, and says nothing."""
    receipt = export_onnx(shipping.BranchesOnLength(), torch.randn(2, 6), tmp_path / "net.onnx", free={"sound": (0, 1)})
    assert not receipt.ok
    assert "net.parity-failed.onnx" == receipt.path.name
    assert "same model: NO, output: differs by" in receipt.verdict()


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"expected the package onnxscript, .*'koemorph-tutorial\[export\]'"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "net.onnx")


# ------------------------------------------------------------------------------------------------------------- sabotage


@pytest.fixture(scope="module")
def sabotaged(model: SimplifiedKoeMorphModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make files as they are made by hand: in train mode, of one sound, and with a weight that is not the model's."""
    folder = tmp_path_factory.mktemp("sabotaged")
    sounds = torch.randn(2, 6400)
    logging.getLogger("torch.onnx").setLevel(SILENT)
    keep: dict[str, Any] = {"dynamo": True, "verbose": False, "external_data": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
        training = copy.deepcopy(model).train()
        torch.onnx.export(training, (sounds,), folder / "in_training.onnx", dynamic_shapes=free, **keep)
        torch.onnx.export(copy.deepcopy(model).eval(), (sounds[:1],), folder / "one.onnx", **keep)
        torch.jit.script(training).save(str(folder / "in_training.pt"))
    logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
    return folder


def test_dropout_that_the_runtime_hides_is_found(model: SimplifiedKoeMorphModel, sabotaged: Path) -> None:
    """onnxruntime takes the dropout out by itself; asked as written the file trembles."""
    sounds = torch.randn(2, 6400)
    session = onnxruntime.InferenceSession(sabotaged / "in_training.onnx")
    one, two = (session.run(None, {"audio": sounds.numpy()})[0] for _ in range(2))
    assert np.array_equal(one, two)
    receipt = verify_export(model, sabotaged / "in_training.onnx", sounds, free={"audio": (0, 1)})
    assert not receipt.ok
    assert any(
        "with its optimizations off: the same input is answered in two ways" in line for line in receipt.problems
    )


def test_a_torchscript_file_in_train_mode_is_found(model: SimplifiedKoeMorphModel, sabotaged: Path) -> None:
    receipt = verify_export(model, sabotaged / "in_training.pt", torch.randn(2, 6400))
    assert not receipt.ok
    assert any("the same input is answered in two ways" in line for line in receipt.problems)


def test_a_batch_frozen_at_one_is_found_though_the_example_is_one(
    model: SimplifiedKoeMorphModel, sabotaged: Path
) -> None:
    receipt = verify_export(model, sabotaged / "one.onnx", torch.randn(1, 6400))
    assert not receipt.ok
    assert "the runtime refuses it: Got invalid dimensions for input: audio" in receipt.verdict()


def test_a_size_that_a_file_calls_free_and_holds_is_found(tmp_path: Path) -> None:
    """Whoever trusts the file's own word for its sizes is told; no size was asked for here."""
    port = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("sound", "answer")]
    held = onnx.helper.make_tensor("held", onnx.TensorProto.INT64, [2], [2, 4])
    node = onnx.helper.make_node("Reshape", ["sound", "held"], ["answer"])
    graph = onnx.helper.make_graph([node], "held", port[:1], port[1:], [held])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "held.onnx")
    receipt = verify_export(nn.Identity(), tmp_path / "held.onnx", torch.randn(2, 4), free={})
    assert ("n",) == receipt.free
    assert [(1, 4), (3, 4)] == [case.shapes[0] for case in receipt.cases if case.problem]


def test_a_file_for_other_inputs_or_outputs_is_found(tmp_path: Path) -> None:
    path = export_onnx(shipping.TwoAndTwo(), (torch.randn(2, 8), torch.randn(2, 6)), tmp_path / "net.onnx").path
    for network, inputs, words in (
        (shipping.Named(), (torch.randn(2, 8),), "expected 1 inputs, found 2 (sound, speaker)"),
        (nn.Bilinear(8, 6, 4), (torch.randn(2, 8), torch.randn(2, 6)), "expected 1 outputs (output), found 2"),
    ):
        receipt = verify_export(network, path, inputs)
        assert not receipt.ok
        assert words in receipt.verdict()


def test_one_changed_weight_is_found(model: SimplifiedKoeMorphModel, exported: Receipt, tmp_path: Path) -> None:
    proto = onnx.load(exported.path)
    (bias,) = [each for each in proto.graph.initializer if each.name == "conv1.bias"]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] += 1e-3
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    receipt = verify_export(model, tmp_path / "changed.onnx", voices(DataConfig())[0])
    assert not receipt.ok
    assert receipt.verdict().startswith("same model: NO, output blendshapes: differs by")


def test_a_changed_weight_is_found_though_no_answer_shows_it(
    model: SimplifiedKoeMorphModel, exported: Receipt, tmp_path: Path
) -> None:
    """The bias of a blendshape that is nearly at rest changes answers by less than the tolerance."""
    proto = onnx.load(exported.path)
    (bias,) = [each for each in proto.graph.initializer if each.name == "bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-6), bias.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    receipt = verify_export(model, tmp_path / "changed.onnx", voices(DataConfig())[0])
    assert not any(case.problem for case in receipt.cases)
    assert (False, ("1 weights are not the model's: bias",)) == (receipt.ok, receipt.problems)


def test_a_folded_batchnorm_is_no_changed_weight(tmp_path: Path) -> None:
    network, sound = shipping.convolutional(), torch.randn(2, 3, 20)
    path = export_onnx(network, sound, tmp_path / "net.onnx").path
    receipt = verify_export(network, path, sound)
    assert receipt.ok, receipt
    assert any("a BatchNorm may be folded into them" in note for note in receipt.notes)


def test_one_flipped_bit_of_the_weights_is_found(model: SimplifiedKoeMorphModel, tmp_path: Path) -> None:
    path = export_safetensors(model, tmp_path / "w.safetensors").path
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    receipt = verify_export(model, path)
    assert not receipt.ok
    assert "1 with other bits" in receipt.verdict()


def test_a_file_of_this_model_is_found_to_be_it(model: SimplifiedKoeMorphModel, exported: Receipt) -> None:
    assert verify_export(model, exported.path, torch.randn(2, 6400)).ok


def test_weights_in_a_second_file_are_found_from_any_folder_and_said(model: nn.Module, tmp_path: Path) -> None:
    """So torch's exporter writes if it is not told otherwise; without its second file an ONNX file is of no use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, sounds = copy.deepcopy(model).eval(), torch.randn(2, 6400)
        torch.onnx.export(network, (sounds,), tmp_path / "two.onnx", dynamo=True, verbose=False, external_data=True)
    receipt = verify_export(model, tmp_path / "two.onnx", sounds, free={})
    assert receipt.ok, receipt
    assert receipt.notes[0] == "weights lie in a second file, two.onnx.data: ship both"
    (tmp_path / "two.onnx.data").unlink()
    with pytest.raises(ExportError, match=r"onnxruntime .* does not take the file"):
        verify_export(model, tmp_path / "two.onnx", sounds, free={})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected an ONNX, TorchScript or safetensors file"),
        (b"\x08\x0a\x12\xff\xff", "expected a whole ONNX file"),
        (b"epoch: 3", "expected an ONNX, TorchScript or safetensors file"),
    ],
)
def test_what_is_no_exported_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        verify_export(nn.Linear(4, 2), path, torch.randn(2, 4))


def test_a_model_that_draws_random_numbers_gets_no_receipt_that_says_yes(tmp_path: Path) -> None:
    sound = torch.randn(2, 8)
    random = torch.get_rng_state()
    receipt = export_torchscript(shipping.NeverRests(), tmp_path / "net.pt", example_inputs=sound)
    assert torch.equal(random, torch.get_rng_state())
    assert not receipt.ok
    assert any("the model itself answers the same input in two ways" in line for line in receipt.problems)


def test_a_model_of_nan_gets_no_receipt_that_says_yes(tmp_path: Path) -> None:
    network = nn.Linear(4, 2)
    with torch.no_grad():
        network.bias.fill_(float("nan"))
    receipt = export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 4))
    assert not receipt.ok
    assert "PyTorch's own answer has NaN in it" in receipt.verdict()


# ----------------------------------------------------------------------------------------------- what is left as it was


def test_the_network_is_as_it_was(tmp_path: Path) -> None:
    """Modes of every module, weights, gradients and buffers, also where the export fails."""
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), shipping.Counts())
    network[1].eval()
    network[0].weight.grad = torch.ones(4, 4)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 4, generator=torch.Generator()))
    with pytest.raises(ExportError):
        export_onnx(network, torch.zeros(2, 5), tmp_path / "net.onnx")
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network[0].weight.requires_grad
    assert network[0].weight.grad is not None
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("broken", [False, True], ids=["", "where it fails in the middle"])
def test_an_export_to_onnx_leaves_the_network_as_it_was(broken: bool, tmp_path: Path) -> None:
    """A model that counts its calls is asked many times, and gets no yes."""
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), shipping.Counts())
    if broken:
        network.append(shipping.Branches())
    network[1].eval()
    network[3].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    sound, before = torch.randn(2, 4), network[3].calls
    if broken:
        with pytest.raises(ExportError, match="what it does next depends on the values"):
            export_onnx(network, sound, tmp_path / "net.onnx")
    else:
        receipt = export_onnx(network, sound, tmp_path / "net.onnx")
        assert "the model itself answers the same input in two ways" in receipt.problems[0]
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network[3].calls is before
    assert torch.is_grad_enabled()


def test_a_buffer_that_forward_replaces_is_the_one_it_was_before(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, sound: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return sound

    network = Counts()
    before = network.calls
    assert export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 4)).ok
    assert export_onnx(network, torch.randn(2, 4), tmp_path / "net.onnx").ok
    assert network.calls is before
    assert [0.0] == before.tolist()


def test_a_module_that_goes_its_own_way_about_training_is_at_rest_all_the_same(tmp_path: Path) -> None:
    network = shipping.Stubborn()
    assert export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 8)).ok
    assert network.eval().noise.training


def test_where_new_tensors_are_born_changes_nothing(tmp_path: Path) -> None:
    network, sound = nn.Linear(4, 2), torch.randn(2, 4)
    with torch.device("meta"):
        assert export_onnx(network, sound, tmp_path / "a.onnx").ok
        assert export_torchscript(network, tmp_path / "a.pt", example_inputs=sound).ok
        assert "meta" == torch.ones(1).device.type
        assert export_safetensors(network, tmp_path / "a.safetensors").ok


def test_an_export_says_nothing_on_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    filters, level = list(warnings.filters), logging.getLogger("torch.onnx").level
    export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "net.onnx")
    assert ("", "") == tuple(capfd.readouterr())
    assert (filters, level) == (list(warnings.filters), logging.getLogger("torch.onnx").level)


def test_wrapped_models_and_other_surroundings_change_nothing(tmp_path: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        receipt = export_torchscript(nn.Linear(4, 2), tmp_path / "a.pt", example_inputs=torch.randn(2, 4))
    assert (True, "float32") == (receipt.ok, receipt.outputs[0].dtype)
    with torch.inference_mode():
        assert export_torchscript(nn.Linear(4, 2), tmp_path / "b.pt", example_inputs=torch.randn(2, 4)).ok
        wrapped = nn.DataParallel(nn.Linear(4, 2))  # whose weights autograd takes no more
    assert export_onnx(wrapped, torch.randn(2, 4), tmp_path / "c.onnx").ok


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((2, 4)), "example_inputs: expected a tensor, found numpy.ndarray; torch.from_numpy makes one"),
        ((), "example_inputs: expected a tensor or a tuple of tensors, found an empty tuple"),
        ((torch.zeros(2, 4), 1), r"example_inputs\[1\]: expected a tensor, found int"),
        (torch.zeros(2, 4, device="meta"), "found one on the meta device"),
        (torch.zeros(2, 4).to_sparse(), "expected a dense tensor, found one of layout torch.sparse_coo"),
        (torch.zeros(0, 4), "expected numbers in it, found the empty shape"),
        (torch.zeros(2, 4).long(), r"example_inputs \(\(2, 4\) int64\): the model itself does not take them"),
        (torch.zeros(2, 5), r"example_inputs \(\(2, 5\) float32\): the model itself does not take them"),
    ],
)
def test_inputs_that_cannot_be_are_said(inputs: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        export_onnx(nn.Linear(4, 2), inputs, tmp_path / "net.onnx")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 17}, r"opset: expected one that the exporter .* can write for this model, found 17"),
        ({"opset": 99}, "opset: expected a whole number from 1 to"),
        ({"opset": "20"}, "opset: expected a whole number from 1 to"),
        ({"input_names": ["a", "b"]}, "input_names: expected 1 names for 1 example inputs, found 2"),
        ({"output_names": "a"}, "output_names: expected a sequence of names, found 'a'"),
        ({"output_names": ["sound", "b"]}, "output_names: expected others than sound: taken"),
        ({"free": {"nothing": (0,)}}, r"free: expected names of inputs \(sound\), found 'nothing'"),
        ({"free": {"sound": (5,)}}, r"free\['sound'\]: expected dimensions from 0 to 1, found 5"),
        ({"free": {"sound": 0}}, r"free\['sound'\]: expected dimensions"),
        ({"free": {"sound": {0: "n", 1: "n"}}}, "expected one size for all that is called 'n', found 2 and 8"),
        ({"cases": torch.zeros(2, 8)}, "cases: expected a sequence of tuples of tensors"),
        ({"cases": [(torch.zeros(2, 8).long(),)]}, r"cases\[0\]: expected tensors as in the example"),
        ({"cases": [(torch.zeros(2, 9),)]}, r"case 0 \(\(2, 9\) float32\): the model itself does not take them"),
        ({"tolerance": True}, "tolerance: expected a number from 0, found True"),
        ({"tolerance": -1.0}, "tolerance: expected a number from 0"),
    ],
)
def test_options_that_cannot_be_are_said(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; only whether the exporter can write an opset is known no sooner than it has."""
    if options != {"opset": 17}:
        monkeypatch.delattr(torch.export, "export")
    network = shipping.Named() if "opset" not in options else SimplifiedKoeMorphModel()
    example = torch.randn(2, 8) if "opset" not in options else torch.randn(2, 6400)
    with pytest.raises((TypeError, ValueError), match=words):
        export_onnx(network, example, tmp_path / "net.onnx", **options)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", 5, "7", "a\nb"])
def test_a_name_of_a_dimension_that_is_no_name_is_said(name: Any, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=r"free\['input'\]: expected"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "net.onnx", free={"input": {0: name}})
    assert [] == list(tmp_path.iterdir())


def test_a_name_of_an_input_that_a_weight_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input_names: expected others than weight"):
        export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "net.onnx", input_names=["weight"])
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("network", [nn.Linear(4, 2, device="meta"), nn.LazyLinear(4), "a network"])
def test_a_model_without_numbers_is_said(network: Any, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ExportError), match="model: expected"):
        export_onnx(network, torch.randn(2, 4), tmp_path / "net.onnx")


def test_weights_of_another_file_are_not_said_to_be_its(checkpoint: Path, tmp_path: Path) -> None:
    other = SimplifiedKoeMorphModel()
    with pytest.raises(MismatchError, match="expected the weights of the model that is exported, found others"):
        export_safetensors(other, tmp_path / "w.safetensors", source=checkpoint)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["missing/w.safetensors", "last_model.pth", "checkpoint_epoch_003.pth", "."])
def test_a_place_that_is_not_its_own_is_refused_even_by_force(where: str, tmp_path: Path) -> None:
    (tmp_path / "last_model.pth").write_bytes(b"a run's")
    with pytest.raises(CheckpointWriteError):
        export_safetensors(nn.Linear(4, 2), tmp_path / where, force=True)
    assert b"a run's" == (tmp_path / "last_model.pth").read_bytes()


def test_the_checkpoint_itself_is_never_written_over(tmp_path: Path) -> None:
    network = nn.Linear(4, 2)
    source = tmp_path / "weights.safetensors"
    export_safetensors(network, source)
    before = source.read_bytes()
    with pytest.raises(CheckpointWriteError, match="expected another file than the checkpoint itself"):
        export_safetensors(network, source, source=source, force=True)
    assert before == source.read_bytes()


@pytest.mark.parametrize("name", ["net.pt.receipt.json", "net.parity-failed.pt"])
def test_the_checkpoint_is_not_written_over_by_what_lies_beside_the_file(name: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(8, 2), shipping.NeverRests()) if "failed" in name else nn.Linear(8, 2)
    source = tmp_path / name
    torch.save({"model_state_dict": network.state_dict()}, source)
    before = source.read_bytes()
    with pytest.raises(CheckpointWriteError, match="expected another file than the checkpoint itself"):
        export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 8), source=source, force=True)
    assert before == source.read_bytes()


def test_a_file_that_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(CheckpointWriteError, match="expected no file of that name, found one"):
        export_safetensors(nn.Linear(4, 2), path)
    assert b"mine" == path.read_bytes()
    assert export_safetensors(nn.Linear(4, 2), path, force=True).ok


def test_a_file_that_has_the_name_of_the_receipt_stays_unless_it_is_forced(tmp_path: Path) -> None:
    beside = receipt_path(tmp_path / "w.safetensors")
    beside.write_bytes(b"mine")
    with pytest.raises(CheckpointWriteError, match=r"receipt.json: expected no file of that name, found one"):
        export_safetensors(nn.Linear(4, 2), tmp_path / "w.safetensors")
    assert {beside: b"mine"} == {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert export_safetensors(nn.Linear(4, 2), tmp_path / "w.safetensors", force=True).ok
    assert json.loads(beside.read_text())["ok"] is True


def test_a_failed_export_leaves_the_good_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(b"the good one")
    receipt = export_torchscript(shipping.NeverRests(), path, example_inputs=torch.randn(2, 8), force=True)
    assert (b"the good one", "net.parity-failed.pt") == (path.read_bytes(), receipt.path.name)
    assert json.loads(receipt_path(receipt.path).read_text())["ok"] is False


# ------------------------------------------------------------------------------------------------- kills and full disks

_EXPORTS = """
import sys, torch
from koemorph_tutorial import export_safetensors
torch.manual_seed(int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    export_safetensors(torch.nn.Linear(64, 64), sys.argv[1], force=True)
    print("done", flush=True)
"""


def _fits(path: Path) -> bool:
    """Say whether the receipt beside a file is that file's; one that has none is proved by nothing, which may be."""
    receipt = receipt_path(path)
    return not receipt.exists() or (
        path.exists() and json.loads(receipt.read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _export(path: Path, seed: int, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _EXPORTS, str(path), str(seed), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_at_any_moment_no_file_has_the_receipt_of_another(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "w.safetensors"
    for seed in range(2):
        child = _export(path, seed, 10_000)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.023 * seed)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert {"weight", "bias"} == set(load_file(path))
        assert _fits(path)
    export_safetensors(nn.Linear(64, 64), path, force=True)
    assert {path, receipt_path(path)} == set(tmp_path.iterdir())  # what kills have left is swept away


def _write_three(directory: Path) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        export_safetensors(nn.Linear(8, 8), directory / "w.safetensors", force=True)
        saved(_weight(directory))


def _weight(directory: Path) -> str:
    from safetensors.numpy import load_file

    return load_file(directory / "w.safetensors")["weight"].tobytes().hex()


def _what_is_left(directory: Path) -> str | None:
    path = directory / "w.safetensors"
    receipt = receipt_path(path)
    if receipt.exists():
        assert json.loads(receipt.read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    return _weight(directory) if path.exists() else None


def test_at_a_sample_of_all_moments_an_export_is_the_old_one_or_the_new_one() -> None:
    """Killed, torn, a full disk, an error, the power cut; `make proof` tries every file operation."""
    campaign = crash_test(_write_three, _what_is_left, max_points=4)
    assert campaign.not_ok == (), "\n".join(campaign.lines())
    assert {"open", "write", "fsync", "rename", "unlink"} <= {point.name for point in campaign.points}


def test_two_exports_at_once_leave_one_file_and_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    children = [_export(path, seed, 15) for seed in range(2)]
    assert all("done\n" * 15 == child.communicate()[0] for child in children)
    assert receipt_path(path).exists()
    assert _fits(path)


def test_a_file_that_appears_while_another_export_is_being_placed_stays(tmp_path: Path) -> None:
    """One process at a time places its files in a folder, and looks again when it is its turn."""
    path, errors = tmp_path / "w.safetensors", []

    def export() -> None:
        try:
            export_safetensors(nn.Linear(4, 2), path)
        except CheckpointWriteError as error:
            errors.append(str(error))

    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    thread = threading.Thread(target=export)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert [] == list(tmp_path.iterdir())
    path.write_bytes(b"faster")
    os.close(folder)
    thread.join()
    assert ["expected no file of that name, found one"] == [error.split(": ")[1].partition(";")[0] for error in errors]
    assert b"faster" == path.read_bytes()


def test_a_folder_that_goes_while_a_model_is_exported_is_one_line(tmp_path: Path) -> None:
    class Removes(nn.Module):
        def forward(self, sound: Tensor) -> Tensor:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            return sound

    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointWriteError, match=r"net\.onnx: could not be written: No such file or directory"):
        export_onnx(Removes(), torch.randn(2, 4), tmp_path / "out" / "net.onnx")


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    export_safetensors(nn.Linear(64, 64), path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    program = f"""
import resource, signal, torch
from koemorph_tutorial import CheckpointError, export_safetensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    export_safetensors(torch.nn.Linear(64, 64), {str(path)!r}, force=True)
except CheckpointError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "could not be written: File too large; nothing that was there before is lost; free some space" in said
    assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


# ---------------------------------------------------------------------------------------------------------- the receipt


def test_a_receipt_says_the_worst_of_a_case_and_the_first_output_that_differs(tmp_path: Path) -> None:
    class Off(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return sound * 1, sound * 2 + self.by

    path = export_torchscript(Off(0.5), tmp_path / "net.pt", example_inputs=torch.ones(2, 3)).path
    receipt = verify_export(Off(0.0), path, torch.ones(2, 3))
    assert pytest.approx(0.5) == receipt.largest
    assert "output_1: differs by 0.5 at [0, 0] (2 in PyTorch, 2.5 here; 100% of its values are too far)" in str(receipt)
    assert json.loads(receipt.to_json())["ok"] is False


def test_a_receipt_says_nothing_of_the_machine_that_made_it(tmp_path: Path) -> None:
    """Nor does what TorchScript says of code that it cannot script."""
    network = nn.Linear(4, 2)
    network.register_forward_hook(lambda module, inputs, answer: answer * 3)
    receipt = export_torchscript(network, tmp_path / "net.pt", example_inputs=torch.randn(2, 4))
    assert "traced, not scripted" in receipt.notes[0]
    assert str(Path(__file__).parent) not in receipt.to_json()
    assert str(Path(__file__).parent) not in str(receipt)


def test_a_receipt_without_a_comparison_says_no() -> None:
    receipt = Receipt(path=Path("x.onnx"), format="onnx", size=1, sha256="ab" * 32)
    assert not receipt.ok
    assert "same model: NO, nothing was compared" == receipt.verdict()


def test_lines_of_a_receipt_fit_a_terminal(exported: Receipt) -> None:
    facts = [line for line in exported.lines(80) if not line.startswith("  ")]
    assert all(len(line) <= 80 for line in facts[1:]), facts


def test_a_checkpoint_of_ours_is_named_with_its_line(tmp_path: Path) -> None:
    from koemorph_tutorial import Position
    from koemorph_tutorial.records import Best
    from koemorph_tutorial.state import build

    network = nn.Linear(4, 2)
    best = Best(monitor="loss", mode="min")
    run = {"line": "c0ffee00", "saves": 1}
    content = build({"model": network}, epoch=7, position=Position(epoch=8), metrics={}, best=best, run=run)
    save_checkpoint(content, tmp_path / "mine.pth")
    receipt = export_safetensors(network, tmp_path / "w.safetensors", source=tmp_path / "mine.pth")
    assert receipt.source is not None
    assert 7 == receipt.source.epoch
    assert "epoch 7" in str(receipt)


def test_a_runtimes_refusal_is_said_by_its_reason() -> None:
    """As onnxruntime words it: the place in its C++ first, then why."""
    said = (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. "
        "Name:'' Status Message: /onnxruntime_src/core/reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper("
        "const TensorShape&) input_shape_size == size was false. The input tensor cannot be reshaped to the requested "
        "shape. Input shape:{3,64}, requested shape:{2,64}\n"
    )
    assert (
        "The input tensor cannot be reshaped to the requested shape. Input shape:{3,64}, requested shape:{2,64}"
    ) == first_line(RuntimeError(said))
