"""Save training runs so that they come back: checkpoints, exact resume, and the lessons that show why.

The public names are resolved when they are first used, so importing this package loads neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compressed_files import compress_checkpoint as compress_checkpoint
    from .compressed_files import decompress_checkpoint as decompress_checkpoint
    from .compressed_files import save_compressed_checkpoint as save_compressed_checkpoint
    from .difference.compare import diff_checkpoints as diff_checkpoints
    from .export import export_onnx as export_onnx
    from .export import export_safetensors as export_safetensors
    from .export import export_torchscript as export_torchscript
    from .export import verify_export as verify_export
    from .inference import load_for_inference as load_for_inference
    from .inference import load_weights as load_weights
    from .inspection.summary import inspect_checkpoint as inspect_checkpoint
    from .loading import ResumableLoader as ResumableLoader
    from .manager import CheckpointManager as CheckpointManager
    from .records import Best as Best
    from .records import CheckpointError as CheckpointError
    from .records import CheckpointFile as CheckpointFile
    from .records import CheckpointSettings as CheckpointSettings
    from .records import ExportError as ExportError
    from .records import Position as Position
    from .records import StopTraining as StopTraining
    from .resume import resume_training as resume_training
    from .retention import cleanup_old_checkpoints as cleanup_old_checkpoints
    from .retention import plan_retention as plan_retention
    from .storage import list_checkpoints as list_checkpoints
    from .storage import load_checkpoint as load_checkpoint
    from .storage import save_checkpoint as save_checkpoint
    from .validation import validate_checkpoint as validate_checkpoint

_ROOMS = {
    "Best": "records",
    "CheckpointError": "records",
    "CheckpointFile": "records",
    "CheckpointManager": "manager",
    "CheckpointSettings": "records",
    "ExportError": "records",
    "Position": "records",
    "ResumableLoader": "loading",
    "StopTraining": "records",
    "cleanup_old_checkpoints": "retention",
    "compress_checkpoint": "compressed_files",
    "decompress_checkpoint": "compressed_files",
    "diff_checkpoints": "difference.compare",
    "export_onnx": "export",
    "export_safetensors": "export",
    "export_torchscript": "export",
    "inspect_checkpoint": "inspection.summary",
    "list_checkpoints": "storage",
    "load_checkpoint": "storage",
    "load_for_inference": "inference",
    "load_weights": "inference",
    "plan_retention": "retention",
    "resume_training": "resume",
    "save_checkpoint": "storage",
    "save_compressed_checkpoint": "compressed_files",
    "validate_checkpoint": "validation",
    "verify_export": "export",
}

__all__ = sorted(_ROOMS)  # the names stand once, in the table


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
