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
# # 03 · The run that comes back
#
# **Promise:** after this lesson a run of yours goes on where it stopped, and a certificate says so.
#
# You will be able to
# - say what each part of a checkpoint is good for, when a run comes back;
# - resume a run, at the end of an epoch and inside one;
# - certify a training loop: killed, resumed, compared to the last bit.
#
# About 25 minutes to read, 20 to practise. [Lesson 01](01_state.ipynb) settled what belongs in a checkpoint, [lesson 02](02_storage.ipynb) how it reaches the disk whole; here it comes back. This is part 5.1 of the recipe, loading for training, and the `--resume` of part 10.
#
# **日本語:** チェックポイントから再開した学習は、止めなかった学習と同じものになるでしょうか。このレッスンでは、レシピの再開処理を実際に動かして自分の予想と比べ、チェックポイントの中身が一つずつ何の役に立つのかを確かめます。最後に、学習を途中で強制終了し、続きが一致するかどうかをビット単位で調べる証明書を作ります。
#
# Back to lesson 02 first. A run was killed while it saved, and its folder copied to another machine. Three files are in it: `checkpoint_epoch_006.pth`, a torn `last_model.pth`, and `best_model.pth`, which holds epoch 4 and was copied last. **From which one does the run go on?**
#
# - a) `last_model.pth`: it has that name for a reason.
# - b) `checkpoint_epoch_006.pth`: of the whole files it holds the furthest epoch.
# - c) `best_model.pth`: it has the newest time stamp.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("03.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: Monday again
#
# A run of seven epochs is stopped on Friday, right after epoch 3 was saved. The recipe's file holds the weights, the optimizer, the learning rate schedule, the number of the epoch and its loss. On Monday the script is started with `--resume`. As always it sets its seed and makes its parts; then it loads the file and trains to the end. A twin was never stopped. We try it with random numbers (shuffling, dropout, noise), then without any. **Are the weights of run and twin equal after the last epoch?**
#
# - a) They differ with random numbers, and differ without.
# - b) They differ with random numbers, and are equal without.
# - c) They are equal with random numbers, and equal without.

# %%
predict("03.2", None)

# %% [markdown]
# ## Break: the recipe goes on
#
# Part 5.1 is `recipe_resume` below; the two functions around it save and train. The run is the example of lesson 01, made [small](../koemorph_tutorial/teaching/amnesia.py): eight batches an epoch. With `chance=False` nothing in it is random.

# %%
import os

import torch

from koemorph_tutorial.teaching import amnesia


def recipe_state(run, epoch, loss, best):
    return {
        "epoch": epoch,
        "model_state_dict": run.model.state_dict(),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict(),
        "metrics": {"loss": loss},
    }


def recipe_resume(run, checkpoint):
    run.model.load_state_dict(checkpoint["model_state_dict"])
    run.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    run.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    return checkpoint["epoch"], float("inf")  # the first epoch to train, the best loss so far


def train(folder, epochs, state_of, resume=None, **chance):
    os.makedirs(folder, exist_ok=True)
    run, start, best = amnesia.SmallRun(**chance), 0, float("inf")
    if resume:
        start, best = resume(run, torch.load(f"{folder}/last_model.pth"))
    print(f"{folder}: epochs", *range(start, epochs))
    for epoch in range(start, epochs):
        run.train_epoch()
        loss = run.validate()
        names = ["last", "best"] if loss < best else ["last"]
        best = min(best, loss)
        for name in names:
            torch.save(state_of(run, epoch, loss, best), f"{folder}/{name}_model.pth")
    return run


def stop_and_resume(name, state_of, resume, **chance):
    twin = train(f"{name}/twin", 7, state_of, **chance)
    train(f"{name}/run", 4, state_of, **chance)  # until Friday
    run = train(f"{name}/run", 7, state_of, resume, **chance)  # from Monday
    print("equal weights:", torch.equal(run.weights, twin.weights))
    return run, twin


monday, twin = stop_and_resume("recipe", recipe_state, recipe_resume)
plain, plain_twin = stop_and_resume("nothing random", recipe_state, recipe_resume, chance=False)

# %%
equal, equal_without = (torch.equal(a.weights, b.weights) for a, b in ((monday, twin), (plain, plain_twin)))
reveal("03.2", happened="c" if equal else "b" if equal_without else "a")

# %% [markdown]
# **The epoch is repeated:** `checkpoint["epoch"]` is the epoch that is done, and the recipe begins with it. **The random numbers begin again:** Monday shuffles its first epoch as epoch 0 was. The third is in the folder:

# %%
print("Monday's first epoch in the order of epoch 0:", torch.equal(monday.seen[0], twin.seen[0]))
good, now = (torch.load(f"recipe/{folder}/best_model.pth") for folder in ("twin", "run"))
print(f"best_model.pth: epoch {good['epoch']} in the twin's folder, epoch {now['epoch']} in that of the run")
print("as good as the twin's:", now["metrics"]["loss"] <= good["metrics"]["loss"])

# %% [markdown]
# **The best is forgotten:** on Monday the best loss is infinite, so the first epoch that ends takes `best_model.pth`, whatever it is worth. The better model, trained before Friday, is overwritten.
#
# ## Why: forgetting makes another run
#
# A run is stopped in epoch 3, after five of eight batches. From its checkpoint it comes back eleven times: whole, with one part left out, with all left out. What is left out stays as a fresh start makes it. (RNG: random number generator. Python's draws how loud a sound is, numpy's how strong its noise, torch's the noise and dropout; the data order has one of its own in this figure. The early-stop count: epochs in vain, without a new best.)

# %%
from koemorph_tutorial.teaching import gaps

show(*gaps.matrix(amnesia.forget_each()))

# %% [markdown]
# The best and the early-stop count move no weight: they decide what is kept and when to stop. Every other gap makes another run, most at once, the schedule's when it is first asked for. The optimizer's is the widest: besides its memory it holds the learning rate, which the schedule only changes; a fresh optimizer begins with the first rate.
#
# Now look at the arrows. **Different is not worse:** some forgetful runs end with a lower loss than the run that never stopped. No loss curve can prove a resume right. Equality can.
#
# It happens to experts. [nnU-Net](https://github.com/MIC-DKFZ/nnUNet/pull/401), a tool for medical images, did not save its best value, so after a restart a newer model took its place, until a user sent the missing lines in 2020.
#
# > **Trap.** An optimizer's `load_state_dict` may keep the very tensors that it is given, and train on in them. For a second resume load the file anew.
#
# Tick what the run shall forget, and it trains while you wait.

# %%
choose = gaps.Forget("scheduler")
choose.show()

# %%
choose.value = ["scheduler", "optimizer"]  # the ticks, set by a line of code
choose.show()

# %% [markdown]
# ## Repair: go on, do not begin again
#
# By hand it is two short functions around the recipe's: the best and the random numbers go into the file and come back, and training begins one epoch further on. The random numbers are [restored](../koemorph_tutorial/rng.py) last, when nothing else draws any. With torch's comes the data order, which the recipe draws from them.

# %%
from koemorph_tutorial.rng import capture_rng, restore_rng


def repaired_state(run, epoch, loss, best):
    return {**recipe_state(run, epoch, loss, best), "best": best, "rng_state": capture_rng()}


def repaired_resume(run, checkpoint):
    recipe_resume(run, checkpoint)
    restore_rng(checkpoint["rng_state"])  # of Python, numpy, torch, and each GPU
    return checkpoint["epoch"] + 1, checkpoint["best"]


stop_and_resume("repaired", repaired_state, repaired_resume)
good, now = (torch.load(f"repaired/{folder}/best_model.pth") for folder in ("twin", "run"))
print("the same best:", good["metrics"] == now["metrics"])

# %% [markdown]
# **Inside an epoch.** An epoch may last a day, and this loop saves only at its end: a kill inside costs its batches so far. To go on behind batch 4 takes two things more: the count of batches done, and the state that the shuffling generator had **before** it drew this epoch's order. (Drawing it again must not move the other random numbers: the generator serves nothing else.) [`ResumableLoader`](../koemorph_tutorial/loading.py) does this for any DataLoader. `CheckpointManager` saves it with the rest, and its `epochs` [resumes](../koemorph_tutorial/resume.py) from the newest whole file. Its `step` saves inside an epoch: as often as `every_n_steps` or `every_minutes` says, and after a warning, and leaves: many clusters send SIGTERM before they kill.

# %%
from functools import partial

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.testing import certify


def ours(folder, recorder, forget=None):  # recorder: for loops that save in their own way
    run = amnesia.SmallRun()
    loader = ResumableLoader(run.loader)
    objects = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler, "loader": loader}
    objects.pop(forget, None)
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(3):
            for batch in loader:
                run.step(batch)
                checkpoints.step()
            run.scheduler.step()
            checkpoints.save({"loss": run.validate()})


certificate = certify(ours)
print(certificate, *certificate.trials, sep="\n")

# %% [markdown]
# This is **the proof.** [`certify`](../koemorph_tutorial/testing/certificate.py) trains your loop once without a stop. Then, three times, it is killed by a real SIGKILL: at the end of an epoch (“epoch 1, batch 0”: epoch 0 is done), inside a later one (the certificate first asks `step` for a save, as a warning would), at the end of the last but one. Each time a fresh process with other random numbers goes on, and all that was saved is compared, bit by bit: after the resume, at each epoch's end, and every batch. And if a loop forgets its schedule?

# %%
forgetful = certify(partial(ours, forget="scheduler"))
first = forgetful.first_difference
print("certified:", forgetful.certified)
print(f"first difference: {first.when}: {first.component} {first.leaf}")
print(first.hint)

# %% [markdown]
# A schedule that nobody saves cannot be compared; the learning rate that it should have set can. Put `"optimizer"` or `"loader"` in its place: what it did is named, to the weights or to a batch. For a script of your own: `koemorph certify --script train.py`.
#
# ## Practise
#
# ### 03.3 ● Where to go on (4 minutes, essential)
#
# A run is saved in `epoch` once `done` of its `length` batches are trained: one of them, some, or all. Which batch comes next?


# %%
def next_batch(epoch, done, length):
    """Return the epoch and the batch to go on with, both counted from 0."""
    return None  # your line


check("03.3", next_batch)

# %% [markdown]
# ### 03.4 ●● One generator is missing (6 minutes, essential)
#
# These two methods make random numbers a part like any other, for torch's and Python's. Bring back numpy's as well (`import numpy as np`), through a file that `torch.load` opens with `weights_only=True`, today's default.


# %%
import random


class RandomNumbers:
    """The random numbers of a run, as a part with a state."""

    def state_dict(self):
        return {"torch": torch.get_rng_state(), "python": random.getstate()}

    def load_state_dict(self, state):
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])


check("03.4", RandomNumbers)

# %% [markdown]
# ### 03.5 ●●● Inside an epoch (10 minutes, optional)
#
# Killed between two epochs, this loader goes on with the right orders. Make it go on inside one too, and after a second kill there, even before another batch.


# %%
class Batches:
    """Sixteen samples, four at a time, in a new order each epoch."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self):
        order = torch.randperm(16, generator=self.generator)
        yield from order.split(4)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


check("03.5", Batches)

# %% [markdown]
# **Recap**
#
# - The epoch in the file is done: go on with the next, and with the best and the random numbers of before.
# - Forgetting makes another run, not always a worse one: trust equality, not the loss.
# - A certificate kills, resumes and compares; what differs first, it names.
#
# Next: training is over. What is needed to use a checkpoint, and may you open one that a stranger made?
