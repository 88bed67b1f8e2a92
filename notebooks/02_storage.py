# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · What a kill leaves behind
#
# **Promise:** after this lesson a kill costs you at most the save that it hit, and you can prove it.
#
# You will be able to
# - tell what a kill does to a save, and why;
# - put a file in place whole, under three names, written once;
# - test how a run is saved by killing it before each of its file operations.
#
# About 15 minutes to read, 15 to practise. [Lesson 01](01_state.ipynb) settled what belongs in a checkpoint; this one brings it to the disk. It takes parts 3 and 4 of the recipe of lesson 01, by which KoeMorph saves its training: the three kinds of file, and their folder.
#
# **日本語:** 保存している最中にプログラムが強制終了したら、ファイルには何が残るでしょうか。このレッスンでは、保存中のプロセスを本当に止め、結果を自分の予想と比べます。そのうえで、保存のしかたを自分で書き、すべての瞬間で止めて確かめます。
#
# First a look back at lesson 01: **after its best epoch a run keeps `best = model.state_dict()`, and trains on. What does `best` hold in the end?**
#
# - a) The weights of the best epoch.
# - b) The weights of the last epoch.
# - c) On a CPU those of the last, on a GPU those of the best.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("02.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: three in the morning
#
# After every epoch a run calls `torch.save(checkpoint, "last_model.pth")`, always with this name. It is three in the morning, epoch 6 is saved and epoch 7 is being saved, when the machine runs out of memory. The system looks for a process to kill, and finds yours. **What does `last_model.pth` hold when you come in?**
#
# - a) Epoch 6. The new file takes its place once it is complete.
# - b) Epoch 7. A write that has begun is finished by the system.
# - c) Neither. There is a file, and nothing can be loaded from it.

# %%
predict("02.2", None)

# %% [markdown]
# ## Break: killed while it writes
#
# The line is that of the recipe (part 3.3, “the newest model”). Nothing trains in this lesson, the network is only saved; but the kill is real. [`killed_at_byte`](../koemorph_tutorial/teaching/crashes.py) makes a copy of this process and gives it a limit of the operating system: if it makes a file longer than so many bytes, it is killed on the spot.

# %%
from pathlib import Path

import torch

from koemorph_tutorial.teaching import crashes
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel

model = SimplifiedKoeMorphModel()


def checkpoint_of(epoch):
    return {"epoch": epoch, "model_state_dict": model.state_dict()}


def epoch_in(path):
    try:
        return torch.load(path)["epoch"]
    except Exception as error:  # of which kind depends on the byte
        return f"nothing ({type(error).__name__})"


torch.save(checkpoint_of(6), "last_model.pth")
whole = Path("last_model.pth").read_bytes()
print("before the kill:", epoch_in("last_model.pth"))

killed = crashes.killed_at_byte(len(whole) // 2, torch.save, checkpoint_of(7), "last_model.pth")
torn = Path("last_model.pth").read_bytes()
print("after the kill: " if killed else "without a kill:", epoch_in("last_model.pth"))

# %%
if killed:
    reveal("02.2", happened={6: "a", 7: "b"}.get(epoch_in("last_model.pth"), "c"))

# %% [markdown]
# ## Why: mode "w" empties the file
#
# At no moment do both epochs exist. `torch.save` opens the old one with mode "w", which empties it, then epoch 7 arrives from front to back. And a `.pth` is a zip archive, whose table of contents comes last: without it nothing can be found in the rest. (Put a larger number in place of the 2 above: the error may be another, the epoch is lost all the same. With 1 the file becomes complete, and nothing is killed.)

# %%
show(*crashes.torn_file(whole, torn))

# %% [markdown]
# For this small network that is a moment. For gigabytes on a network disk it is a minute, every epoch. It happens to experts: PyTorch Lightning was told of it [in 2020](https://github.com/Lightning-AI/pytorch-lightning/issues/688) and repaired it. The repair was lost when the code changed; a user noticed [in 2024](https://github.com/Lightning-AI/pytorch-lightning/issues/19970), and another [repaired it again](https://github.com/Lightning-AI/pytorch-lightning/pull/20011).
#
# > **Trap.** On every day without a kill it works. So no test finds it, except one that kills.
#
# ## Repair: beside it first, then in its place
#
# Write the new file **beside** the old one, in the same folder. Once all of it is on the disk, give it the name.

# %%
import os


def save_whole(checkpoint, path):
    with open(path + ".tmp", "wb") as file:
        torch.save(checkpoint, file)
        file.flush()  # Python hands its last bytes to the system
        os.fsync(file.fileno())  # the system hands them to the disk
    os.replace(path + ".tmp", path)  # in one step: the name is the new file's, the old one is dropped
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    os.fsync(folder)  # the name itself is kept in the folder: to the disk with it, too
    os.close(folder)


save_whole(checkpoint_of(6), "last_model.pth")
left = set()
for part in range(20):
    crashes.killed_at_byte(part * len(whole) // 20, save_whole, checkpoint_of(7), "last_model.pth")
    left.add(epoch_in("last_model.pth"))
print("left after kills at 20 different bytes:", left)

# %% [markdown]
# Twenty kills, and epoch 6 is still there. Beside it lies a torn `.tmp`; the next save writes over it. (The library clears such files away when a run resumes.)
#
# No kill can show what `fsync` is for: the system lives on, and writes what it was given. A power cut takes the system along. Without the first `fsync` the new name may then be there and its bytes not.
#
# **Three names.** The recipe saves an epoch as `checkpoint_epoch_007.pth`, as `best_model.pth` if it is the best, and as `last_model.pth`: the same bytes, written three times. [`save_checkpoint`](../koemorph_tutorial/storage.py) does what you saw above, once. Each further name (`also=`) is a hard link: one more entry in the folder, for bytes that are on the disk already.

# %%
from koemorph_tutorial import Best, list_checkpoints, save_checkpoint

names = ["checkpoint_epoch_007.pth", "best_model.pth", "last_model.pth"]
os.makedirs("recipe", exist_ok=True)
os.makedirs("run", exist_ok=True)
for name in names:
    torch.save(checkpoint_of(7), f"recipe/{name}")
save_checkpoint(checkpoint_of(6), "run/checkpoint_epoch_006.pth")
save_checkpoint(checkpoint_of(7), f"run/{names[0]}", also=names[1:])

for folder in ("recipe", "run"):  # st_ino: the number of the file on the disk, the same for all its names
    print(f"{folder}: three names,", len({os.stat(f"{folder}/{name}").st_ino for name in names}), "on the disk")

# %% [markdown]
# **Which is the newest?** A run that starts again remembers nothing: the folder has to tell. Its clock cannot, for it only knows when a file was touched. What the files themselves say survives every copy. (Below, `last_model.pth` and `checkpoint_epoch_007.pth` are names of the same bytes.)

# %%
os.utime("run/checkpoint_epoch_006.pth", (2e9, 2e9))  # from a machine that believes it is 2033
print("by the clock:", max(Path("run").iterdir(), key=os.path.getmtime).name)
print("by the files:", list_checkpoints("run")[0].path.name)

# %% [markdown]
# Now somebody saves epoch 8 into this folder, in the recipe's way, and is killed:

# %%
crashes.killed_at_byte(1000, torch.save, checkpoint_of(8), "run/last_model.pth")
for name in sorted(os.listdir("run")):
    print(f"{name:25}", epoch_in(f"run/{name}"))
print("newest by the files:     ", list_checkpoints("run")[0].path.name)

# %% [markdown]
# > **Trap.** Three names are one copy. A program that writes into one of them changes all three, like `best` in 02.1. So an older epoch has to stay beside them: `CheckpointManager` refuses to keep one numbered file only (`keep_last_n=1`).
#
# **Which is the best?** One loss that is not a number (NaN) spoils it. NaN is never smaller than a number, and no number is smaller than NaN. In doubt, `min` keeps its first argument. So `best = min(loss, best)`, a line that many scripts have, becomes NaN below, and then epoch 3 with its 0.5 is not noticed. (`min(best, loss)` would do. The recipe assigns `best` only after `loss < best`, and is safe.) `argmin` even picks the NaN.

# %%
losses = [0.9, 0.7, float("nan"), 0.5, 0.6]
smallest, careful = float("inf"), Best()
for epoch, loss in enumerate(losses):
    if loss < smallest:
        print("epoch", epoch, "is the best")
    smallest = min(loss, smallest)
    careful = careful.improved_by({"loss": loss}, epoch) or careful
print("argmin: epoch", torch.tensor(losses).argmin().item())
print("Best:  ", careful)

# %% [markdown]
# **The proof.** [`crash_test`](../koemorph_tutorial/testing/crash.py) watches a training, then repeats it once for each of its file operations: killed there, resumed, trained to the end, and compared with the run that nobody killed. It takes your own loop, too.

# %%
from koemorph_tutorial import CheckpointManager
from koemorph_tutorial.testing import crash_test, saved


def recipe_resumes(folder):
    last = folder / "last_model.pth"
    return str(torch.load(last)["epoch"]) if last.exists() else None


def recipe(folder):
    done = recipe_resumes(folder)
    for epoch in range(0 if done is None else int(done) + 1, 2):
        for name in (f"checkpoint_epoch_{epoch:03d}.pth", "best_model.pth", "last_model.pth"):
            torch.save({"epoch": epoch, "weights": torch.zeros(5000)}, folder / name)
        saved(str(epoch))  # tells the test that this save is finished


def manager(folder):
    return CheckpointManager(folder, {"model": torch.nn.LayerNorm(2)}, save_freq=1)


def ours_resumes(folder):
    with manager(folder) as checkpoints:
        file = checkpoints.resume().file
        return str(file.epoch) if file else None


def ours(folder):
    with manager(folder) as checkpoints:
        for epoch in checkpoints.epochs(2):
            checkpoints.save({"loss": 1 / (epoch + 1)})
            saved(str(epoch))


ours(Path("nobody kills this one"))
tested = {
    "the recipe": crash_test(recipe, recipe_resumes, modes=["kill"]),
    "this library": crash_test(ours, ours_resumes, modes=["kill"]),
}
show(*crashes.kill_test(tested))

# %% [markdown]
# While the recipe's `last_model.pth` was torn, the numbered file beside it was whole. But its `--resume last_model.pth` does not look there. (Nor at the best: a kill in “best” leaves a torn `best_model.pth`, and the run goes on without noticing. Here the next save mends it.) Ours asks the folder, takes the newest whole file, and clears away what the kill left.
#
# ## Practise
#
# ### 02.3 ● One line is missing (3 minutes, essential)
#
# Other files are torn as easily, like this record of a run's losses. Complete the function; `check` kills it at every step.

# %%
import json
import os


def save_metrics(metrics, path):
    beside = path + ".tmp"
    with open(beside, "w") as file:
        json.dump(metrics, file)
        file.flush()
        os.fsync(file.fileno())
    # your line


check("02.3", save_metrics)

# %% [markdown]
# ### 02.4 ●● A second name, again and again (5 minutes, essential)
#
# After each new best, `best_model.pth` shall be a further name of its numbered file. This works once: where the name is taken, `os.link` raises FileExistsError. Make it work every time, also after a kill. At no moment may `best_model.pth` be missing, and what a kill leaves beside it the next call has to clear away.

# %%
import os


def also_named(path, name):
    """Give the file `path` the further name `name`, whatever had that name before."""
    os.link(path, name)


check("02.4", also_named)

# %% [markdown]
# ### 02.5 ●●● The newest sound one (8 minutes, optional)
#
# This works until a file is copied or torn, or somebody leaves a `checkpoint_epoch_900 (copy).pth` in the folder. Make it hold, beyond epoch 999 as well (`checkpoint_epoch_1000.pth`).

# %%
from pathlib import Path


def newest(folder):
    """Load the newest checkpoint_epoch_NNN.pth. None if there is none, an error if all are torn."""
    files = sorted(Path(folder).glob("*.pth"), key=lambda file: file.stat().st_mtime)
    return torch.load(files[-1])


check("02.5", newest)

# %% [markdown]
# **Recap**
#
# - Mode "w", that of `torch.save`, empties the file. So: write beside it, sync, rename.
# - Three names are one copy: keep an older epoch as well.
# - A kill at every file operation is a test, and you can run it.
#
# Next: the file is whole. Does the run that comes back from it do the same as the one that never stopped?
