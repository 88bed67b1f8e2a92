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
# - say what a run needs to go on, and why;
# - write a checkpoint, a file from which training goes on as if it had never stopped, to the last bit;
# - keep a copy of the best weights that later training cannot change.
#
# About 20 minutes to read, 15 to practise. You need to have trained one network.
#
# The ten lessons put a recipe to the test: how KoeMorph, a project that moves a face to the sound of a voice, saves its training. It looks finished. This lesson takes its first two parts, when to save and what. The map shows three ways through all ten:
#
# ![Ten lessons on three lines that meet in lesson 10. my run crashed: 01, 02, 03; I pay for disks: 05, 06, 07; I inherit files: 04, 08, 09.](../notebooks/images/map.png)
#
# **日本語:** 学習を途中で止めて再開するには、何をファイルに残せばよいでしょうか。このレッスンでは、重みだけを残した学習を実際に再開し、何が起きるかを予想して確かめます。最後に、止めなかった学習とビット単位で同じ続きができるチェックポイントを作ります。
#
# Run the cells from top to bottom with Shift+Enter. The first one gives the lesson a scratch folder for its files, which vanishes afterwards. A question about yourself to begin with: **if your last training run had been killed a minute before its end, what would have been left?**
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
# ## Predict: Friday evening
#
# ![3 seconds of a synthetic voice, as the face that says it.](../notebooks/images/talking.png)
#
# A small network learns to move this face to the sound of a voice, with AdamW. On Friday evening its weights are saved and the computer is switched off. On Monday the script is started again: it makes the network and the optimizer as it always does, loads the weights, and training goes on.
#
# In the next room stands a twin: until Friday the same run, but never switched off. Both now get the same batch, with the same random numbers. **Are their weights equal after it?**
#
# - a) Yes. Same weights, same batch, so the same step.
# - b) Yes at first; rounding errors pull the two apart after some batches.
# - c) No, not even after one batch.

# %%
predict("01.2", None)  # "a", "b" or "c"

# %% [markdown]
# ## Break: Monday morning
#
# Part 2 of the recipe saves several things, and we come to them. Many projects save only the weights: `torch.save(model.state_dict(), …)`, where `state_dict()` is a dict from names to tensors. So do we, on this Friday.

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
    for batch in batches:  # a batch: the indices of its snippets
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
    train(twin, twin_optimizer, torch.randperm(320).split(8))  # shuffled, eight at a time

# Friday evening: save, and switch off. The twin stays on.
torch.save(twin.state_dict(), "weights.pth")

# Monday morning.
monday, monday_optimizer = begin()
monday.load_state_dict(torch.load("weights.pth"))
print("equal weights before the batch:", equal(monday.parameters(), twin.parameters()))

# One batch for each of the two: snippets 0 to 7.
for model, optimizer in ((twin, twin_optimizer), (monday, monday_optimizer)):
    torch.manual_seed(1)  # so that dropout drops the same in both
    train(model, optimizer, [range(8)])

pair = {"never stopped": twin, "weights alone": monday}
gradients = [[weight.grad for weight in model.parameters()] for model in pair.values()]
print("equal gradients in the batch:  ", equal(*gradients))
print("equal weights after the batch: ", equal(monday.parameters(), twin.parameters()))

# %%
reveal("01.2", happened="a" if equal(monday.parameters(), twin.parameters()) else "c")

# %% [markdown]
# ## Why: a step is made of memory
#
# A gradient says which way is uphill. How far to step the other way is for the optimizer to decide, and AdamW decides it from what it has seen. For each weight it remembers two running means: $m$, of the gradient, and $v$, of its square. (While they are young it scales them up.) The weight moves by about
#
# $$-\text{learning rate} \times \frac{m}{\sqrt{v}}$$
#
# ([Adam, Kingma & Ba 2015](https://arxiv.org/abs/1412.6980); AdamW adds weight decay). Take a weight whose gradient has been +1, −1, +1, −1: by now $m$ is about 0 and $\sqrt{v}$ is 1, so it hardly moves. That is a careful step. A fresh optimizer has seen the last gradient only: $m$ is −1, $\sqrt{v}$ is 1, and **the weight leaps by the whole learning rate**. With −0.001 it does the same: −0.001 / 0.001. Every run begins with such leaps. Then there is nothing to lose; now there are four epochs.

# %%
from koemorph_tutorial.teaching import figures

show(*figures.after_one_batch(torch.load("weights.pth"), pair, audio, faces, lr=5e-3))

# %% [markdown]
# It happens to experts. [PyTorch's own ImageNet example](https://github.com/pytorch/examples/pull/141) resumed without its optimizer, and so without its momentum (an $m$), until a user sent the missing lines in 2017.
#
# > **Trap.** No error is raised. The loss may even recover. You get a run. It is only not the one that you paid for.
#
# ## Repair: save all that the next batch depends on
#
# Without a library you write a dict. KoeMorph's recipe saves the first two of these entries (and the learning rate schedule, which this run has not); it lacks the third. We save after one epoch and let the twin train another.

# %%
torch.manual_seed(0)
twin, twin_optimizer = begin()
train(twin, twin_optimizer, torch.randperm(320).split(8))

checkpoint = {
    "model_state_dict": twin.state_dict(),
    "optimizer_state_dict": twin_optimizer.state_dict(),
    "rng_state": torch.get_rng_state(),  # random numbers: the next shuffle and dropout (a GPU has its own)
}
torch.save(checkpoint, "checkpoint.pth")  # Friday
train(twin, twin_optimizer, torch.randperm(320).split(8))

saved = torch.load("checkpoint.pth")  # Monday
monday, monday_optimizer = begin()
monday.load_state_dict(saved["model_state_dict"])
monday_optimizer.load_state_dict(saved["optimizer_state_dict"])
torch.set_rng_state(saved["rng_state"])
train(monday, monday_optimizer, torch.randperm(320).split(8))

print("bitwise equal:", equal(monday.parameters(), twin.parameters()))

# %% [markdown]
# The last line is the **proof**: forty batches later, not one bit differs. (That holds on one machine, with one version of torch and one number of threads: `setup()` chose a single thread.) Put a `#` before one of the three lines that follow `begin()` and run the cell again: can any of them be spared?
#
# Real runs have more parts, and somebody has forgotten each of them:
#
# | part | without it |
# | --- | --- |
# | the weights | there is no run |
# | the running statistics of BatchNorm | wrong in evaluation |
# | the optimizer | the leap that you saw |
# | the learning rate schedule | it starts again, and the learning rate is wrong |
# | random numbers: Python's, numpy's, torch's | another order, other dropout |
# | where the run is: epoch, batch | nobody knows where it is (lesson 03) |
# | the best loss so far | a worse epoch becomes `best_model.pth` (lesson 03) |
# | settings, versions, git commit | nobody can say what made the file |
#
# The package of these lessons collects them in [`state.build`](../koemorph_tutorial/state.py). Its `CheckpointManager` calls that for you and decides **when a save is due**. Nothing trains in the next cell: seven made-up losses show what is written after which epoch, and why.

# %%
from koemorph_tutorial import CheckpointManager, inspect_checkpoint

losses = [0.9, 0.7, 0.8, 0.75, 0.6, 0.72, 0.65]
with CheckpointManager("run", {"model": twin, "optimizer": twin_optimizer}, save_freq=3) as checkpoints:
    for epoch in checkpoints.epochs(7):
        print(f"epoch {epoch}:", checkpoints.save({"loss": losses[epoch]}))

print("\nlast_model.pth:")
for part in inspect_checkpoint("run/last_model.pth").tensors.children:
    print(f"{part.numbers:7,} numbers in {part.name}")

# %% [markdown]
# Epochs count from 0, so 0, 3 and 6 are due. Epochs 2 and 5 were neither due nor better: nothing was written, and a crash at that moment would cost them (how much to risk is the subject of lesson 05). Two thirds of the numbers are AdamW's memory: two per weight. Run the cell again, and the manager finds its run finished: it brings the state back and trains nothing.
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
# No file this time: you keep the weights of the best epoch in memory, to go back to them at the end. You need a photo of the model, and `model.state_dict()` is not one yet.


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
        pass  # your lines

    def load_state_dict(self, state):
        pass  # your lines


check("01.5", Loudness)

# %% [markdown]
# **Recap**
#
# - The next batch depends on more than the weights. With AdamW they are a third of the numbers in a checkpoint.
# - "Does it come back?" has an answer: train on from the file, and compare the bits.
# - `state_dict()` is live: copy it or write it before the next step.
#
# Next: the file itself. What is left of it when the process is killed while writing?
