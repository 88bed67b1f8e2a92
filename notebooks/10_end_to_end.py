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
# # 10 · Four ordeals and a diploma
#
# **Promise:** after this lesson a training loop of your own has been killed, warned, left without room and given a damaged file, and has come back from all four.
#
# You will be able to
# - put a training loop through an examination;
# - say what each ordeal asks of a loop, and what it costs;
# - write a loop that comes back, in about 15 lines.
#
# About 12 minutes to read, 25 to practise; it runs for about 20 seconds. Nothing new is taught: what you know of the state ([01](01_state.ipynb)), the disk ([02](02_storage.ipynb)), the resume ([03](03_resume.ipynb)), the moment to save ([05](05_save_policy.ipynb)), old files ([06](06_retention.ipynb)) and trust ([08](08_validation.ipynb)) meets in one loop. This is part 10 of [the recipe](01_state.ipynb), its use.
#
# **日本語:** これまでの九つのレッスンで学んだことは、一つの学習ループの中でうまく一緒に働くでしょうか。このレッスンでは新しいことは何も教えず、強制終了、SIGTERM、ディスクの空き不足、一ビットの反転という四つの試練で、レシピのループとあなた自身のループを試験します。合格したループには、何を乗り越えたのかを記した卒業証書が渡されます。
#
# A last look back, at lesson 03: **a run was stopped and resumed. It ends with a lower loss than its twin, which was never stopped. Was it resumed right?**
#
# - a) Yes: it learned at least as well as it would have without the stop.
# - b) No: had nothing been forgotten, the loss would be the same number.
# - c) Nobody can say: training is random, so no two runs end alike.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("10.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: four bad days
#
# The recipe's loop has learned from lesson 03: it saves the network, the optimizer, the schedule, the best loss and all random numbers. After each epoch it writes `checkpoint_epoch_NNN.pth`, then perhaps `best_model.pth`, then `last_model.pth`, from which it goes on when it is started again. A run has 6 epochs of 10 batches. Four runs meet an ordeal each, in the middle of epoch 4:
#
# - **kill -9:** the process is killed.
# - **SIGTERM:** it is asked to end, as clusters do; the kill comes a batch later.
# - **full disk:** somebody fills the disk, to half the size of a checkpoint; when the process has ended, there is room again.
# - **flipped bit:** it is killed, and one bit of a weight in `last_model.pth` turns over.
#
# Each is started again, and trains to the end. **Which of the four end with another network than a twin that nothing happened to?**
#
# - a) All four: each comes in the middle of an epoch, and what was trained of that epoch is lost.
# - b) The full disk and the flipped bit: both spoil a file that it goes on from.
# - c) The flipped bit only: after the other three it trains some batches again.

# %%
predict("10.2", None)

# %% [markdown]
# ## Break: the recipe is examined
#
# [`examine`](../koemorph_tutorial/teaching/examination.py) calls `recipe(folder)` in copies of this process: once for the twin, twice for each ordeal. All of it is real: the signals, the bit on the disk, the full disk (on Linux a small one, made for this; elsewhere the system lets no file grow). `examination.Run` is the example, made small; it trains a batch, validates, and saves nothing.

# %%
import os

import torch

from koemorph_tutorial.rng import capture_rng, restore_rng
from koemorph_tutorial.teaching import comebacks, examination


def recipe(folder):
    run, start, best = examination.Run(), 0, float("inf")
    parts = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler}
    last = f"{folder}/last_model.pth"
    if os.path.exists(last):
        checkpoint = torch.load(last)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[f"{name}_state_dict"])
        start, best = checkpoint["epoch"] + 1, checkpoint["best"]
        restore_rng(checkpoint["rng_state"])
    for epoch in range(start, examination.EPOCHS):
        for batch in run.loader:
            run.step(batch)
        run.scheduler.step()
        loss = run.validate()
        checkpoint = {f"{name}_state_dict": part.state_dict() for name, part in parts.items()}
        checkpoint |= {"epoch": epoch, "best": min(best, loss), "metrics": {"loss": loss}}
        checkpoint["rng_state"] = capture_rng()
        torch.save(checkpoint, f"{folder}/checkpoint_epoch_{epoch:03d}.pth")
        if loss < best:
            torch.save(checkpoint, f"{folder}/best_model.pth")
        torch.save(checkpoint, last)
        best = min(best, loss)


first = examination.examine(recipe)
print(first)

# %%
others = {each.ordeal.name for each in first.outcomes if not each.is_equal}
reveal("10.2", happened="a" if len(others) == 4 else "c" if others == {"flipped bit"} else "b")

# %% [markdown]
# Survived means: the same network, and no more work lost than must be. **The flipped bit** went into the network, and from there into every file saved since; no log would tell. **SIGTERM** was a warning, and cost as much as the kill: Python ends by it at once, without a save, without even a `finally`.
#
# ## Why: each asks for something else
#
# Above, the first process, until it was struck; below, the second, from where it went on; hatched, what was trained a second time.

# %%
show(*comebacks.comebacks(first))

# %% [markdown]
# | ordeal | what it asks of a loop | lesson |
# | --- | --- | --- |
# | kill -9 | a save not long ago, whole, with all that the run is made of | 01, 02, 03, 05 |
# | SIGTERM | an ear for it, and a save inside the epoch | 03 |
# | full disk | the old file stays until the new one is whole; an error is raised | 02 |
# | flipped bit | checksums that somebody compares, and an older file to fall back to | 06, 08 |
#
# It happens to experts. [spd](https://github.com/goodfire-ai/spd/issues/741), which takes networks apart to understand them, saved on SIGTERM, but looked for it only between two batches, not while it warmed up or validated. In 2026 somebody counted: of six warnings none had led to a save. It looks there now.
#
# > **Trap.** A loop that has come back from a kill has been tested by a kill, and by nothing else.
#
# ## Repair: one manager around the loop
#
# Seven lines, the numbered ones, are not the loop's own. All that belongs to a save is behind them.

# %%
from koemorph_tutorial import CheckpointManager, ResumableLoader


def managed(folder):
    run = examination.Run()
    loader = ResumableLoader(run.loader)  # 1: knows which batches are done
    objects = {"model": run.model, "optimizer": run.optimizer}
    objects |= {"scheduler": run.scheduler, "loader": loader}  # 2: all that must come back
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:  # 3
        for epoch in checkpoints.epochs(examination.EPOCHS):  # 4: begins where the run is
            for batch in loader:  # 5
                run.step(batch)
                checkpoints.step()  # 6: after SIGTERM it saves, and leaves
            run.scheduler.step()
            checkpoints.save({"loss": run.validate()})  # 7: the epoch is over


second = examination.examine(managed, certificate=True)
show(*comebacks.comebacks(second))

# %% [markdown]
# What is left is the price. A sudden kill takes what came since the last save (5 batches), a full disk the epoch that found no room (10). The wrong bit was noticed: [the manager](../koemorph_tutorial/manager.py) fell back to the epoch before (15). The warning costs nothing.
#
# Four moments are not all moments, and a network is not all of a run. **The proof** is again the certificate: killed three more times, all that is saved compared.

# %%
print(second.certificate, *second.certificate.trials, sep="\n")
print("compared:", ", ".join(second.certificate.components))

# %% [markdown]
# **Two processes** (optional). What is too slow for one processor is trained by several processes, called ranks. [This training](../koemorph_tutorial/teaching/two_processes.py) runs in two, each with its own data, and each makes a manager; rank 0 writes, everybody's random numbers are kept. In epoch 3 rank 1 is killed; then both are started again.

# %%
from koemorph_tutorial.teaching import two_processes

print(two_processes.launch(".", kill=True))
print(two_processes.launch("."))

# %% [markdown]
# ## Practise
#
# ### 10.3 ● All that comes back (4 minutes, essential)
#
# This run has a part more: `run.average`, a moving average of the network, which many use in its place. Complete the function.


# %%
def objects_of(run, loader):
    """Return all that must come back, by name. `loader` is a ResumableLoader of this run."""
    return None  # your line


check("10.3", objects_of)

# %% [markdown]
# ### 10.4 ●● A loop that comes back (12 minutes, essential)
#
# A loop as people write it; nothing is ever saved. Make it come back from all four ordeals. `check` is the examiner: it takes about ten seconds, and says what is still missing.

# %%
from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination


def train(folder):
    """Train a network and its average; where this was stopped in `folder`, go on."""
    run = examination.Run(average=True)
    for epoch in range(examination.EPOCHS):
        for batch in run.loader:
            run.step(batch)
            run.average.update_parameters(run.model)
        run.scheduler.step()
        loss = run.validate(run.average)


check("10.4", train)

# %% [markdown]
# ### 10.5 ●●● Warned while it validates (9 minutes, optional)
#
# A new ordeal: SIGTERM in the second of four parts of a validation; think of hours. Another one comes inside an epoch, as before. No batch may be trained again, no reported number may change. (The manager's `poll` is for this.)

# %%
from statistics import mean

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination
from koemorph_tutorial.training.tracking import RunningMean


def train_and_watch(folder):
    """Report the mean loss of each epoch's batches, and validate in four parts."""
    run = examination.Run()
    loader = ResumableLoader(run.loader)
    objects = {"model": run.model, "optimizer": run.optimizer}
    objects |= {"scheduler": run.scheduler, "loader": loader}
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(examination.EPOCHS):
            losses = []
            for batch in loader:
                losses.append(run.step(batch))
                checkpoints.step()
            run.scheduler.step()
            parts = [run.loss(part) for part in run.parts]
            checkpoints.save({"loss": mean(parts), "train_loss": mean(losses)})


check("10.5", train_and_watch)

# %% [markdown]
# ### The diploma
#
# Until 10.4 has passed it is that of `managed`. Then it is yours: put your name in place of None, and run this cell and the next two.

# %%
from koemorph_tutorial.teaching import diploma

graduate = examination.graduate() or second
show(*diploma.draw(graduate, None))

# %% [markdown]
# **The survivor speaks.** This network came out of the ordeals, and hears a voice that it was never trained on.

# %%
from koemorph_tutorial.teaching.talking import talking_face

faces = diploma.speak(graduate, seconds=1.6)
show(talking_face(faces, pixels=184), f"{len(faces)} faces from one voice, by a network of {graduate.name}.")

# %% [markdown]
# **And you:** all ten lessons, a stamp for each question. (In words: `koemorph progress`.)

# %%
from koemorph_tutorial.teaching import passport

show(*passport.stamps())

# %% [markdown]
# **Recap**
#
# - **Lost work is not a different run:** it costs time, and comes out the same to the last bit. A wrong bit costs nothing, and is trained on.
# - **Each ordeal asks for something else,** so each has to be tried: a kill, a warning, a full disk, a flipped bit.
# - **All that learns or counts has to be saved;** seven lines around a loop do the rest, and an examination says whether they did.
#
# There is no next lesson. There is your own training: `koemorph certify --script train.py` examines it tonight.
