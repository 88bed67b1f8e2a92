"""How fast an exported network answers: onnxruntime and TorchScript beside PyTorch, with one thread each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from measuring import Row


def exporting() -> Iterable[Row]:
    """Measure the time of a call at 1 and at 32 windows of 0.4 s, and that of a whole export with its receipt."""
    import torch

    from koemorph_tutorial import export_onnx, export_torchscript
    from koemorph_tutorial.exporting.examination import call
    from koemorph_tutorial.exporting.leaving import needed
    from koemorph_tutorial.exporting.onnx_file import runs_of
    from koemorph_tutorial.exporting.parity import seconds_per_call
    from koemorph_tutorial.exporting.to_torchscript import torchscript_runs
    from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
    from koemorph_tutorial.training.shipping import FREE

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        model = SimplifiedKoeMorphModel().eval()
        sounds = torch.randn(32, 6400)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "face.onnx"
            export_onnx(model, sounds[:2], path, free=FREE)  # the first in a process loads much
            start = time.perf_counter()
            export_onnx(model, sounds[:2], path, free=FREE, force=True)
            whole = time.perf_counter() - start
            export_torchscript(model, path.with_suffix(".pt"), example_inputs=sounds[:2], free=FREE)
            (runtime,) = needed("onnxruntime", what="the bench")
            runs = {
                "onnxruntime": runs_of(path.read_bytes(), runtime)[""],
                "TorchScript": torchscript_runs(path.with_suffix(".pt").read_bytes())[""],
            }
            for batch in (1, 32):
                inputs = (sounds[:batch],)
                calls = [lambda run=run, inputs=inputs: run(inputs) for run in runs.values()]
                *taken, eager = seconds_per_call([*calls, lambda inputs=inputs: call(model, inputs)])
                for name, seconds in zip(runs, taken, strict=True):
                    what = f"{name} / PyTorch, a call at batch {batch}"
                    yield Row(name=what, measured=1e3 * seconds, reference=1e3 * eager, unit="ms")
            yield Row(name="an export to ONNX with its receipt / one second", measured=whole, reference=1.0)
    finally:
        torch.set_num_threads(threads)
