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
# # 09 · The model leaves home
#
# **Promise:** after this lesson a network of yours answers where there is no PyTorch, and a receipt says that it is still your network.
#
# You will be able to
# - export a network, for any number of sounds of any length;
# - say what goes into the file, and what stays in Python;
# - prove that the file says what the network says.
#
# About 15 minutes to read, 19 to practise; it runs for about 20 seconds. `best_model.pth` was saved with all that belongs to it ([lesson 01](01_state.ipynb)), brought to the disk whole ([02](02_storage.ipynb)), loaded as it was trained ([04](04_inference.ipynb)) and checked ([08](08_validation.ipynb)). Now it goes out into the world: part 9 of [the recipe](01_state.ipynb), other formats.
#
# **日本語:** 学習したモデルを、PyTorch のない場所で動かすにはどうすればよいでしょうか。このレッスンでは、モデルを ONNX に書き出し、そのファイルが何と答えるかを予想してから、実際に動かして確かめます。最後に、書き出したモデルが元のモデルと同じであることを示すレシートを発行し、そのモデルで顔を話させます。
#
# First a look back at lesson 04: **you send a friend `best_model.pth`, and every checksum in it fits. What else does she need, to see the face move?**
#
# - a) Nothing. The file holds the network.
# - b) The settings that the network was built with.
# - c) Python, PyTorch, and the source code of the network's class.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("09.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: straight from the training
#
# [ONNX](https://onnx.ai) is a format for whole networks: the numbers, and a list of operations that says what is done with them. Many programs can run such a file. One of them is onnxruntime, which knows nothing of Python classes. Somebody exports a network right after its last epoch. It is still in training mode: its dropout is on, and PyTorch, asked the same thing twice, gives two different faces (lesson 04). Then onnxruntime, installed a minute ago and left as it comes, opens the file and is asked the same thing twice. **What happens?**
#
# - a) Two different faces: what was on when it was exported is on in the file.
# - b) The same face twice: to export is to make a network for use, so there is no dropout in the file.
# - c) The same face twice, though dropout is in the file, and on.

# %%
predict("09.2", None)

# %% [markdown]
# ## Break: three files that are not the model
#
# The example trains for twelve short epochs, and is exported as it is. Two sessions of onnxruntime open the file: the usual one, and a plain one, which is told to change nothing in it.

# %%
import os

import numpy as np
import onnxruntime
import torch

from koemorph_tutorial.teaching import tape, timemachine, vowels

tape.hush()  # exporters talk a lot

best = timemachine.train("run") / "best_model.pth"
model, _ = timemachine.network(best)
model.train()  # as after an epoch
sounds, _ = vowels.moments()  # five windows of 6,400 samples

any_size = {"audio": {0: "batch", 1: "samples"}}
names = {"input_names": ["audio"], "output_names": ["blendshapes"]}
quiet = {**names, "verbose": False}
torch.onnx.export(model, (sounds,), "in_training.onnx", dynamic_shapes=any_size, **quiet)

plainly = onnxruntime.SessionOptions()
plainly.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
usual = onnxruntime.InferenceSession("in_training.onnx")
plain = onnxruntime.InferenceSession("in_training.onnx", plainly)


def ask(session, audio):
    return session.run(None, {"audio": audio.numpy()})[0]


equal = [np.array_equal(ask(each, sounds), ask(each, sounds)) for each in (usual, plain)]
print("asked twice, equal in PyTorch:", torch.equal(vowels.say(model), vowels.say(model)))
print("asked twice, equal in the usual session:", equal[0])
print("asked twice, equal in the plain session:", equal[1])

# %%
reveal("09.2", happened="a" if not equal[0] else "b" if equal[1] else "c")

# %% [markdown]
# So it works here, and trembles at somebody else's. (Nor is it safe here: onnxruntime leaves a dropout on that is a network's last operation.) The recipe does call `model.eval()` first. This is its part 9.1; as often in tutorials, the example is a single sound:


# %%
def recipe_export_onnx(model, sample_input, output_path):
    model.eval()
    axes = {"audio": {0: "batch_size"}}
    torch.onnx.export(model, sample_input, output_path, dynamic_axes=axes, **quiet)


recipe_export_onnx(model, sounds[:1], "recipe.onnx")
print("in training mode, as before:", model.training)

session = onnxruntime.InferenceSession("recipe.onnx")
print("the file says:", *(port.shape for port in session.get_inputs() + session.get_outputs()))
for batch in (1, 2):
    try:
        said = ask(session, sounds[:batch]).shape
    except Exception as error:
        said = type(error).__name__
    print(batch, "at a time:", said)
print("on the disk:", sorted(name for name in os.listdir() if name.startswith("recipe")))

# %% [markdown]
# Four holes. **The batch is frozen at 1,** though the file calls it `batch_size`. The length is frozen, at 6,400. **The network stays in eval mode:** a training that goes on from here has lost its dropout, silently. And the weights lie in a second file, which is soon left behind.
#
# And then **numpy.** The original project computes its spectrogram with librosa, which is numpy inside. This does so with the loudness, and makes each sound as loud as the next:


# %%
class Levelled(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, audio):
        frames = np.lib.stride_tricks.sliding_window_view(audio.numpy(), 512, axis=1)
        loudest = np.abs(frames).mean(axis=2).max(axis=1, keepdims=True)
        return self.network(audio / torch.from_numpy(loudest))


levelled = Levelled(model)
try:
    torch.onnx.export(levelled, (sounds,), "levelled.onnx", **quiet)
except Exception as error:
    print("today's exporter:", type(error).__name__)

traced = torch.jit.trace(levelled, sounds)  # the way of older exporters
for what, audio in {"its example": sounds, "half as loud": sounds / 2}.items():
    same = torch.allclose(traced(audio), levelled(audio), atol=1e-5)
    print(f"traced, {what}, same as in Python: {same}")

# %% [markdown]
# Today's exporter refuses (simple numpy it can translate, this it cannot). The older way, tracing, only warns, and takes every sound to be as loud as the example.
#
# ## Why: an export is a recording
#
# An exporter runs `forward` once, on the example, and writes down each operation on a tensor. Python is not written down, only what came of it: a mode, a size, a number that numpy computed. Here are the tapes, one cell for each operation; the second is what the usual session makes of the first.

# %%
tape.as_run("in_training.onnx", "in_training_as_run.onnx")
show(*tape.strips("in_training.onnx", "in_training_as_run.onnx", "recipe.onnx"))

# %% [markdown]
# `(1, 21, 4, 16)`: one sound, 21 moments of it. Two of these numbers belong to the example, and became part of the network.
#
# It happens to experts. [Weaver](https://github.com/hqucms/weaver-core/pull/29), by which particle physicists train networks, declared its batch free and froze it at 1, until 2026. It now exports from 2, and its tests ask the file at several sizes.
#
# > **Trap.** “It loads, and it answers” proves nothing. Neither does the word `batch_size` in a file.
#
# ## Repair: record well, then compare
#
# By hand: eval mode, an example of two, both dimensions free, the old mode again; then ask the file something that the example was not.

# %%
model.train()
before = model.training
model.eval()
torch.onnx.export(model, (sounds[:2],), "by_hand.onnx", dynamic_shapes=any_size, **quiet)
other = torch.cat([sounds, sounds.flip(1)], dim=1)[:3]  # three sounds, twice as long
with torch.no_grad():
    ours = model(other).numpy()
theirs = ask(onnxruntime.InferenceSession("by_hand.onnx", plainly), other)
model.train(before)
print("same to 0.00001:", np.allclose(ours, theirs, rtol=0, atol=1e-5))

# %% [markdown]
# Not bitwise: another runtime adds the same numbers in another order, and rounds otherwise.
#
# [`export_onnx`](../koemorph_tutorial/export.py) does this for any network. It doubles an example of 1, puts each part back into its mode, and writes one file, whole or not at all. Then it asks that file, in both kinds of session: the example, other values, each free size at the smallest that the network takes and at one more, and what you give it as `cases`. What came of it is the **receipt**; it also lies beside the file, as JSON. A file that fails is kept as `….parity-failed.onnx`. `verify_export` writes the receipt of a file that is there already:

# %%
from koemorph_tutorial import export_onnx, verify_export
from koemorph_tutorial.teaching import paper

how = {**names, "free": any_size, "cases": [(sounds,), (other,)]}
receipt = export_onnx(model, sounds[:1], "face.onnx", source=best, **how)
refused = verify_export(model, "in_training.onnx", sounds[:1], free=any_size)
show(*paper.receipts(receipt, refused))

# %% [markdown]
# **The proof** is the left one. And the rest of the Break?

# %%
from koemorph_tutorial import CheckpointError

print("recipe.onnx is the model:", verify_export(model, "recipe.onnx", sounds[:1]).ok)
print("in training mode, as before:", model.training)
try:
    export_onnx(levelled, sounds, "levelled.onnx", **names)
except CheckpointError as error:
    print(str(error).replace(": ", ":\n").replace("; ", ";\n"))

# %% [markdown]
# For a shell: `koemorph export best_model.pth --format onnx`.
#
# **Let it speak.** The file is asked by onnxruntime, with arrays of numpy. A voice that no training has heard speaks for two seconds; a window of 0.4 s slides over it, and every 10 ms the file makes a face.

# %%
from koemorph_tutorial.teaching.talking import talking_face
from koemorph_tutorial.training.voices import HOP, make_voice

audio = make_voice(vowels.SPEAKER, seconds=2, seed=9).audio
windows = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 3200), 6400)[:-1:HOP]
session = onnxruntime.InferenceSession("face.onnx")
faces = np.concatenate([session.run(None, {"audio": w})[0] for w in np.array_split(windows, 4)])
show(talking_face(faces), f"{len(faces)} faces from {len(audio):,} samples of sound.")

# %% [markdown]
# **TorchScript** is the recipe's part 9.2. It sends the code along, in a small Python of its own, so an `if` may stay. But it takes PyTorch to run it, which calls it deprecated today; and the mode travels with it:

# %%
from koemorph_tutorial import export_torchscript

torch.jit.script(model).save("in_training.pt")
loaded = torch.jit.load("in_training.pt")
print("asked twice, equal:", torch.equal(vowels.say(loaded), vowels.say(loaded)))

scripted = export_torchscript(model, "face.pt", example_inputs=sounds)
print("face.pt is the model:", scripted.ok, "- every bit equal:", scripted.largest == 0)

# %% [markdown]
# Its successor is `torch.export`, the recorder that has made every ONNX file above; by itself it writes a `.pt2`, for PyTorch.
#
# ## Practise
#
# ### 09.3 ● The same? (3 minutes, essential)
#
# Complete the function. Answers of different shapes are not the same, and neither is a NaN.

# %%
import numpy as np


def agrees(ours, theirs):
    """Say whether two arrays of answers are the same to 0.00001: True or False."""
    return None  # your line


check("09.3", agrees)

# %% [markdown]
# ### 09.4 ●● As it was before (6 minutes, essential)
#
# This is the recipe's, for any way to write a file. Make it leave the network as it was: each part in the mode it was in (some people freeze a BatchNorm in eval mode and train the rest), also when `write` raises.


# %%
def exported(model, write):
    """Return `write(model)`, called in eval mode; leave each part as it was."""
    model.eval()
    return write(model)


check("09.4", exported)

# %% [markdown]
# ### 09.5 ●●● Out of Python (10 minutes, optional)
#
# A step from a colleague. It computes the right thing, and cannot leave Python, for three reasons. Make it compute the same, and export with batch and length free. (`check` exports it.)

# %%
import numpy as np
import torch


class Louder(torch.nn.Module):
    """Divide each sound by its loudest sample; silence stays silence."""

    def forward(self, audio):  # (batch, samples)
        louder = []
        for sound in audio:
            loudest = np.abs(sound.numpy()).max()
            louder.append(sound / float(loudest) if loudest > 0 else sound)
        return torch.stack(louder)


check("09.5", Louder)

# %% [markdown]
# **Recap**
#
# - **An export is a recording** of one run: modes, sizes and numbers of that run become part of the network.
# - **Eval mode, an example of two, free sizes, torch all the way;** and afterwards each part in its old mode.
# - **The same only where compared:** in the runtime that will run it, as it comes and plain, at sizes that the example did not have.
#
# Next: everything at once. A run of your own against a kill, a full disk and a flipped bit.
