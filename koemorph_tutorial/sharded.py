"""A training whose state no single process holds: whole folders, taken up by any number of ranks, and back to one file.

A folder is complete from the moment that it has its name, and knows a sum of every file in it. In it are the tensors
that ranks share (``*.distcp`` and ``.metadata``, a checkpoint of torch.distributed.checkpoint), one file a rank for all
else (``rank_00000.pth``: a checkpoint of ours without those tensors; of the others what differs from it, random states
for example), and ``manifest.json``.

Models may be sharded by ``fully_shard``, wrapped in DistributedDataParallel, or neither; a folder of one kind can be
loaded into any other. Every rank makes the same calls. An error of one rank is raised on all; where one has ended, the
others leave with a line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .digests import digest
from .distcp import METADATA_NAME, Writer, files_of, read
from .durable import move_aside, refusals_named
from .folders import (
    MANIFEST_NAME,
    Manifest,
    Unfinished,
    begin,
    find_complete,
    finish,
    leave,
    read_manifest,
    sync_and_sum,
    verify,
)
from .naming import unnamed_parameters
from .plain import check_plain
from .provenance import world_size
from .ranks import Ranks, as_of, parts_of
from .records import (
    Best,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MismatchError,
    NewerFormatError,
    PathLike,
    Position,
    RankError,
    RankLost,
    UnsavableStateError,
    UnsupportedCheckpointError,
    UsedDirectoryError,
    plain_metrics,
    split_codec,
    state_key,
)
from .shards import SHARED, Where, make_room, names_of, nested, open_rest, put_back, rank_name, split
from .state import Objects, build, check_objects, lies_in_parts, restore
from .storage import load_checkpoint, save_checkpoint, serialise
from .text import listed

logger = logging.getLogger(__name__)


def save_sharded(objects: Objects, folder: PathLike, *, extra: Mapping[str, Any] | None = None) -> Path:
    """Save `objects` of all ranks into the new `folder`, which is there once it is complete; return it.

    Every rank calls it, with the same folder, on a disk that all of them share. Tensors that ranks share are written
    once, in parts; random states, loaders, generators and buffers for each rank. `extra` are plain values of your own,
    of which rank 0's count; ``epoch``, ``global_step``, ``metrics`` and ``config`` among them are what a consolidated
    file will say of itself. Before the folder has its name it is called ``.NAME.….tmp``; what a kill leaves of that is
    removed by the next save beside it.

    A damaged checkpoint of that name is moved to ``abandoned-NNN/`` beside it: a run that was resumed from an older one
    comes to the name again.

    Raises:
        UsedDirectoryError: something else of that name is there; it is not touched.
        UnsavableStateError: a state that could not be read back, with its path.
        CheckpointWriteError: the disk of this rank refused; nothing is left of this save, and all before it is there.
        RankError: another rank has failed, with its words; or the ranks do not save the same thing.

    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> folder = save_sharded({"model": model}, Path(tempfile.mkdtemp()) / "step_100", extra={"global_step": 100})
    >>> load_sharded(folder, {"model": nn.Linear(2, 1)})
    {'global_step': 100}
    """
    folder, extra, ranks = Path(folder), {} if extra is None else extra, _ranks()
    taken: list[tuple[dict[str, Any], dict[str, Any], dict[Where, torch.Tensor]]] = []

    def take() -> tuple[str, str, dict[str, str]]:
        rest, tensors = split(_build(objects, extra), objects)
        own, _ = split(parts_of(objects), objects)
        check_plain(rest)
        check_plain(own)
        if len(names_of(tensors)) < len(tensors):
            raise UnsavableStateError("two of the tensors would have one name; nothing was saved")
        taken.append((rest, own, tensors))
        return str(folder), digest(list(tensors)), {key: digest(part) for key, part in own.items()}

    with _leaving(ranks, folder):
        ranks.meet("save_sharded", Position())
        answers = ranks.each(take)
        _check_same([answer[0] for answer in answers], "into {}")
        _check_same([answer[1] for answer in answers], "tensors of other names (digest {})")
        (rest, own, tensors), sums, firsts = taken[0], answers[ranks.rank][2], answers[0][2]
        if ranks.is_first:
            held = {**rest, SHARED: list(tensors)}
            for line in unnamed_parameters(rest["optimizer_parameters"]):
                logger.warning("save_sharded: %s", line)
        else:
            held = {key: part for key, part in own.items() if sums[key] != firsts.get(key)}
        return _write(folder, held, tensors, ranks)


def _build(objects: Objects, extra: Mapping[str, Any]) -> dict[str, Any]:
    check_objects(objects)
    for name, item in objects.items():
        if isinstance(item, nn.Module) and any(isinstance(part, FullyShardedDataParallel) for part in item.modules()):
            raise UnsavableStateError(
                f"{name}: FullyShardedDataParallel keeps its parameters in flat pieces; shard it by "
                "torch.distributed.fsdp.fully_shard instead; nothing was saved"
            )
        if lies_in_parts(item):
            raise UnsavableStateError(
                f"{name}: {type(item).__name__} keeps its state in parts that only rank 0 can put together; save it by "
                "a CheckpointManager, or use the optimizer that it is made of; nothing was saved"
            )
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra: expected a dict of plain values, found {type(extra).__name__}")
    epoch, step = (extra.get(key, 0) for key in ("epoch", "global_step"))
    checkpoint = build(
        objects,
        epoch=epoch,
        position=Position(epoch=epoch + 1 if "epoch" in extra else 0, global_step=step),
        metrics=plain_metrics(extra.get("metrics", {})),
        best=Best(),
        run={},
        config=extra.get("config"),
    )
    return {**checkpoint, "extra": dict(extra)}


def _write(folder: Path, held: dict[str, Any], tensors: dict[Where, torch.Tensor], ranks: Ranks) -> Path:
    def make_place() -> Unfinished:
        _move_damaged(folder)
        return begin(folder)

    unfinished = ranks.first(make_place)
    path, name = unfinished.path, rank_name(ranks.rank)
    try:
        writer = Writer(nested(tensors), path, first=ranks.is_first)
        plans = ranks.each(writer.plan)
        shares = ranks.first(lambda: writer.share(plans))

        def write() -> tuple[list[Any], dict[str, tuple[int, int]]]:
            with refusals_named(folder):
                written = writer.write(shares[ranks.rank])
                with open(path / name, "xb") as file:
                    serialise(held, file)
                return written, {each: sync_and_sum(path / each) for each in (*sorted(files_of(written)), name)}

        answers = ranks.each(write)

        def end() -> Path:
            with refusals_named(folder):
                writer.finish([written for written, _ in answers])
                files = {METADATA_NAME: sync_and_sum(path / METADATA_NAME)}
            for _, sums in answers:
                files |= sums
            kinds = held["metadata"]["objects"]
            return finish(unfinished, ranks=ranks.size, objects=kinds, files=files, torch=str(torch.__version__))

        return ranks.first(end)
    finally:
        if ranks.is_first:
            leave(unfinished)


def _move_damaged(folder: Path) -> None:
    """Make way for a save: a run that has gone on from before a damaged checkpoint comes to its name again."""
    marks = [os.path.lexists(folder / name) for name in (MANIFEST_NAME, METADATA_NAME, rank_name(0))]
    if folder.is_symlink() or sum(marks) < 2:  # of another program, or of somebody's own
        return
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest, sorted(manifest.files))
    except DamagedCheckpointError as error:
        with refusals_named(folder):
            aside = move_aside(folder.parent, folder.name)
        logger.warning("save_sharded: moved to %s/: %s", aside.name, error)
    except NewerFormatError:  # nobody here knows what it holds, so it stays
        pass


def load_sharded(folder: PathLike, objects: Objects) -> dict[str, Any]:
    """Fill `objects` from `folder`, or from the newest sound one of the folders in it; return its ``extra``.

    Every rank calls it, however many there are and however many there were: each reads what it holds. All bytes are
    checked first, each rank a share of the files; then all names and shapes, before the first object is filled. What
    only an object itself can refuse is put back on the rank where it does, and all raise. While it is read, a second
    copy of this rank's part is in memory. A rank gets its own random states, loader and generators back; one that was
    not there before keeps those it has.

    Raises:
        CheckpointNotFoundError: nothing there.
        DamagedCheckpointError: the file that is missing, cut short or changed; or a folder that was never finished.
        MismatchError: what does not fit, with names and shapes, or an object that is not in the folder.
        RankError: another rank has failed, with its words.
    """
    folder, ranks = Path(folder), _ranks()
    loaded: list[dict[str, Any]] = []
    with _leaving(ranks, folder):
        ranks.meet("load_sharded", Position())
        path, manifest = _first_sound(folder, ranks)
        ranks.each(lambda: loaded.append(_load(path, manifest, objects, ranks.rank)))
        restored = ranks.each(lambda: restore(loaded[0], objects))[ranks.rank]
    if ranks.is_first:
        for line in restored.drift:
            logger.warning("load_sharded: not bitwise from here: %s", line)
        if restored.unexpected:
            logger.warning("load_sharded: %s", listed("in the folder that nobody asked for", restored.unexpected))
    return dict(loaded[0].get("extra", {}))


def newest_sharded(parent: PathLike) -> Path | None:
    """Return the newest complete folder in `parent`, by the count of saves that each keeps; None where there is none.

    Complete: all of its files are there, as long as they were. Whether all bytes are as they were, `load_sharded` finds
    out, which takes a parent as well: then all ranks agree on one.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> for name in ("b", "a"):
    ...     _ = save_sharded({"model": nn.Linear(2, 1)}, run / name)
    >>> newest_sharded(run).name, newest_sharded(run / "other")
    ('a', None)
    """
    complete = find_complete(Path(parent)) if os.path.lexists(parent) else []
    return complete[0][0] if complete else None


def consolidate(folder: PathLike, path: PathLike) -> Path:
    """Write the checkpoint in `folder` as one ``.pth`` in the library's own format; return its path.

    One process does this alone, without torch.distributed; all of the state is in its memory at once. The result is
    what a `CheckpointManager` on as many ranks would have written: `load_for_inference` and `resume_training` take it.

    Raises:
        UsedDirectoryError: `path` is there already; it is not touched.
        CheckpointError: as `load_sharded` for the folder, as `save_checkpoint` for the file.

    >>> import tempfile
    >>> run, model = Path(tempfile.mkdtemp()), nn.Linear(2, 1)
    >>> whole = consolidate(save_sharded({"model": model}, run / "step_100"), run / "step_100.pth")
    >>> torch.equal(load_checkpoint(whole)["model_state_dict"]["weight"], model.weight)
    True
    """
    folder, path = Path(folder), Path(path)
    if os.path.lexists(path):
        raise UsedDirectoryError(
            f"{path}: expected a new name, found something there; nothing was written; name another"
        )
    if path.suffix != ".pth" or split_codec(path.name)[1]:
        raise UnsupportedCheckpointError(
            f"{path}: expected a name that ends in .pth, and not in that of a compressed one; name one, for example "
            f"{folder.name}.pth"
        )
    manifest = read_manifest(folder)
    verify(folder, manifest, sorted(manifest.files))
    checkpoint, names, found = open_rest(folder, manifest.files)
    whole = {name: torch.empty(found[name].size, dtype=found[name].properties.dtype) for name in names}
    read(folder, whole)
    others = [load_checkpoint(folder / rank_name(rank)) for rank in range(1, manifest.ranks)]
    for name, tensor in whole.items():
        for part in (checkpoint, *others):
            put_back(part, names[name], tensor)
    checkpoint["run"] = {"line": manifest.line, "parent": None, "saves": manifest.saves}
    if others:
        checkpoint["ranks"] = [{}, *others]
    save_checkpoint(checkpoint, path)
    return path


def _first_sound(folder: Path, ranks: Ranks) -> tuple[Path, Manifest]:
    candidates = ranks.first(lambda: _candidates(folder))
    for path, manifest in candidates:

        def look(path: Path = path, manifest: Manifest = manifest) -> DamagedCheckpointError | None:
            try:
                verify(path, manifest, sorted(manifest.files)[ranks.rank :: ranks.size])
            except DamagedCheckpointError as error:
                return error
            return None

        problem = next(filter(None, ranks.each(look)), None)
        if problem is None:
            return path, manifest
        if path == candidates[-1][0]:
            raise problem
        if ranks.is_first:
            logger.warning("load_sharded: passed over: %s", problem)
    raise AssertionError("there is at least one")


def _candidates(folder: Path) -> list[tuple[Path, Manifest]]:
    """Return a folder with its manifest; of one that holds others, those, the newest first."""
    if os.path.isdir(folder) and os.access(folder, os.R_OK):
        names = os.listdir(folder)
        if names and not any(name in (MANIFEST_NAME, METADATA_NAME) or name.endswith(".distcp") for name in names):
            complete = find_complete(folder)
            if not complete:
                raise CheckpointNotFoundError(
                    f"{folder}: expected a sharded checkpoint, or a folder of some, found none that is complete"
                )
            return complete
    return [(folder, read_manifest(folder))]


def _load(path: Path, manifest: Manifest, objects: Objects, rank: int) -> dict[str, Any]:
    """Return the checkpoint as it is for `rank`, with the tensors of `objects` as they lie on that rank."""
    check_objects(objects)
    checkpoint, names, found = open_rest(path, manifest.files)
    missing = [name for name in objects if state_key(name) not in checkpoint]
    if missing:
        raise MismatchError(
            f"{path}: expected the state of {', '.join(missing)}, found {', '.join(manifest.objects)}; name them as "
            "they were saved"
        )
    own = load_checkpoint(path / rank_name(rank)) if 0 < rank < manifest.ranks else {}
    checkpoint["ranks"] = [own if number == rank else {} for number in range(manifest.ranks)]
    checkpoint = as_of(checkpoint, rank, objects)
    room = make_room(found, names, checkpoint, objects)
    read(path, {name: tensor for name, tensor in room.items() if tensor.device.type != "meta"})
    for name, tensor in room.items():
        put_back(checkpoint, names[name], tensor)
    return checkpoint


def _check_same(answers: list[str], what: str) -> None:
    for rank, answer in enumerate(answers):
        if answer != answers[0]:
            raise RankError(
                f"the ranks do not save the same: rank 0 {what.format(answers[0])}, rank {rank} {what.format(answer)}; "
                "nothing was written"
            )


@lru_cache(maxsize=1)
def _ranks_of(world: object) -> Ranks:
    return Ranks()


def _ranks() -> Ranks:
    """Return the ranks of this training: one group for all calls, made at the first, which all make together."""
    return _ranks_of(distributed.group.WORLD if world_size() > 1 else None)


@contextmanager
def _leaving(ranks: Ranks, folder: Path) -> Iterator[None]:
    try:
        yield
    except RankLost:
        state = "is complete" if os.path.lexists(folder / MANIFEST_NAME) else "was not written"
        raise RankLost(
            f"rank {ranks.rank} leaves: another one of the {ranks.size} has ended; {folder} {state}; start all of them "
            "again, to go on from the newest complete folder"
        ) from None
