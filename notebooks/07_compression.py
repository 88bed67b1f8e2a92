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
# # 07 · A smaller file
#
# **Promise:** after this lesson old checkpoints take less of your disk, and you know of every step what it gains and what it gives up.
#
# You will be able to
# - say how far a file of weights can be packed, and why;
# - pack a file so that every bit comes back, and nobody's code runs when it is opened;
# - leave out what nobody needs any more.
#
# About 15 minutes to read, 18 to practise. [Lesson 01](01_state.ipynb) introduced the recipe and the parts of a run, [lesson 04](04_inference.ipynb) said what it means to open a pickle. [Lesson 06](06_retention.ipynb) decided which files may go. This one is about those that stay: part 7.2 of the recipe, compressing old checkpoints.
#
# **日本語:** 学習済みの重みは、圧縮するとどこまで小さくなるでしょうか。このレッスンでは、レシピの gzip と pickle による保存を実際に動かし、大きさを自分の予想と比べ、そのファイルを開くと何が起きるかを見ます。そのあと、浮動小数点数を作るバイトを並べ替え、一ビットも失わずに、より小さく、より速く保存します。
#
# First a look back at lesson 01: **a network is trained with AdamW, and all that the run is made of is saved. How much of the file are the weights?**
#
# - a) Nearly all of it. The rest is settings and counters.
# - b) About half. The optimizer remembers one number for each weight.
# - c) About a third. The optimizer remembers two numbers for each weight.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("07.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: a full disk
#
# The disk is full. The recipe packs old checkpoints with gzip, which leaves a good third of an English text. Here it gets the checkpoint of a network that has learned to move a face: 47,732 weights, what AdamW remembers of them, and little else. **How much of the file does gzip leave?**
#
# - a) Half or less. Training has put a pattern into the weights, and patterns can be packed.
# - b) Nine tenths, about. Something in each number recurs, and most of it does not.
# - c) All of it. The weights began as random numbers, and what is random cannot be packed.

# %%
predict("07.2", None)

# %% [markdown]
# ## Break: who opens this?
#
# `save_compressed_checkpoint` is the recipe's. The recipe does not say how to open its files. `torch.load` takes none of them: inside is a bare pickle, and only `pickle.load` opens it. You may remember the stranger of lesson 04, who sent a face with a postcard. Here is the next letter.

# %%
import gzip
import os
import pickle
from pathlib import Path

import torch

from koemorph_tutorial.teaching import floats, timemachine


def save_compressed_checkpoint(checkpoint, path):
    with gzip.open(f"{path}.gz", "wb") as file:
        pickle.dump(checkpoint, file)


original = timemachine.train("run") / "last_model.pth"  # twelve short epochs
checkpoint = torch.load(original)
save_compressed_checkpoint(checkpoint, "recipe.pth")
left = os.path.getsize("recipe.pth.gz") / os.path.getsize(original)
print("left of the file:", floats.about(left))


class Postcard:  # the stranger, elsewhere
    def __reduce__(self):
        return os.system, ("echo 'Me again. I travel light these days :-)' > you_were_here.txt",)


save_compressed_checkpoint(checkpoint | {"postcard": Postcard()}, "stranger.pth")
del Postcard  # you have no such class, and need none

with gzip.open("stranger.pth.gz") as file:  # you
    opened = pickle.load(file)
print("opened: epoch", opened["epoch"])
print("on your disk:", Path("you_were_here.txt").read_text(), end="")

# %%
reveal("07.2", happened="a" if left < 0.6 else "b" if left < 0.97 else "c")

# %% [markdown]
# A tenth is saved, about half of that on names and headers, a twelfth of so small a file. It has its price. **To open the file is to run what it names,** and the cure of lesson 04, `weights_only=True`, is not to be had: it belongs to `torch.load`. The recipe is also **slow**: unless told otherwise, `gzip.open` searches at its highest level, 9. A figure below shows how slow.
#
# ## Why: three bytes of noise
#
# A weight is a float32: four bytes, 32 bits. One bit is its sign. Eight are its **exponent**: how large it is, as a power of two. The other 23 are its digits, the **mantissa**. Here is one weight, and below each of its bytes a **byte plane**: the same byte of many weights.

# %%
show(*floats.planes(floats.weights(original)))

# %% [markdown]
# Most weights are of much the same size. So their first byte has nearly always one of a few values. In the last two planes every value comes as often as any other, and nothing foretells it: noise. The second is not far from it. (Its step is the last bit of the exponent.) Since [Shannon, 1948](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x), that is measured. A value of probability $p$ tells $-\log_2 p$ bits. The mean of that over all bytes of a plane, its **entropy**, is how many bits a byte needs at least. In three of four planes that is 8, nearly.
#
# And gzip does not see the planes. In the file, where the last byte of a number comes first, they take turns: noise, noise, noise, pattern, noise, noise … It looks for strings that come again and finds hardly any; then it counts bytes, all four planes in one heap.
#
# It happens to experts. Ray, which trains on whole clusters, took gzip out of its checkpoints in 2022: a gigabyte, packed and unpacked, [took 34 seconds with it and 5 without](https://github.com/ray-project/ray/pull/25177). And malicious models on Hugging Face came packed by 7z: until 2025 the scanner for pickles [could not look into that](https://github.com/mmaitre314/picklescan/pull/35).
#
# > **Trap.** A packed pickle is a pickle. The wrapping hides it from scanners, and from you.
#
# ## Repair: sort, then pack
#
# Pack the bytes of the `.pth` itself, not the objects in it: then what comes back is a `.pth`, for `torch.load` and its `weights_only=True`. And sort them first. By hand that is five lines, with the same gzip at its fastest level.

# %%
import numpy as np

data = original.read_bytes()
planes = np.frombuffer(data + bytes(-len(data) % 4), np.uint8).reshape(-1, 4).T  # bytes 0, 4, 8 …, then 1, 5, 9 …
Path("by_hand.gz").write_bytes(gzip.compress(planes.tobytes(), compresslevel=1))

planes = np.frombuffer(gzip.decompress(Path("by_hand.gz").read_bytes()), np.uint8).reshape(4, -1)
back = planes.T.tobytes()[: len(data)]

print("left of the file:", floats.about(os.path.getsize("by_hand.gz"), len(data)))
print("bitwise equal:", back == data)

# %% [markdown]
# Four fifths, about as far as the planes of the weights allow. (The file even gets a little lower: names and headers pack well.) [`compress_checkpoint`](../koemorph_tutorial/compressed_files.py) sorts the bytes of each tensor into as many planes as its numbers have bytes, packs with [zstd](https://facebook.github.io/zstd/), which is younger and faster than gzip, and adds checksums over everything. (With `codec="gzip"` or `"zstd"` it does not sort, and `gunzip` or `unzstd` opens the file.) The **proof**:

# %%
import shutil
import textwrap

from koemorph_tutorial import compress_checkpoint, decompress_checkpoint, load_checkpoint

shutil.copy(original, "face.pth")
packed = compress_checkpoint("face.pth", codec="shuffle-zstd")
print("left of the file:", floats.about(os.path.getsize(packed), len(data)))

print("bitwise equal:", decompress_checkpoint(packed, output="back.pth").read_bytes() == data)
print("flipped bits that are found:", floats.flips_found(packed, 50), "of 50")

before, after = checkpoint["model_state_dict"], load_checkpoint(packed)["model_state_dict"]  # packed as it is
print("load_checkpoint, equal weights:", all(torch.equal(before[name], after[name]) for name in before))

Path("you_were_here.txt").unlink()
try:
    load_checkpoint("stranger.pth.gz")
except ValueError as error:
    print(textwrap.fill(str(error), 96))
print("something has run:", os.path.exists("you_were_here.txt"))

# %% [markdown]
# The stranger's letter stayed shut.
#
# **Want less? Leave something out.** Two thirds of the file are AdamW's memory (07.1): once nobody goes on with the training, drop it. And `bfloat16` is a float32 rounded to its first two bytes: sign, exponent and seven bits of the mantissa. Of all steps in this lesson only that one changes numbers.

# %%
from koemorph_tutorial.teaching import vowels

small = compress_checkpoint("face.pth", for_inference=True, bf16=True)
networks = [timemachine.network(path)[0] for path in ("face.pth", small)]
before, after = (vowels.say(network) for network in networks)  # a i u e o, once with each
print("the same movements, bitwise:", torch.equal(before, after))
print("read from the lips:", vowels.read(before), "and", vowels.read(after))

show(*floats.ways("face.pth"))

# %% [markdown]
# Against the recipe: smaller, safe to open, and packed many times as fast. With the disk, where `compress_checkpoint` also reads its file back and compares, we measured about four times.
#
# For a folder: `koemorph compress run --older-than 3`. The newest three stay as they are, and so does the best. Each other file goes only when its packed form has been read back and compared.
#
# ## Practise
#
# ### 07.3 ● The way back (3 minutes, essential)
#
# Four planes lie one behind the other. Complete the function.

# %%
import numpy as np


def unshuffle(data):
    """Of four planes, one behind the other, make the bytes of the numbers again."""
    planes = np.frombuffer(data, np.uint8)
    return None  # your line


check("07.3", unshuffle)

# %% [markdown]
# ### 07.4 ●● Drop and halve (5 minutes, essential)
#
# This drops the optimizer. Make it store the weights as `bfloat16` as well: those that are floats. (BatchNorm counts its batches, in a whole number.) The run may still be going on, so the checkpoint itself must not change.

# %%
import torch


def slim(checkpoint):
    """Return what is needed to use the network; the checkpoint itself stays as it is."""
    return {name: value for name, value in checkpoint.items() if name != "optimizer_state_dict"}


check("07.4", slim)

# %% [markdown]
# ### 07.5 ●●● How far can it go? (10 minutes, optional)
#
# Somebody packs numbers, plane by plane, with one table of codes for each plane, and looks at one byte at a time. How small can they get? Compute it: the mean entropy of the planes, as a part of 8 bits.

# %%
import numpy as np


def limit(data, width=4):
    """Return what is left at best, 0 to 1, of numbers of `width` bytes, packed byte by byte in their planes."""
    planes = np.frombuffer(data, np.uint8).reshape(-1, width).T
    return 1.0  # all of it: 8 bits for each byte


check("07.5", limit)

# %%
weights = floats.weights("face.pth")
if limit(weights) < 1:  # once it is yours
    print(f"your limit: {limit(weights):.1%}, shuffle-zstd: {floats.packed(weights):.1%}")

# %% [markdown]
# **Recap**
#
# - **A weight is one byte of pattern and three of noise.** Sorted, the pattern can be packed; the noise never.
# - **Pack files, not objects:** the `.pth` comes back bit by bit, and is opened as safely as before.
# - **The large savings are in what is left out:** the optimizer, then half of each number.
#
# Next: a file has lain on a disk for months. Are its bytes still those that were written?
