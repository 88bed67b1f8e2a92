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
# # 06 · Which files may go?
#
# **Promise:** after this lesson you clear a full disk without losing what the run needs, and can say of each file why it stayed.
#
# You will be able to
# - say what the time of a file tells, and what it does not;
# - plan what stays, with a reason for each file, before one is removed;
# - foresee what a removal frees.
#
# About 15 minutes to read, 18 to practise. [Lesson 02](02_storage.ipynb) gave a file several names, [lesson 03](03_resume.ipynb) brought the run back. By now the old files fill the disk. This is part 7.1 of [the recipe](01_state.ipynb): keep the newest files, remove the others.
#
# **日本語:** 学習を続けるとチェックポイントがたまり、いつかディスクがいっぱいになります。このレッスンでは、コピーしたフォルダーでレシピの削除処理を本当に動かし、どのファイルが残るかを自分の予想と比べます。そのうえで、ファイルごとに理由を示す計画を立て、読んで確かめてから削除します。
#
# First a look back at lesson 03: **the recipe trains for twelve epochs. It is stopped after epoch 5; the best so far is epoch 4, with loss 0.31. It is resumed, and all losses to come lie above 0.36. What does `best_model.pth` hold in the end?**
#
# - a) Epoch 4: no loss after the restart is below 0.31.
# - b) The best epoch since the restart.
# - c) Epoch 11, the last: after a restart each epoch counts as the best.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("06.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: a larger disk
#
# That run is over: twelve numbered files, epochs 0 to 11, and the disk is full. You copy the folder to a larger disk with `cp -r`. In which order the copying comes to the files is the disk's affair; here chance draws it. In the copy you call the cleanup of the recipe, which keeps the newest three of the numbered files, by their times. **Which epochs are left?**
#
# - a) 9, 10 and 11: the copy has the names and the bytes of the original.
# - b) All twelve: they were made today, so none is old.
# - c) The three that the copying came to last, whichever they are.

# %%
predict("06.2", None)

# %% [markdown]
# ## Break: nothing changed but the time
#
# `recipe_cleanup` is part 7.1. [`recipe_run`](../koemorph_tutorial/teaching/lifetimes.py) saves as the recipe does: the files are real, the losses made up. Then we move the run twice. `copytree` leaves each file its time; `lifetimes.copy` gives it a new one, like `cp -r`. `seed` makes the order the same each time.

# %%
import shutil
from pathlib import Path

import torch

from koemorph_tutorial.teaching import lifetimes


def recipe_cleanup(folder, keep_n):
    files = Path(folder).glob("checkpoint_epoch_*.pth")
    for file in sorted(files, key=lambda file: file.stat().st_mtime)[:-keep_n]:
        file.unlink()


losses = [0.90, 0.71, 0.58, 0.44, 0.31, 0.40, 0.38, 0.42, 0.37, 0.39, 0.41, 0.40]
lifetimes.recipe_run("run", losses, resumed=5)
shutil.copytree("run", "moved")
lifetimes.copy("run", "copied", seed=6)
by_clock = lifetimes.epochs("copied")  # the oldest first


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


print("the same names and bytes:", contents("moved") == contents("copied"))
for folder in ("moved", "copied"):
    recipe_cleanup(folder, keep_n=3)
    left = lifetimes.epochs(folder)
    best = min(torch.load(file)["metrics"]["loss"] for file in Path(folder).iterdir())
    print(f"{folder}: epochs {sorted(left)} are left; the best loss in any file is {best}")

# %%
left = lifetimes.epochs("copied")
newest = sorted(left) == [9, 10, 11]
reveal("06.2", happened="b" if len(left) == 12 else "a" if newest else "c")

# %% [markdown]
# Epochs 9 and 11 are gone. Epoch 0, which has hardly learned anything, was spared as one of the newest. And **where the times were right, the best is gone as well**: 0.31 is in no file any more. The cleanup counts, and never asks what a file is worth; `best_model.pth` was taken by a worse epoch (06.1).
#
# ## Why: a copy has a time of its own
#
# The time of a file says when its bytes were written where they lie, unless the copying puts the old time back, as `copytree` and `cp -a` do. `cp -r`, `scp -r` and many a download make new files, with new times, in an order of their own. GNU's `cp` goes by the numbers that files have on the disk (`st_ino`, lesson 02). A run that never removed a file mostly comes out in order. In one that did, new files get the numbers of old ones, and the order is lost. So the trial goes well, and the long run does not.

# %%
show(*lifetimes.two_clocks(by_clock, left, losses=losses))

# %% [markdown]
# It happens to experts. Hugging Face's Trainer went by the times until a user's [checkpoint-1000 was removed](https://github.com/huggingface/transformers/issues/26961) right after it had been saved, in 2023. In 2024 it [went by the number](https://github.com/huggingface/transformers/pull/28862). Then somebody began a second run in a used folder, and its checkpoint-100 was removed at once: the lowest number. In 2025 it [went back to the times](https://github.com/huggingface/transformers/pull/37260). Neither knows what a run saved last. The run does, and can write it into the file.
#
# > **Trap.** The wrong file removed looks like the right one: there is room on the disk, and no error.
#
# ## Repair: read, plan, then remove
#
# By hand it is five lines. What counts stands in the files, so read them; and the best stays.


# %%
def cleanup(folder, keep_n):
    files = {path: torch.load(path) for path in Path(folder).glob("checkpoint_epoch_*.pth")}
    newest = sorted(files, key=lambda path: files[path]["epoch"])[-keep_n:]
    best = min(files, key=lambda path: files[path]["metrics"]["loss"])
    for path in files.keys() - {*newest, best}:
        path.unlink()


lifetimes.copy("run", "by hand", seed=6)
cleanup("by hand", keep_n=3)
print("left are epochs", sorted(lifetimes.epochs("by hand")))

# %% [markdown]
# Nobody saw beforehand what it would remove. [`plan_retention`](../koemorph_tutorial/retention.py) only decides. It takes what [`list_checkpoints`](../koemorph_tutorial/storage.py) has read in the files, touches none, and gives a reason for each. You read the plan; then [`carry_out`](../koemorph_tutorial/removal.py) does what it says. A plan that keeps nothing of the run, it refuses.

# %%
from dataclasses import replace

from koemorph_tutorial import list_checkpoints, plan_retention
from koemorph_tutorial.retention import carry_out

lifetimes.copy("run", "planned", seed=6)
plan = plan_retention(list_checkpoints("planned"), keep_last_n=3)
for item in plan.files:
    print(item)

all_of_them = [replace(item, keep=False) for item in plan.files if item.file.kind == "numbered"]
try:
    carry_out(replace(plan, files=all_of_them))
except ValueError as error:
    print(f"\nrefused: {error}")

carry_out(plan)
print("\nleft are epochs", sorted(lifetimes.epochs("planned")))

# %% [markdown]
# Newest is the file that the run saved last. The library's files say which run they are of, and count its saves: a file of another run neither counts nor goes. (The recipe's files say neither; there the epochs decide.)
#
# A `CheckpointManager` plans after each save. By hand you call `cleanup_old_checkpoints("folder", keep_n=3)`, in a shell `koemorph prune folder --keep-last-n 3`. `cleanup_old_checkpoints` and `prune` also read the files, the newest first, until one is sound in every byte. That one never goes.
#
# **What does a removal free?** The library writes an epoch once, and links its further names. We save the same twelve epochs with it, and plan twice: with `keep_best_n=1`, as above, and with 0.

# %%
from koemorph_tutorial import CheckpointManager

state = {"model": torch.nn.Linear(9, 9)}
with CheckpointManager("linked", state, save_freq=1, keep_last_n=None) as checkpoints:
    for epoch in checkpoints.epochs(12):
        checkpoints.save({"loss": losses[epoch]})

files = list_checkpoints("linked")
print(f"{len(files)} names, {len({file.inode for file in files})} files on the disk")
plans = {n: plan_retention(files, keep_last_n=3, keep_best_n=n) for n in (1, 0)}
for keep_best_n, plan in plans.items():
    freed = [item for item in plan.files if not item.keep and item.frees]
    print(f"keep_best_n={keep_best_n}: {len(plan.removed)} names go, {len(freed)} files are freed")

print("\nonly the plan with keep_best_n=0 says:")
for item in plans[0].files:
    if not item.keep and not item.frees:
        print(item.line())

# %% [markdown]
# One name more, and not a byte more: `best_model.pth` is a name of the same bytes, and is never removed. **The best costs nothing.** (Where links survive, that is: of these 14 names `cp -r` makes 14 files, `cp -a` and `rsync -aH` make 12.)
#
# **The proof.** Twenty copies in twenty orders; and a plan frees what it promised.

# %%
chosen = {"clock": set(), "plan": set()}
for seed in range(20):
    lifetimes.copy("run", "again", seed=seed)
    plan = plan_retention(list_checkpoints("again"), keep_last_n=3)
    chosen["clock"].add(tuple(lifetimes.epochs("again")[-3:]))
    chosen["plan"].add(tuple(item.file.epoch for item in plan.files if item.keep))
    shutil.rmtree("again")
for by, choices in chosen.items():
    print(f"different choices by the {by} in 20 copies: {len(choices)}")


def bytes_in(folder):
    found = [file.stat() for file in Path(folder).glob("*.pth")]
    return sum({file.st_ino: file.st_size for file in found}.values())


before = bytes_in("linked")
carry_out(plans[1])
print("freed as planned:", before - bytes_in("linked") == plans[1].bytes_freed)

# %% [markdown]
# **How many are enough?** A longer run numbers every fifth of its sixty epochs, and its last, 59, as a `CheckpointManager` does at the end. Below, a bar is a file, from its birth to its removal. Turn the knobs until seven files on the disk hold both of this: the best, and an epoch from 13 to 17, just before the bad spell. The last line of the caption says what is still missing. (`keep_every_n` keeps every n-th epoch. There is one way.)

# %%
stays = lifetimes.WhatStays(keep_last_n=3)
stays.show()

# %%
stays.keep_every_n.value = 20  # the slider, moved by a line of code
print(stays.caption)

# %% [markdown]
# Every twentieth is not the way. And the best, epoch 37, never had a number: `best_model.pth` alone has it. Which file does `keep_best_n` keep here?
#
# ## Practise
#
# ### 06.3 ● One line is missing (3 minutes, essential)
#
# Complete the function. It decides, and touches no file.


# %%
def what_stays(losses, keep_n):
    """Return the epochs whose files stay: the newest `keep_n`, and the best.

    `losses`: epoch -> loss, in any order.
    """
    newest = sorted(losses)[-keep_n:]
    best = None  # your line
    return {*newest, best}


check("06.3", what_stays)

# %% [markdown]
# ### 06.4 ●● First a plan (7 minutes, essential)
#
# This works, and does it all at once. Make a plan of it that removes nothing. And a loss that is not finite is no best. (Its file still counts among the newest; `plan_retention` does not count it.)

# %%
from pathlib import Path


def planned(folder, keep_n):
    """Say of each file why it stays, and remove nothing.

    {file name: ["newest", "best"]}, an empty list if it may go.
    """
    files = {path: torch.load(path) for path in Path(folder).glob("checkpoint_epoch_*.pth")}
    newest = sorted(files, key=lambda path: files[path]["epoch"])[-keep_n:]
    best = min(files, key=lambda path: files[path]["metrics"]["loss"])
    for path in files.keys() - {*newest, best}:
        path.unlink()


check("06.4", planned)

# %% [markdown]
# ### 06.5 ●●● A night with a full disk (8 minutes, optional)
#
# In the morning the newest files are torn. And a colleague's run has saved into the same folder. Each file says whose it is: `checkpoint["run"]`. Make the cleanup hold. A torn file says nothing: it stays, and does not count. And a loss that is not finite is no best, as in 06.4.

# %%
from pathlib import Path


def clean_up(folder, run, keep_n):
    """Of the files of `run` keep the newest `keep_n` sound ones and the best.

    Remove its other sound files, touch nothing else.
    """
    files = {path: torch.load(path) for path in Path(folder).glob("checkpoint_epoch_*.pth")}
    newest = sorted(files, key=lambda path: files[path]["epoch"])[-keep_n:]
    best = min(files, key=lambda path: files[path]["metrics"]["loss"])
    for path in files.keys() - {*newest, best}:
        path.unlink()


check("06.5", clean_up)

# %% [markdown]
# **Recap**
#
# - **A time belongs to the copy.** What a run saved last, only the run can say: in the file.
# - **Plan first.** A reason for each file, read before anything is removed.
# - **Names are not bytes.** The best may cost nothing, and a removal may free nothing.
#
# Next: what stays can be made smaller. By how much?
