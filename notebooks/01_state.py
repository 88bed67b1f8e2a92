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
# # 01 · What a run is made of
#
# **Promise:** after this lesson you know what a training run is made of, and can prove that a file holds all of it.
#
# You will be able to
# - explain what a run loses when only its weights come back;
# - write a checkpoint from which training goes on as if it had never stopped, to the last bit;
# - keep the best weights in memory without losing them.
#
# About 20 minutes to read, 15 to practise. You need to have trained one network; it does not matter which.
#
# The ten lessons put one recipe to the test: how a real project, KoeMorph, saves its training. It writes a dict of weights, optimizer and scheduler every few epochs, keeps a `best_model.pth` and a `last_model.pth`, and looks finished. This lesson takes its parts 1 (when to save) and 2 (what to save). The map shows three ways through all ten:
#
# ![Ten lessons on three lines that meet in lesson 10. my run crashed: 01, 02, 03; I pay for disks: 05, 06, 07; I inherit files: 04, 08, 09.](../notebooks/images/map.png)
#
# **日本語:** 学習を途中で止めて再開するには、何をファイルに残せばよいでしょうか。このレッスンでは、重みだけを残した学習を実際に再開し、何が起きるかを予想して確かめます。最後に、止めなかった学習とビット単位で同じ続きができるチェックポイントを作ります。
#
# Run the cells from top to bottom with Shift+Enter, the first one first: it also gives the lesson a scratch folder for its files, which vanishes afterwards. A question about yourself to begin with: **if your last training run had been killed a minute before its end, what would have been left?**
#
# - a) Nothing: I do not save, or only at the end.
# - b) The weights.
# - c) The weights and the optimizer.
# - d) A run that goes on as if nothing had happened; I have tried it.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("01.1", None)  # put "a", "b", "c" or "d" in place of None, and run the cell again

# %% [markdown]
# ## Predict: Friday evening, Monday morning
#
# A small network learns to move a face to the sound of a voice. Its optimizer is AdamW. On Friday evening the weights are saved and the computer is switched off. On Monday they are loaded into a fresh network, with a fresh AdamW of the same settings, and training goes on.
#
# In the next room stands a twin: until Friday the same run, but never switched off. Both get the same next batch now, with the same random numbers. **Are their weights equal after it?**
#
# - a) Yes. Same weights, same batch, so the same step.
# - b) Yes at first; rounding errors pull the two apart after some batches.
# - c) No, not even after one batch.

# %%
predict("01.2", None)  # "a", "b" or "c"

# %% [markdown]
# ## Break: the optimizer forgets
#
# Many projects save less than the recipe does. They write one line, `torch.save(model.state_dict(), …)`, where `state_dict()` is a dict from names to tensors: the weights. So do we on this Friday.

# %%
import torch
from torch.nn.functional import mse_loss

from koemorph_tutorial.training.dataset import make_split
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import DataConfig

audio, faces = make_split(DataConfig(), "train").tensors  # 320 snippets of a synthetic voice, and the face for each


def begin():
    model = SimplifiedKoeMorphModel()
    return model, torch.optim.AdamW(model.parameters(), lr=5e-3)


def train(model, optimizer, batches):
    for batch in batches:  # the numbers of the snippets in it
        loss = mse_loss(model(audio[batch]), faces[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def equal(one, other):  # to the last bit
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# The week: four epochs. Until Friday there is one run.
torch.manual_seed(0)
twin, twin_optimizer = begin()
for epoch in range(4):
    train(twin, twin_optimizer, torch.randperm(320).split(8))

# Friday evening: save, and switch off. The twin stays on.
torch.save(twin.state_dict(), "weights.pth")

# Monday morning.
monday, fresh_optimizer = begin()
monday.load_state_dict(torch.load("weights.pth"))
print("equal weights before the batch:", equal(monday.parameters(), twin.parameters()))

# One batch for each of the two: snippets 0 to 7.
for model, optimizer in ((twin, twin_optimizer), (monday, fresh_optimizer)):
    torch.manual_seed(1)  # so that dropout drops the same in both
    train(model, optimizer, [range(8)])

gradients = [[weight.grad for weight in model.parameters()] for model in (twin, monday)]
print("equal gradients in the batch:  ", equal(*gradients))
print("equal weights after the batch: ", equal(monday.parameters(), twin.parameters()))

# %%
reveal("01.2", happened="a" if equal(monday.parameters(), twin.parameters()) else "c")

# %% [markdown]
# ## Why: a step is made of memory
#
# A gradient says which way is downhill. How far to go is for the optimizer to decide, and AdamW decides it by what it has seen. For each weight it remembers two numbers: $m$, a running mean of the gradient, and $v$, one of its square. The weight moves by about
#
# $$\text{learning rate} \times \frac{m}{\sqrt{v}}$$
#
# ([Adam, Kingma & Ba 2015](https://arxiv.org/abs/1412.6980); AdamW adds weight decay). Take a weight whose gradient is +1, −1, +1, −1: its mean is about 0, $\sqrt{v}$ is 1, so it hardly moves. That is a careful step. A fresh optimizer has seen only the last gradient, −1: now $m$ is −1, $\sqrt{v}$ is 1, and **the weight leaps by the whole learning rate**. A gradient of −0.001 does the same: −0.001 / 0.001.

# %%
from koemorph_tutorial.teaching import figures

pair = {"never stopped": twin, "weights alone": monday}
show(*figures.after_one_batch(torch.load("weights.pth"), pair, audio, faces, lr=5e-3))

# %% [markdown]
# It happens in good houses. [PyTorch's own ImageNet example](https://github.com/pytorch/examples/pull/141) resumed without its optimizer, and so without its momentum, until a user sent the missing lines in 2017.
#
# > **Trap.** No error is raised, and training goes on. You get a run. It is only not the one that you paid for.
#
# ## Repair: save all that the next batch depends on
#
# By hand it is a dict. The recipe has its first three entries; `rng_state` is the one that it lacks.

# %%
torch.manual_seed(0)
steady, steady_optimizer = begin()
train(steady, steady_optimizer, torch.randperm(320).split(8))

checkpoint = {
    "epoch": 0,
    "model_state_dict": steady.state_dict(),
    "optimizer_state_dict": steady_optimizer.state_dict(),
    "rng_state": torch.get_rng_state(),  # decides the next order of the snippets and the next dropout
}
torch.save(checkpoint, "checkpoint.pth")  # Friday
train(steady, steady_optimizer, torch.randperm(320).split(8))  # the one that stays on: another epoch

back = torch.load("checkpoint.pth")  # Monday
returned, returned_optimizer = begin()
returned.load_state_dict(back["model_state_dict"])
returned_optimizer.load_state_dict(back["optimizer_state_dict"])
torch.set_rng_state(back["rng_state"])
train(returned, returned_optimizer, torch.randperm(320).split(8))

print("bitwise equal:", equal(returned.parameters(), steady.parameters()))

# %% [markdown]
# The last line is the **proof**: forty batches later, not one bit differs. Put a `#` before one of the three lines that load something, and run the cell again: does it stay True for any of them?
#
# Real runs have more parts, and somebody has forgotten each of them:
#
# | part | without it |
# | --- | --- |
# | the weights, and the running statistics of BatchNorm | there is no run |
# | the optimizer | the leap that you saw |
# | the learning rate schedule | the learning rate starts again |
# | random numbers: Python's, numpy's, torch's | another order, other dropout |
# | where the run is: epoch, batch | an epoch is trained twice (lesson 03) |
# | the best loss so far | a worse epoch becomes `best_model.pth` (lesson 03) |
# | settings, versions, git commit | nobody can say what made the file |
#
# The library's [`state.build`](../koemorph_tutorial/state.py) collects them all in one dict. You rarely call it: `CheckpointManager` does, and it decides **when a save is due**, which the recipe does with a few `if`s. Nothing trains in the next cell. Seven made-up losses show what is written after which epoch, and why; then we look into a file.

# %%
from koemorph_tutorial import CheckpointManager, inspect_checkpoint

losses = [0.9, 0.7, 0.8, 0.75, 0.6, 0.72, 0.65]
with CheckpointManager("run", {"model": steady, "optimizer": steady_optimizer}, save_freq=3) as checkpoints:
    for epoch in checkpoints.epochs(7):
        print(f"epoch {epoch}:", checkpoints.save({"loss": losses[epoch]}))

print("\nlast_model.pth:")
for part in inspect_checkpoint("run/last_model.pth").tensors.children:
    print(f"{part.numbers:7,} numbers in {part.name}")

# %% [markdown]
# Epochs count from 0, so 0, 3 and 6 are due. Epochs 2 and 5 were neither due nor better: nothing was written, and a crash at that moment would cost them; what that is worth is lesson 05. Two thirds of the file are the memory of AdamW. And if you run the cell again, the manager finds its run in the folder, finished, and does nothing.
#
# ## Practise
#
# ### 01.3 ● One line is missing (3 minutes, essential)
#
# Complete the checkpoint. `check` saves what you return, loads it, trains on from it, and compares the bits.


# %%
def checkpoint_of(model, optimizer):
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": None,  # your line
    }


check("01.3", checkpoint_of)

# %% [markdown]
# ### 01.4 ●● A photo of the best (5 minutes, essential)
#
# No file this time: you keep the weights of the best epoch in memory, to go back to them at the end. `model.state_dict()` looks like a photo of the model, but it is a window.


# %%
def photo_of(model):
    """Return the state of the model as it is now, whatever training does to it later."""
    return None  # your line


check("01.4", photo_of)

# %% [markdown]
# ### 01.5 ●●● A part that torch does not know (7 minutes, optional)
#
# This run divides each batch by the loudest sample of the last four batches. After a resume the object has heard nothing, so the same sound reaches the network louder than it should. Give it the two methods that torch's own parts have.


# %%
class Loudness:
    """Divides each batch by the loudest sample of the last four."""

    def __init__(self):
        self.peaks, self.batches = [], 0

    def hear(self, batch):
        self.batches += 1
        self.peaks.append(batch.abs().max().item())
        del self.peaks[:-4]
        return batch / max(self.peaks)

    def state_dict(self):
        return None  # your line

    def load_state_dict(self, state):
        return None  # your line


check("01.5", Loudness)

# %% [markdown]
# **Recap**
#
# - A run is all that the next batch depends on. With AdamW the weights are a third of it.
# - "Does it come back?" has an answer: train on from the file, and compare the bits.
# - `state_dict()` is live: copy it or write it before the next step.
#
# Next: the file itself. What is left of it when the process is killed while writing?
