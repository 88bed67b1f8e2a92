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
# # 01 · A run is more than its weights
#
# **Promise:** after this lesson you know everything that a training run is made of, and can prove that a file holds it.
#
# You will be able to
# - say why a run that goes on from its weights alone is another run from the first batch on;
# - write a checkpoint from which a run goes on bitwise, and prove it in one line;
# - keep the best weights in memory without losing them.
#
# 15 minutes to read, 15 to practise. You need to have trained one network; it does not matter which.
# The ten lessons put a recipe to the test, a short guide to checkpointing that looks finished. This one takes its parts 1 (when to save) and 2 (what to save). The map shows three ways through them:
#
# ![Ten lessons on three lines that meet in lesson 10. my run crashed: 01, 02, 03; I pay for disks: 05, 06, 07; I inherit files: 04, 08, 09.](../notebooks/images/map.png)
#
# **日本語:** 学習の途中経過は「重み」だけではありません。オプティマイザの記憶や乱数の状態を失うと、再開した学習は最初のバッチから別のものになります。このレッスンでは、それを実際に壊して確かめ、ビット単位で同じ続きができるチェックポイントを作ります。
#
# Run the cells from top to bottom with Shift+Enter; the files that they write go to a scratch folder that vanishes afterwards. Before anything else, a question about yourself: **if your last training run had been killed a minute before its end, what would have been left?**
#
# - a) Nothing: I save when it is done.
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
# A small network learns to move a face to the sound of a voice. On Friday evening its weights are saved and the computer is switched off. On Monday they are loaded into a fresh network, with a fresh optimizer of the same settings, and training goes on.
#
# In the next room a twin of this run was never stopped. Both get the same next batch now, with the same random numbers. **Are their weights equal after it?**
#
# - a) Yes. Same weights, same batch, so the same step.
# - b) Yes at first; rounding errors pull the two apart after some batches.
# - c) No, not even after one batch.

# %%
predict("01.2", None)  # "a", "b" or "c"

# %% [markdown]
# ## Break: the optimizer forgets
#
# Part 2 of the recipe saves a dict of several states, and we come to that. Many projects save less: one line, `torch.save(model.state_dict(), …)`. So do we on this Friday.

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
    for batch in batches:
        loss = mse_loss(model(audio[batch]), faces[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# The week: four epochs.
torch.manual_seed(0)
twin, twin_optimizer = begin()
for epoch in range(4):
    train(twin, twin_optimizer, torch.randperm(320).split(8))

# Friday evening.
torch.save(twin.state_dict(), "weights.pth")

# Monday morning.
monday, fresh_optimizer = begin()
monday.load_state_dict(torch.load("weights.pth"))
print("equal weights before the batch:", equal(monday.parameters(), twin.parameters()))

# One batch for each of the two, the first eight snippets.
for model, optimizer in ((twin, twin_optimizer), (monday, fresh_optimizer)):
    torch.manual_seed(1)  # the same dropout
    train(model, optimizer, [range(8)])

gradients = [[weight.grad for weight in model.parameters()] for model in (twin, monday)]
print("equal gradients in the batch:  ", equal(*gradients))
print("equal weights after the batch: ", equal(monday.parameters(), twin.parameters()))

# %%
reveal("01.2", happened="a" if equal(monday.parameters(), twin.parameters()) else "c")

# %% [markdown]
# ## Why: a step is made of memory
#
# A gradient says which way is downhill. How far to go is for the optimizer to decide, and AdamW decides it by what it has seen. For each weight it keeps a running mean of the gradient, $m$, and one of its square, $v$, and takes a step of about
#
# $$\text{learning rate} \times \frac{m}{\sqrt{v}}$$
#
# ([Kingma & Ba 2015](https://arxiv.org/abs/1412.6980)). Batches disagree, so their mean $m$ is small against $\sqrt{v}$, and the steps are careful. A fresh optimizer has seen one gradient $g$, and nothing to disagree with: $m/\sqrt{v} = g/|g| = \pm 1$. However small the gradient is, **the weight leaps by the whole learning rate**.

# %%
from koemorph_tutorial.teaching import figures
from koemorph_tutorial.training.phonemes import ARKIT_NAMES

friday = torch.load("weights.pth")
steps, talk = {}, {}
for name, model in (("never stopped", twin), ("weights alone", monday)):
    moved = [(weight - friday[key]).abs().flatten() for key, weight in model.state_dict().items()]
    steps[name] = torch.cat(moved) / 5e-3  # in learning rates
    with torch.inference_mode():
        talk[name] = model.eval()(audio)

mouth = [name.startswith(("mouth", "jaw")) for name in ARKIT_NAMES]
apart = (talk["never stopped"] - talk["weights alone"])[:, mouth].square().sum(1).argmax()
shown = {"it should be": faces[apart]} | {name: face[apart] for name, face in talk.items()}

leapt = {name: (step > 0.8).float().mean().item() for name, step in steps.items()}
words = {name: "nearly all" if part > 0.9 else "hardly any" if part < 0.05 else "some" for name, part in leapt.items()}
show(
    figures.first_step(steps, shown),
    "How far one batch moved the weights. More than 0.8 learning rates: "
    f"{words['never stopped']} of those of the run that never stopped, {words['weights alone']} where the weights came "
    "alone. Right: the snippet of the 320 at which the two mouths now differ most.",
)

# %% [markdown]
# This happens in good houses: [PyTorch's own ImageNet example](https://github.com/pytorch/examples/pull/141) saved and resumed without its optimizer until 2017, when a reader sent the missing lines.
#
# > **Trap.** No error is raised, and the loss comes down again. You get a run. It is only not the one that you paid for.
#
# ## Repair: save all that the next batch depends on
#
# By hand it is one dict, in which the recipe would only lack the last line:

# %%
torch.manual_seed(0)
twin, twin_optimizer = begin()
train(twin, twin_optimizer, torch.randperm(320).split(8))

checkpoint = {
    "epoch": 0,
    "model_state_dict": twin.state_dict(),
    "optimizer_state_dict": twin_optimizer.state_dict(),
    "rng_state": torch.get_rng_state(),  # decides the next order of the data and the next dropout
}
torch.save(checkpoint, "checkpoint.pth")  # Friday
train(twin, twin_optimizer, torch.randperm(320).split(8))  # the twin goes on for an epoch

back = torch.load("checkpoint.pth")  # Monday
monday, monday_optimizer = begin()
monday.load_state_dict(back["model_state_dict"])
monday_optimizer.load_state_dict(back["optimizer_state_dict"])
torch.set_rng_state(back["rng_state"])
train(monday, monday_optimizer, torch.randperm(320).split(8))

print("bitwise equal:", equal(monday.parameters(), twin.parameters()))

# %% [markdown]
# That line is the **proof**: forty batches later, not one bit differs. Real runs have more parts, and somebody has forgotten each of them:
#
# | part | without it |
# | --- | --- |
# | the weights, and what BatchNorm has counted | there is no run |
# | the optimizer | the leap that you saw |
# | the scheduler | the learning rate starts again |
# | random numbers of Python, numpy, torch | other dropout, other order, other noise |
# | the position: epoch, batch, step | an epoch is trained twice (lesson 03) |
# | the best so far | a worse epoch replaces `best_model.pth` (lesson 03) |
# | config, versions, git commit | nobody can say what made the file |
#
# The library collects them in [`state.build`](../koemorph_tutorial/state.py), from any objects with a `state_dict`, and gives them back by `restore`. `CheckpointManager` calls both for you, and it knows **when a save is due**. The recipe calls an epoch the best by its validation loss, but stores the *training* metrics with it, and forgets the best value itself. Here is the manager with seven epochs whose losses we made up:

# %%
from koemorph_tutorial import CheckpointManager, inspect_checkpoint

losses = [0.9, 0.7, 0.8, float("nan"), 0.6, 0.75, 0.65]
with CheckpointManager("run", {"model": twin, "optimizer": twin_optimizer}, save_freq=3) as checkpoints:
    for epoch in checkpoints.epochs(7):
        print(f"epoch {epoch}:", checkpoints.save({"loss": losses[epoch]}))

print("\nin last_model.pth:")
for part in inspect_checkpoint("run/last_model.pth").tensors.children:
    print(f"{part.numbers:7,} numbers  {part.name}")

# %% [markdown]
# Two thirds of the file are the optimizer's memory. The NaN of epoch 3 was saved because it was due, and can never be the best. In a terminal, `koemorph inspect` says all of this about any checkpoint, also a stranger's.
#
# ## Practise
#
# ### 01.3 ● One line is missing (3 minutes, essential)
#
# Complete the checkpoint. `check` saves it, loads it, trains on from it, and compares the bits.


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
# This run divides each batch by the loudest sample of the last four batches. After a resume the object below has heard nothing, and the same sound reaches the network louder than ever before. Give it the two methods that torch's own parts have.


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
# - A run is all that the next batch depends on. The weights are a third of it.
# - "Does it come back?" has an answer: train on from the file, and compare the bits.
# - `state_dict()` is live: copy it or write it before the next step.
#
# Next: the file itself. What is left of it when the process is killed while writing?
