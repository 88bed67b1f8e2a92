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
# - say what is left of a file when its writer is killed;
# - put a file in place whole, under three names, with one write;
# - test how a run is saved by killing it before each of its file operations.
#
# About 15 minutes to read, 15 to practise. [Lesson 01](01_state.ipynb) settled what belongs in a checkpoint; this one brings it to the disk. It takes parts 3 and 4 of the recipe: the three kinds of file, and their folder.
#
# **日本語:** 保存している最中にプログラムが強制終了したら、ファイルには何が残るでしょうか。このレッスンでは、書きかけのところで本当にプロセスを止め、残ったファイルを開いてみます。そのうえで、いつ止められても壊れない保存を自分で書き、すべての瞬間で止めて確かめます。
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
# The line is from part 3.3 of the recipe. Nothing trains in this lesson, the network is only saved; but the kill is real. [`killed_at_byte`](../koemorph_tutorial/teaching/crashes.py) makes a copy of this process and gives it a limit of the operating system: if it makes a file longer than so many bytes, it is killed on the spot.

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
    except (RuntimeError, EOFError) as error:
        return f"nothing ({type(error).__name__})"


torch.save(checkpoint_of(6), "last_model.pth")
whole = Path("last_model.pth").read_bytes()
print("before the kill:", epoch_in("last_model.pth"))

crashes.killed_at_byte(len(whole) // 2, torch.save, checkpoint_of(7), "last_model.pth")
torn = Path("last_model.pth").read_bytes()
print("after the kill: ", epoch_in("last_model.pth"))

# %%
reveal("02.2", happened={6: "a", 7: "b"}.get(epoch_in("last_model.pth"), "c"))

# %% [markdown]
# ## Why: what is opened is emptied
#
# At no moment do both epochs exist. Opening the old one for writing empties it, then epoch 7 arrives from front to back. And a `.pth` is a zip archive, whose table of contents comes last: without it nothing can be found in the rest. (Any byte will do. Change the `// 2` above and try.)

# %%
show(*crashes.torn_file(whole, torn))

# %% [markdown]
# For this small network that is a moment. For gigabytes on a network disk it is a minute, every epoch. It happens to experts: a user reported it to PyTorch Lightning [in 2020](https://github.com/Lightning-AI/pytorch-lightning/issues/688), where it was repaired; later versions lost the repair, as another user found [in 2024](https://github.com/Lightning-AI/pytorch-lightning/issues/19970).
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
# Twenty kills, and epoch 6 is still there. (What `fsync` is for no kill can show: the system lives on and writes what it was given. A power cut takes the system along, and without the first `fsync` the new name may be there and its bytes not.)
#
# **Three names.** The recipe saves an epoch as `checkpoint_epoch_007.pth`, as `best_model.pth` if it is the best, and as `last_model.pth`: the same bytes, written three times. [`save_checkpoint`](../koemorph_tutorial/storage.py) does what you saw above, once. Each further name is a hard link: one more entry in the folder, for bytes that are there already.

# %%
from koemorph_tutorial import Best, list_checkpoints, save_checkpoint

names = ["checkpoint_epoch_007.pth", "best_model.pth", "last_model.pth"]
os.makedirs("recipe", exist_ok=True)
os.makedirs("run", exist_ok=True)
for name in names:
    torch.save(checkpoint_of(7), f"recipe/{name}")
save_checkpoint(checkpoint_of(6), "run/checkpoint_epoch_006.pth")
save_checkpoint(checkpoint_of(7), f"run/{names[0]}", also=names[1:])

for folder in ("recipe", "run"):  # st_ino says which bytes a name stands for
    print(f"{folder}: three names,", len({os.stat(f"{folder}/{name}").st_ino for name in names}), "on the disk")

# %% [markdown]
# **Which is the newest?** A run that starts again remembers nothing: the folder has to tell. Its clock cannot, for it only knows when a file was touched. What the files themselves say survives every copy.

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
# > **Trap.** Three names are one copy. Whatever writes into one of them ruins all three, like `best` in 02.1. So an older epoch has to stay beside them: `CheckpointManager` refuses `keep_last_n=1`.
#
# **Which is the best?** One loss that is not a number (NaN) spoils it. No comparison with NaN is true, so a line that many scripts have, `best = min(loss, best)`, keeps it for ever: the 0.5 below is never noticed. `argmin` even picks the NaN. (The recipe keeps only what has won, and is safe.)

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
    for epoch in range(int(recipe_resumes(folder) or -1) + 1, 2):
        for name in (f"checkpoint_epoch_{epoch:03d}.pth", "best_model.pth", "last_model.pth"):
            torch.save({"epoch": epoch, "weights": torch.zeros(5000)}, folder / name)
        saved(str(epoch))


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
# While the recipe's `last_model.pth` was torn, the numbered file beside it was whole. But its `--resume last_model.pth` does not look there. Ours asks the folder, takes the newest whole file, and clears away what the kill left.
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
# After each new best, `best_model.pth` shall be a further name of its numbered file. This works once: where the name is taken, `os.link` raises FileExistsError. Make it work every time, also after a kill. At no moment may `best_model.pth` be missing.

# %%
import os


def also_named(path, name):
    """Give the file `path` the further name `name`, whatever had that name before."""
    os.link(path, name)


check("02.4", also_named)

# %% [markdown]
# ### 02.5 ●●● The newest sound one (8 minutes, optional)
#
# This works until a file is copied or torn, or somebody leaves a `checkpoint_epoch_900 (copy).pth` in the folder. Make it hold.

# %%
from pathlib import Path


def newest(folder):
    """Load the newest checkpoint_epoch_NNN.pth; None if there is none. No sound one among them is an error."""
    files = sorted(Path(folder).glob("*.pth"), key=lambda file: file.stat().st_mtime)
    return torch.load(files[-1])


check("02.5", newest)

# %% [markdown]
# **Recap**
#
# - What is opened for writing is emptied. So: write beside it, sync, rename.
# - Three names are one copy: keep an older epoch as well.
# - A kill at every file operation is a test, and you can run it.
#
# Next: the file is whole. Does the run that comes back from it do the same as the one that never stopped?
