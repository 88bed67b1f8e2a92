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
# # 05 · How often to save
#
# **Promise:** after this lesson you know what a kill will cost you, what saving costs, and the interval at which the two together cost least.
#
# You will be able to
# - say what a rule of saving loses when a kill comes;
# - compute how often to save from two numbers;
# - save in the background, so that training hardly notices.
#
# About 15 minutes to read, 20 to practise. [Lesson 02](02_storage.ipynb) brought one file to the disk whole, [lesson 03](03_resume.ipynb) brought a run back from it. How old may that file be? This is part 6 of [the recipe](01_state.ipynb).
#
# **日本語:** チェックポイントは、どのくらいの間隔で保存すればよいでしょうか。このレッスンでは、学習を本当に強制終了し、保存の規則ごとに何エポックが失われるのかを予想して確かめます。最後に、マシンが何度も取り上げられるゲームで、最適な間隔を求める公式に挑みます。
#
# Back to lesson 03 first. In the folder of a run lie the numbered files of epochs 0, 5 and 10. It saves nothing else, and was killed in the middle of epoch 13. **With which epoch does it go on?**
#
# - a) 10: that is the epoch in the newest file.
# - b) 11: epoch 10 is done, and of what came after it no file knows.
# - c) 13: that is where it was stopped.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("05.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: only the best
#
# The disk is small, so a run saves (network, optimizer, everything) only after an epoch whose loss is a new best. It has 14 epochs, 0 to 13. In the middle of the last one the machine is taken away; the run goes on from its newest file. **How many epochs have to be trained again?**
#
# - a) Three at most: as long as a network learns, a new best is never far.
# - b) Four to nine: any epoch may be the best, so about half of them are lost.
# - c) Ten or more: the best of a run may come early.

# %%
predict("05.2", None)

# %% [markdown]
# ## Break: three rules, three kills
#
# The recipe has three answers. Its training saves after **each epoch**, its setting `save_best_only` **only the best**, and the rule of its **part 6** every fifth epoch, a new best, and some milestones. Each of the three now drives the small run of lesson 03, in a copy of this process ([`killed`](../koemorph_tutorial/teaching/preemptions.py)), and in epoch 13 comes a real SIGKILL.

# %%
import os
import shutil
import signal
from pathlib import Path

import torch

from koemorph_tutorial.teaching import amnesia, preemptions


def each_epoch(epoch, metrics, best):
    return True


def only_the_best(epoch, metrics, best):
    return metrics["loss"] < best


def part_6(epoch, metrics, best):
    is_better = metrics.get("val_loss", float("inf")) < best
    return epoch % 5 == 0 or is_better or epoch in [10, 25, 50, 100, 200]


def train(run, folder, is_due):
    shutil.rmtree(folder, ignore_errors=True)  # of this cell, run before
    os.mkdir(folder)
    best = float("inf")
    for epoch in range(14):
        run.train_epoch()
        if epoch == 13:
            os.kill(os.getpid(), signal.SIGKILL)  # the machine is taken away
        metrics = {"loss": run.validate()}
        if is_due(epoch, metrics, best):
            states = {"model_state_dict": run.model.state_dict()}
            states["optimizer_state_dict"] = run.optimizer.state_dict()
            torch.save({"epoch": epoch, **states}, f"{folder}/checkpoint_epoch_{epoch:03d}.pth")
        best = min(best, metrics["loss"])


def cost(is_due):
    folder = Path(is_due.__name__)
    assert preemptions.killed(train, amnesia.SmallRun(), folder, is_due)
    files = sorted(folder.iterdir())
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    epochs = [torch.load(file)["epoch"] for file in files]
    lost = 13 - epochs[-1]
    print(f"{folder.name:14}{megabytes:3.0f} MB, to train again: {lost:2}; saved after", *epochs)
    return lost


again = {rule: cost(rule) for rule in (each_epoch, only_the_best, part_6)}

# %%
lost = again[only_the_best]
reveal("05.2", happened="a" if lost <= 3 else "c" if lost >= 10 else "b")

# %% [markdown]
# **Only the best** lost the run. That its best came as early as epoch 1 is luck; that a new best becomes rare is not. **Each epoch** lost least and wrote most: a network of a billion weights, with AdamW, writes 12 GB each time, and training waits.
#
# **Part 6** looks like the happy medium. (Its milestones are multiples of 5, due anyway.) But the best, epoch 1, is not among its epochs. The rule asks for `val_loss`, and the recipe's metric is called `loss`. So `get` answers “infinite”, and infinite is never better.
#
# > **Trap.** A misspelt name with a default raises no error. It is a rule that never comes true.
#
# ## Why: two costs, one valley
#
# A save holds the training up. A kill takes what was done since the last save, half an interval on average. Save more often, and you pay more of the one and less of the other. Below, 24 hours of work on rented machines, which are cheap because they may be taken away at any moment (**preempted**). Another is there at once.

# %%
show(*preemptions.cost_curve())

# %% [markdown]
# The bottom of the valley lies near
#
# $$\text{interval} = \sqrt{2 \times \text{time of a save} \times \text{time between two kills}}$$
#
# ([Young 1974](https://doi.org/10.1145/361147.361115), for mainframes): here, 31 minutes. [Daly 2006](https://doi.org/10.1016/j.future.2004.11.016), whose curve that is, corrects it to 29 min 40 s. This is **the formula** from here on, and 30 minutes in the game. Mind the root: machines that live a quarter as long want saves twice as often. And the valley is wide. To be wrong by a factor of two about those machines costs one per cent.
#
# It happens to experts. nnU-Net's `checkpoint_latest` is written every 50 epochs. With epochs of up to 2000 s that is [27 hours at risk](https://github.com/MIC-DKFZ/nnUNet/issues/2563), wrote a user in 2024, who went on from the best instead: it can be newer. DeepChem, for one data set, [spent more time saving than computing](https://github.com/deepchem/deepchem/issues/458), in 2017.
#
# ## Repair: ask when, and say why
#
# `due` is part 6, but returns its reasons. And a metric that is missing is an error.


# %%
def due(epoch, metrics, best, save_freq=5, milestones=(7,)):
    reasons = []
    if epoch % save_freq == 0:
        reasons.append(f"every {save_freq} epochs")
    if epoch in milestones:
        reasons.append("a milestone")
    if metrics["loss"] < best:
        reasons.append("a new best")
    return reasons  # an empty list counts as False


again[due] = cost(due)

# %% [markdown]
# The best is there, and a kill costs five epochs at most. The library's [`decide`](../koemorph_tutorial/save_policy.py) knows more moments than the end of an epoch. `CheckpointManager` asks it at each.

# %%
from koemorph_tutorial import Best, CheckpointSettings
from koemorph_tutorial.save_policy import advise, decide

settings = CheckpointSettings(save_freq=5, milestones=(7,), every_minutes=30)
now = {"metrics": {"loss": 0.6}, "best": Best(value=0.5, epoch=1)}
now["global_step"] = 99  # the batches so far
print("after epoch 6:", decide(settings, epoch=6, **now))
print("after epoch 7:", decide(settings, epoch=7, **now))
inside = {"inside_epoch": True, "seconds_since_save": 1900}
print("in epoch 8:   ", decide(settings, epoch=8, **inside, **now))

print("\nadvised:", advise(save_seconds=2 * 60, mtbf_seconds=4 * 3600).setting)

# %% [markdown]
# `advise` is the formula. Time one save for the first number; the second, the mean time between failures (MTBF), is in the history of your jobs. For a shell: `koemorph advise --save-seconds 120 --mtbf-hours 4`.
#
# **Below the valley.** No interval costs less than 14 %, as long as training stands still for two minutes. It only has to wait until its state is **copied**; a thread can write the copy.

# %%
import time

from koemorph_tutorial import CheckpointManager, load_checkpoint

network = torch.nn.Linear(2048, 4096)  # 34 MB


def hold_up(folder, **how):
    shutil.rmtree(folder, ignore_errors=True)
    seconds, early, equal = [], [], []
    with CheckpointManager(folder, {"model": network}, save_freq=1, **how) as checkpoints:
        for epoch in checkpoints.epochs(4):
            at_the_call = network.weight.clone()
            file = Path(folder, f"checkpoint_epoch_{epoch:03d}.pth")
            began = time.perf_counter()
            checkpoints.save({"loss": 1.0})
            seconds.append(time.perf_counter() - began)
            network.weight.data += 1  # training goes on
            early.append(not file.exists())
            checkpoints.wait()
            stored = load_checkpoint(file)["model_state_dict"]["weight"]
            equal.append(torch.equal(stored, at_the_call))
    return min(seconds), any(early), all(equal)


in_front, _, _ = hold_up("in front")
behind, early, equal = hold_up("behind", background=True)
print("holds the training up for less than half as long:", behind < in_front / 2)
print("the weights changed before the file was there:   ", early)
print("it holds those of the call, bitwise equal:       ", equal)

# %% [markdown]
# **The proof:** the weights changed before the file was there, and it holds those of the call. (With 200 MB `make bench` measures a tenth.) If the disk is full, the next `save` says so, or the end of the run.
#
# > **Trap.** A thread that writes the living state, not a copy, mixes two steps in one file. PyTorch Lightning's did [until 2025](https://github.com/Lightning-AI/pytorch-lightning/pull/21079).
#
# **Beat the formula.** 24 hours of work, preemptions as above, and somebody who waits for you. Begin with a save every two hours. (Where nothing runs this is a picture, without slider and button.)

# %%
from koemorph_tutorial.teaching.game import Game

Game().show()

# %%
game = Game()
game.value = 60  # the slider, moved by a line of code
game.show()

# %% [markdown]
# A save every hour, and you win this day. Press *another day*, move the slider: **on four days of five some interval beats the formula, over a hundred days none does.**
#
# In the background let a save cost a tenth, 12 seconds, and ask the formula again:

# %%
print("advised:", advise(save_seconds=12, mtbf_seconds=4 * 3600).setting)
game = Game()
game.value, game.background = 10, True
game.show()

# %% [markdown]
# The 10 minutes that win every day *are* the formula, with the new number.
#
# ## Practise
#
# ### 05.3 ● What a kill costs (4 minutes, essential)
#
# A run saves after the epochs 0, `save_freq`, 2 × `save_freq` and so on. It is killed in the middle of `epoch`, which is 1 or later. Complete the function.


# %%
def trained_again(epoch, save_freq):
    """Return how many epochs a kill in the middle of `epoch` costs, this one included."""
    return None  # your line


check("05.3", trained_again)

# %% [markdown]
# ### 05.4 ●● From seconds to a setting (6 minutes, essential)
#
# An interval is a time, `save_freq` counts epochs. This works while epochs are short. Make it hold for epochs that are longer than the interval: these are saved inside, by `every_minutes` (a tenth more or less will do). Round whole epochs up or down. Where you leave `save_freq` out it is 5, and holds beside `every_minutes`.


# %%
def setting_for(interval_seconds, epoch_seconds):
    """Return the setting of the manager that fits: {"save_freq": …} or {"every_minutes": …}."""
    return {"save_freq": int(interval_seconds / epoch_seconds)}


check("05.4", setting_for)

# %% [markdown]
# ### 05.5 ●●● In the background, whatever happens (10 minutes, optional)
#
# This works until training goes on meanwhile, a second save comes, or the disk is full. Make it hold: the state at the call is stored, the newest save wins, and what went wrong is raised once, by the next `save` or `wait`, whichever comes first. Write by `torch.save`, `open` or `pathlib`: there the check listens.

# %%
from threading import Thread


class Saver:
    """Saves in a thread: `save` returns at once; after `wait` the file is there."""

    def save(self, state, path):
        self.thread = Thread(target=torch.save, args=(state, path))
        self.thread.start()

    def wait(self):
        self.thread.join()


check("05.5", Saver)

# %% [markdown]
# **Recap**
#
# - **The best is not the newest.** Save both: one to use, one to go on from.
# - **Two numbers give the interval:** what a save takes, and how long a machine lives. In between lies a wide valley.
# - **Let a thread write a copy,** and the valley sinks.
#
# Next: all these files. Which of them may go?
