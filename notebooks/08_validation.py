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
# # 08 · Can this file be trusted?
#
# **Promise:** after this lesson you find out what can be known of a checkpoint: whether its bytes are those that were written, what is in it, and how it differs from another.
#
# You will be able to
# - say what one wrong bit does to a model;
# - tell what the disk spoiled from what the training spoiled;
# - find out what happened to a damaged file, and go on from the last sound one.
#
# About 15 minutes to read, 23 to practise. [Lesson 02](02_storage.ipynb) brought a file to the disk whole, [lesson 03](03_resume.ipynb) brought a run back from it. In between it lies there for months, is copied and uploaded. These are parts 8 (checking a file) and 11 (looking into it) of [the recipe](01_state.ipynb).
#
# **日本語:** ディスクの上で一ビットだけ変わったチェックポイントを読み込むと、何が起きるでしょうか。このレッスンでは、本物のファイルのコピーで一ビットを反転させ、結果を自分の予想と比べます。最後に、壊れた五つのファイルを調べ、それぞれに何が起きたのかを突き止めます。
#
# First a look back at lesson 02: **`save_checkpoint` left `checkpoint_epoch_002.pth`, `best_model.pth` and `last_model.pth`, all of the last epoch. Then a disk flips one bit of `best_model.pth`. How many of the three are damaged?**
#
# - a) One: the other two are files of their own.
# - b) All three.
# - c) None: `best_model.pth` only points to the numbered file, which nobody touched.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("08.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: one bit in five million
#
# A network has learned to move a face to the sound of a voice. Months later its checkpoint comes back from the disk with one of its five million bits wrong, in one of the 47,732 weights. Each weight has 32 bits: number 31 is its sign, 30 to 23 are its size (the exponent), 22 to 0 its digits (the mantissa). The wrong bit is number 30. The network is loaded, and hears a sound. **What happens?**
#
# - a) `torch.load` raises an error: the file holds checksums, and one of them no longer fits.
# - b) It loads, and the face is much as before: it is one weight of 47,732, and the network scales what it computes.
# - c) It loads without a word, and the face is ruined: one number drowns all the others.

# %%
predict("08.2", None)

# %% [markdown]
# ## Break: a bit turns over
#
# `recipe_validates` is the recipe's own check in short: a file is good if it can be loaded, holds three entries, and its weights are not empty. The example trains for three epochs; then, in a copy of its last file, the bit is [flipped](../koemorph_tutorial/teaching/flips.py) on the disk. Chance chose the weight (`seed=8`: always the same one), we the bit.

# %%
import shutil
from pathlib import Path

import torch

from koemorph_tutorial.teaching import bits, flips
from koemorph_tutorial.training.config import load_config
from koemorph_tutorial.training.trainer import KoeMorphTrainer


def recipe_validates(path):
    try:
        checkpoint = torch.load(path)
    except Exception:
        return False
    is_there = all(key in checkpoint for key in ("model_state_dict", "epoch", "config"))
    return is_there and len(checkpoint["model_state_dict"]) > 0


config = load_config(["training.epochs=3", "training.checkpoint.save_freq=1"])
KoeMorphTrainer(config, "run").train()
shutil.copy("run/checkpoints/last_model.pth", "original.pth")  # bytes of its own, no further name
shutil.copy("original.pth", "flipped.pth")

weight = flips.draw("flipped.pth", seed=8)
flips.flip("flipped.pth", weight, bit=30)

one, other = Path("original.pth").read_bytes(), Path("flipped.pth").read_bytes()
print("bytes that differ:", sum(a != b for a, b in zip(one, other, strict=True)))
print("the recipe's check:", recipe_validates("flipped.pth"))
show(*bits.faces({"original.pth": "original.pth", "flipped.pth": "flipped.pth"}))

# %%
ruined = not torch.allclose(bits.says("original.pth"), bits.says("flipped.pth"), atol=0.05)
reveal("08.2", happened="a" if not recipe_validates("flipped.pth") else "c" if ruined else "b")

# %% [markdown]
# Spirals stand for NaN, “not a number”. The weight is now about 10³⁷. The network squares what comes of it: infinite. And from infinities comes NaN.
#
# ## Why: a checksum that nobody reads
#
# A `.pth` is a zip archive of records: one for each of its 73 tensors, and six with the rest. With every record `torch.save` writes a **CRC32**: 32 bits computed from all its bytes. Flip any bit, and the CRC32 changes. But `torch.load` does not compare the two: PyTorch [turned that off in 2019](https://github.com/pytorch/pytorch/pull/28858) (users [miss it](https://github.com/pytorch/pytorch/issues/126952)). PyTorch trusts disks and internet connections, and minor errors in a tensor “aren't necessarily catastrophic”. How minor? We draw eight weights, flip each of their 32 bits on the disk, one at a time, and load the file each time.

# %%
show(*bits.survey(bits.flip_many("original.pth", each=8, seed=8)))

# %% [markdown]
# In these eight weights only bit 30 shows: NaN, or another face. (Of 400 others it showed in 390, and 44 of their 12,400 other flips did.) **Nearly all other flips whisper,** and nobody looks for damage. Yet this is no longer the network that was trained: its results cannot be reproduced, and more bits may have turned over. Three fifths of the file are the memory of AdamW, the optimizer: a flip there shows in no face, only in further training.
#
# It happens to experts. In 2022 Meta handed out OPT-175B, a language model in 992 files. Some users got gibberish and no error, until they compared with good files and [found 18 wrong numbers](https://github.com/facebookresearch/metaseq/issues/122).
#
# > **Trap.** “It loads” is no check. Nor is “it loads, and the loss looks right”.
#
# Turn over that first weight's bits yourself: each time a fresh copy is flipped and loaded.

# %%
bits.WhichBit("original.pth", weight, bit=30).show()

# %%
which = bits.WhichBit("original.pth", weight)
which.value = 29  # the slider, moved by a line of code
which.show()

# %% [markdown]
# This one brings the weight to almost 0. It was one term of a sum of 192: what is left is nearly the same.
#
# ## Repair: ask the checksums
#
# They are in the file already, and Python's own `zipfile` compares them:

# %%
import zipfile

for path in ("original.pth", "flipped.pth"):
    with zipfile.ZipFile(path) as archive:
        print(f"{path:13} first damaged record:", archive.testzip())

# %% [markdown]
# What was wrong before it was saved, though, gets a checksum that fits: the NaN of a run that has diverged (its numbers grew beyond all bounds), for one. A file may lack a part. And some good files hold no checksums (turned off, or of an older format): `testzip` calls them damaged. So [`validate_checkpoint`](../koemorph_tutorial/validation.py) has four verdicts, for four things to do:
#
# | verdict | why | what to do |
# | --- | --- | --- |
# | sound | records as they were written, parts complete, numbers finite | go on: nothing speaks against it |
# | damaged | a record that changed | take an older file, look at the disk |
# | incomplete | a part is missing, or a number is NaN or infinite | look at the training, and at what saves |
# | cannot tell | no checksums to compare | decide yourself; once you trust it, save it again |
#
# (… stands for checksums and sizes of one machine.)

# %%
from koemorph_tutorial import CheckpointError, load_checkpoint, validate_checkpoint

torch.save({**torch.load("original.pth"), "model_state_dict": {}}, "hollow.pth")
for path in ("original.pth", "flipped.pth", "hollow.pth"):
    print(bits.in_lines(validate_checkpoint(path)))

try:
    load_checkpoint("flipped.pth")
except CheckpointError as error:
    print("\nload_checkpoint refuses:", type(error).__name__)

# %% [markdown]
# For a shell: `koemorph validate *.pth`. [`load_checkpoint`](../koemorph_tutorial/storage.py) compares while it reads, so nobody has to remember to ask.
#
# **And the run?** Now the bit flips in the folder itself, under `last_model.pth`, which is one of three names (08.1). The run is started again, and [resumes](../koemorph_tutorial/resume.py) from the newest file that is sound.

# %%
import logging

logging.getLogger("koemorph_tutorial").setLevel(logging.ERROR)  # its warnings say what is printed below

flips.flip("run/checkpoints/last_model.pth", weight, bit=30)
resumed = KoeMorphTrainer(config, "run").train(resume="auto").resumed
for name, reason in resumed.passed_over:
    print("passed over:", name)
print("resumed from:", resumed.file.path.name)

paths = ("original.pth", "run/checkpoints/last_model.pth")
before, after = (load_checkpoint(path)["model_state_dict"] for path in paths)
print("bitwise equal to before the damage:", all(torch.equal(before[name], after[name]) for name in before))

# %% [markdown]
# **The proof** is the last line: the run fell back by one epoch, trained it again, and has the same model. With `save_freq=1` that is what a damaged file costs, if an older one is there.
#
# **What is in a file, and what differs between two?** [`inspect_checkpoint`](../koemorph_tutorial/inspection/summary.py) reads without loading; [`diff_checkpoints`](../koemorph_tutorial/difference/compare.py) compares bit by bit, what matters first.

# %%
from koemorph_tutorial import diff_checkpoints, inspect_checkpoint

inside = inspect_checkpoint("original.pth")
print(f"epoch {inside.epoch}, {inside.tensors.numbers:,} numbers")
print(bits.in_lines(f"states: {', '.join(inside.states)}"))
print(bits.in_lines(f"where it comes from: {', '.join(inside.metadata)}"))
print()
print(bits.in_lines(diff_checkpoints("original.pth", "flipped.pth")))
print()
print(bits.in_lines(diff_checkpoints("run/checkpoints/checkpoint_epoch_001.pth", "original.pth")))

# %% [markdown]
# “16 % in the median”: half the tensors moved by less than 16 % of their length, half by more. For a shell: `koemorph inspect FILE`, `koemorph diff A B`.
#
# ## Practise
#
# ### 08.3 ● Is it whole? (3 minutes, essential)
#
# Complete the function.

# %%
import zipfile


def is_whole(path):
    """Say of a checkpoint whether all its records are as they were written: True or False."""
    with zipfile.ZipFile(path) as archive:
        return None  # your line


check("08.3", is_whole)

# %% [markdown]
# ### 08.4 ●● The autopsy (10 minutes, essential)
#
# Five files lie in `autopsy/`. Each should equal `original.pth`; something else has happened to each. `validate_checkpoint` alone cannot tell all five apart. Use `zipfile`, `validate_checkpoint`, `diff_checkpoints` and `torch.load`.

# %%
from koemorph_tutorial.teaching import autopsy

autopsy.lay_out("original.pth", "autopsy")
print("1.pth:", validate_checkpoint("autopsy/1.pth").verdict)  # go on from here

# %%
# One for each of the five, and one is left over:
#   "a bit flipped on the disk", "a bit flipped in memory" (before it was saved), "cut short",
#   "a lost block" (4,096 bytes, now zeros), "a diverged run", "no checksums" (saved without)
causes = {
    "1.pth": None,
    "2.pth": None,
    "3.pth": None,
    "4.pth": None,
    "5.pth": None,
}


check("08.4", causes)

# %% [markdown]
# ### 08.5 ●●● Four verdicts (10 minutes, optional)
#
# Make this check hold: for files that are cut short, for good files that were saved with checksums turned off, and for weights that are missing, NaN or infinite. `archive.infolist()` lists the records, each with its `.CRC`.

# %%
import zipfile


def verdict(path):
    """Return "sound", "damaged", "incomplete" or "cannot tell"."""
    with zipfile.ZipFile(path) as archive:
        return "sound" if archive.testzip() is None else "damaged"


check("08.5", verdict)

# %% [markdown]
# **Recap**
#
# - **A wrong bit loads in silence.** `torch.load` notices a file that is cut short, not one whose numbers have changed.
# - **The checksums are there.** Ask them first, and only then look at the numbers.
# - **Four verdicts, not two.** Disk and training are repaired in different places, and some files cannot be judged.
#
# Next: the model leaves Python. Does the exported file say the same?
