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
# # 04 · A face from a file
#
# **Promise:** after this lesson you get a network out of a checkpoint, yours or a stranger's, and it is the one that was trained.
#
# You will be able to
# - look into a file that somebody sent you;
# - load a network so that it answers as it was trained to;
# - notice when weights have not arrived.
#
# About 20 minutes to read, 15 to practise. [Lesson 01](01_state.ipynb) introduced the recipe, by which a project saves its training; [lesson 03](03_resume.ipynb) brought a whole run back. Here training is over, and only the network is wanted: part 5.2 of the recipe, loading for inference (for use), and the evaluation of part 10.
#
# **日本語:** 学習が終わったあと、チェックポイントからネットワークだけを取り出して使うには、何が必要でしょうか。このレッスンでは、他人が作ったファイルを開くと何が起きるかを予想し、レシピの読み込み処理を実際に動かして確かめます。最後に、エポックごとのチェックポイントを順に開き、顔が話し方を覚えていく様子を眺めます。
#
# Back to lesson 03 first. A run was stopped and resumed, on the CPU of one machine. It ends with a loss that is a little **lower** than that of its twin, the run that never stopped. **Was the resume right?**
#
# - a) Yes. The loss is even lower, so nothing can have been lost.
# - b) No. Something was forgotten.
# - c) Nobody can tell: random numbers make every run end a little differently.

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show

setup()
check("04.1", None)  # "a", "b" or "c" in place of None

# %% [markdown]
# ## Predict: a file from somebody
#
# Somebody you do not know sends you the checkpoint of a talking face. Besides the weights it holds an object, of a class whose source code you do not have. You only want to see what is in the file. You load it as the recipe does, by `torch.load(path, map_location="cpu", weights_only=False)`, and print the names in the dict. You make no network and call nothing yourself. **What happens?**
#
# - a) The names are printed, and that is all. A file holds data; code runs only when it is called.
# - b) An error. The class is not on this computer, so its object cannot be made.
# - c) The names are printed. Before that, something else has run.

# %%
predict("04.2", None)

# %% [markdown]
# ## Break: four ways a load goes wrong
#
# [`timemachine.train`](../koemorph_tutorial/teaching/timemachine.py) trains what we load: the example of lesson 01, in twelve short epochs. Then the stranger packs a file, and you open it.

# %%
import os
from pathlib import Path

import torch

from koemorph_tutorial.teaching import timemachine, vowels
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import ModelConfig

run = timemachine.train("run")
trained = torch.load(run / "last_model.pth")


# The stranger, elsewhere.
class Postcard:
    def __reduce__(self):  # pickle asks: how is this object made again?
        return os.system, ("echo 'I was here. Thank you for opening me :-)' > you_were_here.txt",)


weights = trained["model_state_dict"]
torch.save({"epoch": 11, "model_state_dict": weights, "postcard": Postcard()}, "face.pth")
del Postcard

# You.
print("before:", sorted(os.listdir()))
try:
    opened = list(torch.load("face.pth", map_location="cpu", weights_only=False))
except Exception as error:
    opened = error
print("opened:", opened)
print("after: ", sorted(os.listdir()))

# %%
ran = os.path.exists("you_were_here.txt")
reveal("04.2", happened="c" if ran else "a" if isinstance(opened, list) else "b")

# %% [markdown]
# What did it write? And is the rest of the file in order? `recipe_load` is the recipe's part 5.2. [`vowels`](../koemorph_tutorial/teaching/vowels.py) has five moments of speech, an a, i, u, e and o, and a lip reader, who takes each face for the vowel whose own face is nearest.


# %%
def recipe_load(path, config):
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    model = SimplifiedKoeMorphModel(config)
    model.load_state_dict(checkpoint["model_state_dict"])
    return model, checkpoint.get("metrics", {})


print(Path("you_were_here.txt").read_text())
stranger, _ = recipe_load("face.pth", ModelConfig())
print("read from the lips:", vowels.read(vowels.say(stranger.eval())))

# %% [markdown]
# The face speaks as it should, so nobody would notice. The first hole: **the file runs code,** which could as well have sent your own files away. The next three happen by accident. **Dropout is left on:** the recipe returns a network in training mode, and each answer is another one. The face trembles, though it reads right:

# %%
model, _ = recipe_load(run / "last_model.pth", ModelConfig())
print("asked twice, equal:", torch.equal(vowels.say(model), vowels.say(model)))
show(*vowels.trembling(model))

# %% [markdown]
# **The names do not fit:** `DataParallel`, which spreads a model over GPUs, puts `module.` in front of every name, `torch.compile` puts `_orig_mod.`. Then no name in the file is one of the model's. That is an error; a popular answer is `strict=False`.

# %%
wrapped = torch.nn.DataParallel(model).state_dict()
print("saved: ", next(iter(wrapped)))
print("wanted:", next(iter(model.state_dict())))

torch.manual_seed(0)
empty = SimplifiedKoeMorphModel(ModelConfig())
before = {name: value.clone() for name, value in empty.state_dict().items()}
result = empty.load_state_dict(wrapped, strict=False)  # no error
arrived = sum(not torch.equal(value, before[name]) for name, value in empty.state_dict().items())
print("arrived:", arrived, "of", len(wrapped))
print("missing:", len(result.missing_keys))

# %% [markdown]
# **The settings are today's:** the recipe is handed a config, and the file holds its own. In between somebody has set `n_fft`, how many samples of sound are analysed at a time, from 512 to 2048. This changes no weight's shape, so there is no error.

# %%
other, _ = recipe_load(run / "last_model.pth", ModelConfig(n_fft=2048))
print("weights equal:", all(map(torch.equal, model.parameters(), other.parameters())))

# %% [markdown]
# ## Why: numbers are not a network
#
# Since torch 1.6 a `.pth` is a zip archive. The numbers lie in it as they are; how they are put together is written in `data.pkl`, a **pickle**: a list of instructions, carried out when the file is opened. These are the stranger's:

# %%
import pickletools
import zipfile

with zipfile.ZipFile("face.pth") as file:
    steps = [(step.name, value) for step, value, _ in pickletools.genops(file.read("face/data.pkl"))]
first = next(place for place, (name, value) in enumerate(steps) if "system" in str(value))
for name, value in steps[first:]:
    if not name.startswith("BINPUT"):  # puts something aside for later
        print(f"{name:10}", value or "")
    if name == "REDUCE":  # call what was named, with this
        break

# %% [markdown]
# In words: name `posix.system` (Python's `os.system`), take a text, make it a tuple of one argument, call.
#
# And numbers are only half of a network. Whoever loads must supply the other half, what is done with them: the code, the settings (take them from the file), the mode. Below, three attempts to load the same weights, all in eval mode, read from the lips.

# %%
networks = {"as trained": model, "names did\nnot fit": empty, "n_fft=2048": other}
show(*vowels.ways({name: network.eval() for name, network in networks.items()}))

# %% [markdown]
# All of it happens. In 2024 JFrog found [about a hundred models](https://jfrog.com/blog/data-scientists-targeted-by-malicious-hugging-face-ml-models-with-silent-backdoor/) on Hugging Face that run code when they are loaded. And `strict=False` gave [this user](https://github.com/pytorch/examples/issues/1029) a model that ran and talked nonsense: the file's names began with `model.`.
#
# > **Trap.** When torch refuses a file, its message tells you how to open it all the same: `weights_only=False`. It warns you, too: only for a file from a trusted source.
#
# ## Repair: weights, names, settings, mode
#
# With `weights_only=True`, today's default, torch carries out only the instructions that make tensors and plain containers. (Keep torch up to date: ways around that were closed [in 2.6](https://github.com/pytorch/pytorch/security/advisories/GHSA-53q9-r3pm-6pq6) and [2.10](https://github.com/pytorch/pytorch/security/advisories/GHSA-63cw-57p8-fm3p).) The rest is four lines.

# %%
import pickle
import textwrap


def load_by_hand(path):
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = SimplifiedKoeMorphModel(ModelConfig(**checkpoint["config"]["model"]))  # the file's settings
    state = checkpoint["model_state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})  # strict
    return model.eval(), checkpoint["metrics"]


Path("you_were_here.txt").unlink(missing_ok=True)
try:
    load_by_hand("face.pth")
except pickle.UnpicklingError as error:
    print(textwrap.fill(str(error).splitlines()[0], 88))
print("something has run:", os.path.exists("you_were_here.txt"))
torch.save(trained | {"model_state_dict": wrapped}, "wrapped.pth")
mine, _ = load_by_hand("wrapped.pth")
print("asked twice, equal:", torch.equal(vowels.say(mine), vowels.say(mine)))
print("same as `model` in eval:", torch.equal(vowels.say(mine), vowels.say(model.eval())))

# %% [markdown]
# (The recipe's `map_location="cpu"` was right: without it, weights saved on a GPU want one here.)
#
# [`load_for_inference`](../koemorph_tutorial/inference.py) does this for any network, from `.pth` or `.safetensors`, a format of numbers only. You make the network, by the settings that `inspect_checkpoint` shows: wrong ones that change no shape go unseen. It
#
# - checks every byte that it uses;
# - takes off whatever stands before all names;
# - returns the network in eval mode;
# - runs nothing: it reads the instructions only to learn where the tensors lie.
#
# So it gets the weights even from the stranger's file. `load_weights`, the same without the mode, says what else was there:

# %%
from koemorph_tutorial import inspect_checkpoint, load_for_inference, load_weights

settings = ModelConfig(**inspect_checkpoint("wrapped.pth").config["model"])
ours, metrics = load_for_inference("wrapped.pth", SimplifiedKoeMorphModel(settings))
print("same as `model` in eval:", torch.equal(vowels.say(ours), vowels.say(model.eval())))

theirs = SimplifiedKoeMorphModel()  # no settings in their file: the defaults are a guess, and here it fits
print(load_weights("face.pth", theirs))
print("read from the lips:", vowels.read(vowels.say(theirs.eval())))
print("something has run:", os.path.exists("you_were_here.txt"))

# %% [markdown]
# Whether a network is any good is another question: measure it. `koemorph evaluate --checkpoint run/checkpoints/best_model.pth` does, on a voice that no training has heard, with the file's settings. (It refuses the stranger's, which names code.)
#
# **The time machine.** Each file of a run is the network as it once was. Move the slider: the file of that epoch is loaded, and the face says five vowels, in a voice that it was not trained on. (The loss is that on this voice and another.) The second one stands at epoch 0: press play, and the face learns to speak. It may lose a vowel on the way: not every epoch is better than the last.

# %%
slider = timemachine.TimeMachine(run)
slider.show()

# %%
slider = timemachine.TimeMachine(run)
slider.value = 0  # moved by a line of code
slider.show()

# %% [markdown]
# ## Practise
#
# ### 04.3 ● One line is missing (3 minutes, essential)
#
# The network has a dropout and a BatchNorm (in training it goes by each batch, in use by running averages of them). `check` fills it with your function, and asks it the same thing twice.


# %%
def for_use(model, checkpoint):
    """Fill the model, and return it ready to be used."""
    model.load_state_dict(checkpoint["model_state_dict"])
    # your line
    return model


check("04.3", for_use)

# %% [markdown]
# ### 04.4 ●● Wrapped twice (5 minutes, essential)
#
# This takes `module.` off. Make it take off `_orig_mod.` as well, and both in any order, as often as they come. The model's own names have to stay, like the middle of `decoder.module.weight`.


# %%
def plain_names(state):
    """Return the state with the names that the model has without its wrappers."""
    return {name.removeprefix("module."): v for name, v in state.items()}


check("04.4", plain_names)

# %% [markdown]
# ### 04.5 ●●● A new head (8 minutes, optional)
#
# A network is to learn something new: its `body` comes from a file, its `head` stays as it was made. This line keeps silent about names that do not fit. Make it refuse a body that does not fit, before anything is changed.


# %%
def load_body(model, state):
    """Fill the `body`, or raise ValueError and change nothing."""
    model.load_state_dict(state, strict=False)


check("04.5", load_body)

# %% [markdown]
# **Recap**
#
# - **A pickle is a program:** open a stranger's file with `weights_only=True`, or with a reader that runs nothing.
# - **A file holds half a network:** you supply the rest. Take the settings from the file, and call `eval()`.
# - **Silence proves nothing:** stay strict, or look at what was missing.
#
# Next: a run of a thousand epochs. When is it worth saving?
