"""Lesson 06: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import pytest

from .test_answers import refused, said_to

# ------------------------------------------------------------------------------------------------ 06.3


def stays(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"def what_stays(losses, keep_n):\n    newest = sorted(losses)[-keep_n:]\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("best = min(losses, key=lambda epoch: losses[epoch])", "return {*newest, best}"),
        ("best = sorted(losses, key=losses.get)[0]", "return {*newest, best}"),
        ("best = min((loss, epoch) for epoch, loss in losses.items())[1]", "return frozenset([*newest, best])"),
        ("best = min(losses.items(), key=lambda item: item[1])[0]", "return sorted({*newest, best})"),
        ("best, = [e for e in losses if losses[e] == min(losses.values())]", "return [*newest, best]"),
        ("import numpy as np", "best = list(losses)[np.argmin(list(losses.values()))]", "return newest + [best]"),
    ],
)
def test_every_right_way_to_find_the_best_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "06.3: passed" in said_to("06.3", stays(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("best = max(losses, key=losses.get)", "return {*newest, best}"),
            "It keeps epoch 5, whose loss is the largest",
        ),
        (("best = next(iter(losses))", "return {*newest, best}"), "the smallest is that of epoch 3; beside 12 and 100"),
        (("return newest",), "It keeps the newest two, and epoch 3 goes, the best of all"),
        (("best = min(losses, key=losses.get)", "return {best}"), "yours are not among them"),
        (("best = min(losses, key=losses.get)", "newest.append(best)"), "returned None: is `return` missing?"),
        (("best = min(losses, key=losses.get)", "return best"), "expected a set of epochs, found 3"),
        (("best = min(losses, key=losses.get)", "return set(losses)"), "beside 12 and 100 yours keeps 0, 3, 5, 7"),
        (
            ("best = list(losses.values()).index(min(losses.values()))", "return {*newest, best}"),
            "It keeps 4. That is the place of the smallest loss",
        ),
        (("best = min(sorted(losses)[:-keep_n], key=losses.get)", "return {*newest, best}"), "Yours keeps 0, 1, 2"),
        (
            (
                "stay = {*newest, min(losses, key=losses.get)}",
                "for epoch in [*losses]:",
                "    if epoch not in stay: del losses[epoch]",
                "return stay",
            ),
            "`losses` is no longer what it was",
        ),
        (
            ("best = sorted(losses, key=losses.get)[:3]", "return {*newest, *best}"),
            "beside 12 and 100 yours keeps 3, 7",
        ),
        (("best = sorted(losses, key=losses.get)", "return {*newest, best}"), "`what_stays` raised TypeError"),
        (("best = None", "return {*newest, best} - {0}"), "the best is None: is your line there?"),
        (("return {3, 12, 100}",), "two stay: 1 and 2 are the newest, and 1 the best. Yours keeps 100, 12, 3"),
    ],
)
def test_what_is_said_of_other_bests_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("06.3", stays(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 06.4

LOADED = (
    "files = {path: torch.load(path) for path in Path(folder).glob('checkpoint_epoch_*.pth')}",
    "losses = {path: files[path]['metrics']['loss'] for path in files}",
    "newest = sorted(files, key=lambda path: files[path]['epoch'])[-keep_n:]",
    "finite = [path for path in files if math.isfinite(losses[path])]",
    "best = min(finite, key=losses.get, default=None)",
)


def planned(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import math, os\nfrom pathlib import Path\ndef planned(folder, keep_n):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        (*LOADED, "return {p.name: [w for w, l in (('best', [best]), ('newest', newest)) if p in l] for p in files}"),
        (
            *LOADED,
            "plan = {path.name: () for path in files}",
            "for path in newest: plan[path.name] += ('newest',)",
            "if best: plan[best.name] += ('best',)",
            "return plan",
        ),
        (
            *LOADED[:3],
            "best = min(files, key=lambda p: losses[p] if math.isfinite(losses[p]) else math.inf)",
            "plan = {path.name: set() for path in sorted(files)}",
            "for path in newest: plan[path.name].add('newest')",
            "if math.isfinite(losses[best]): plan[best.name].add('best')",
            "return plan",
        ),
    ],
)
def test_every_right_plan_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "06.4: passed" in said_to("06.4", planned(*lines), capsys)


RETURN = "return {p.name: ['newest'] * (p in newest) + ['best'] * (p == best) for p in files}"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((*LOADED, "plan = 3"), "`planned` returned None: is `return` missing?"),
        ((*LOADED, "return [*newest, best]"), "expected a dict, found list"),
        ((*LOADED, RETURN.replace("p.name", "str(p)")), "It names paths."),
        ((*LOADED, RETURN.replace("p.name", "p.stem")), "it names 'checkpoint_epoch_003', and there is no such file"),
        ((*LOADED, RETURN.replace("p.name", "files[p]['epoch']")), "it names '1000', and there is no such file"),
        ((*LOADED, "return {p.name: p in newest for p in files}"), "it says False; expected a list of reasons"),
        ((*LOADED, "return {p.name: 'newest' for p in files}"), "it says 'newest'; expected a list of reasons"),
        ((*LOADED, "return {p.name: ['newest'] for p in files}"), "it says ['newest']; expected []"),
        ((*LOADED, RETURN.replace("best']", "beste']")), "it says ['beste']; expected ['best']"),
        ((*LOADED, "for p in files: os.remove(p)", RETURN), "It makes a plan, and still removes files"),
        ((*LOADED, "for p in files: os.remove(p)"), "It removes files, as before, and returns no plan"),
        ((*LOADED[:3], "best = min(files, key=losses.get)", RETURN), "One loss was NaN"),
        ((*LOADED[:3], "best = min(sorted(files), key=losses.get)", RETURN), "One loss was NaN"),
        ((*LOADED[:3], "best = min(sorted(files)[::-1], key=losses.get)", RETURN), "One loss was NaN"),
        ((*LOADED[:4], "best = min(finite, key=losses.get)", RETURN), "Every loss was NaN, and it raises an error"),
        (
            (*LOADED[:2], "newest = sorted(files)[-keep_n:]", *LOADED[3:], RETURN),
            "of checkpoint_epoch_1000.pth it says",
        ),
        (
            (*LOADED[:2], "newest = sorted(files, key=os.path.getmtime)[-keep_n:]", *LOADED[3:], RETURN),
            "of checkpoint_epoch_003.pth it says ['newest']; expected []",
        ),
        (  # the library's own, which does not count what is not finite
            (
                "import koemorph_tutorial as k",
                "plan = k.plan_retention(k.list_checkpoints(folder), keep_last_n=keep_n)",
                "words = {i.file.path.name: ' '.join(i.reasons) if i.keep else '' for i in plan.files}",
                "return {name: [w for w in ('newest', 'best') if w in said] for name, said in words.items()}",
            ),
            "it says ['newest']; expected []",
        ),
        (
            (
                *LOADED[:2],
                "newest = sorted(files, key=lambda path: files[path]['epoch'])",
                "old = newest[:-keep_n]",
                "newest = newest[-keep_n:]",
                "best = min(old, key=losses.get)",
                RETURN,
            ),
            "your plan calls an older one the best",
        ),
        (
            (*LOADED[:2], LOADED[3], LOADED[2].replace("sorted(files", "sorted(finite"), LOADED[4], RETURN),
            "A file whose loss is not finite is not among your newest",
        ),
        (
            (*LOADED[:3], "best = min(files, key=lambda p: losses[p] if math.isfinite(losses[p]) else 9e9)", RETURN),
            "Every loss was NaN, and your plan names a best all the same",
        ),
        ((*LOADED, RETURN.replace("['best']", "['best'] * (p not in newest)")), "your plan gives one reason"),
        (("raise RuntimeError('no')",), "`planned` raised RuntimeError: no"),
        (("while True: pass",), "`planned` did not come to an end within 2 seconds"),
    ],
)
def test_what_is_said_of_other_plans_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "while" in lines[0]:
        monkeypatch.setattr("koemorph_tutorial.teaching.trial.PATIENCE", 2.0)
    refused("06.4", planned(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 06.5

OURS = (
    "files = {}",
    "for path in Path(folder).iterdir():",
    "    try:",
    "        checkpoint = torch.load(path)",
    "    except Exception: continue",
    "    if checkpoint['run'] == run: files[path] = checkpoint",
)
SORTED = "newest = sorted(files, key=lambda path: files[path]['epoch'])"
FINITE = "finite = [path for path in files if math.isfinite(files[path]['metrics']['loss'])]"
BEST = f"{FINITE}; best = min(finite, key=lambda path: files[path]['metrics']['loss'], default=None)"
REMOVE = ("for path in files:", "    if path not in newest[-keep_n:] and path != best: os.remove(path)")


def clean_up(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import math, os\nfrom pathlib import Path\ndef clean_up(folder, run, keep_n):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        (*OURS, SORTED, BEST, *REMOVE),
        (*OURS, "if len(files) <= keep_n: return", SORTED, BEST, *REMOVE),
        (
            "sound = []",
            "for name in os.listdir(folder):",
            "    try: sound.append((Path(folder, name), torch.load(Path(folder, name))))",
            "    except BaseException: pass",
            "ours = sorted([(c['epoch'], c['metrics']['loss'], p) for p, c in sound if c['run'] == run], reverse=True)",
            "for epoch, loss, path in ours[keep_n:]:",
            "    if not loss == min((l for _, l, _ in ours if math.isfinite(l)), default=0): path.unlink()",
        ),
    ],
)
def test_every_right_cleanup_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "06.5: passed" in said_to("06.5", clean_up(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("pass",),
            "five files of one run, where epoch 8 is the best, and the newest two are to stay: left were 3, 8, 999",
        ),
        ((*OURS, SORTED, "best = None", *REMOVE), "left were 1000, 1001; expected 8, 1000, 1001"),
        ((*OURS, "newest, best = [], None", *REMOVE), "left were none; expected 8, 1000, 1001"),
        (
            (*OURS, SORTED, BEST, REMOVE[0], REMOVE[1].replace("-keep_n", "-keep_n - 1")),
            "left were 8, 999, 1000, 1001; expected",
        ),
        (
            (*OURS, "newest = sorted(files, key=os.path.getmtime)", BEST, *REMOVE),
            "left were 3, 8; expected 8, 1000, 1001",
        ),
        (
            (*OURS[:4], "    except EOFError: continue", OURS[5], SORTED, BEST, *REMOVE),
            "A torn file makes `torch.load` raise an error",
        ),
        (
            (*OURS[:4], "    except RuntimeError: continue", OURS[5], SORTED, BEST, *REMOVE),
            "(an empty file raises another one than half a file)",
        ),
        (
            (*OURS[:4], "    except Exception: os.remove(path); continue", OURS[5], SORTED, BEST, *REMOVE),
            "It removes the",
        ),
        ((*OURS[:4], "    except Exception: return", OURS[5], SORTED, BEST, *REMOVE), "it removes nothing at all"),
        ((*OURS[:5], "    files[path] = checkpoint", SORTED, BEST, *REMOVE), "It removes files of the other run"),
        (
            (
                *OURS,
                SORTED,
                BEST,
                *REMOVE,
                "for path in Path(folder).iterdir():",
                "    if path not in files: path.unlink()",
            ),
            "It removes the torn files.",
        ),
        (
            (*OURS, SORTED, BEST.replace(", default=None", ""), *REMOVE),
            "In a folder without a file of our run it raises",
        ),
        ((*OURS, "newest = sorted(files)", BEST, *REMOVE), "It sorts by the names of the files"),
        ((*OURS, SORTED, BEST, REMOVE[0], REMOVE[1].replace("-keep_n", "-2")), "Asked for the run `theirs`"),
        ((*OURS[:5], OURS[5].replace("run:", "'ours':"), SORTED, BEST, *REMOVE), "Asked for the run `theirs`"),
        (
            (*OURS[:5], "    if run.startswith(checkpoint['run']): files[path] = checkpoint", SORTED, BEST, *REMOVE),
            "Other runs in the folder had names like ours",
        ),
        (
            (*OURS[:5], "    if run in checkpoint['run']: files[path] = checkpoint", SORTED, BEST, *REMOVE),
            "Other runs in the folder had names like ours",
        ),
        (
            (*OURS, SORTED, BEST, REMOVE[0], REMOVE[1].replace("os.remove(path)", "os.rename(path, 'gone')")),
            "It writes, or gives a file another name",
        ),
        (
            (*OURS, SORTED, BEST, *REMOVE, "for path in files: open(path, 'ab').write(b'1') if path == best else 0"),
            "It writes",
        ),
        (  # by its size, and not by trying
            (
                "paths = [p for p in Path(folder).iterdir() if p.stat().st_size > 1000]",
                "files = {p: c for p in paths if (c := torch.load(p))['run'] == run}",
                SORTED,
                BEST,
                *REMOVE,
            ),
            "A torn file makes `torch.load` raise an error",
        ),
        ((*OURS, SORTED, BEST.replace("math.isfinite", "bool"), *REMOVE), "One loss was not finite"),
        ((*OURS, SORTED, BEST.replace("math.isfinite(", "not math.isnan("), *REMOVE), "One loss was not finite"),
        (
            (
                *OURS[:5],
                "    c = checkpoint",
                "    if c['run'] == run and math.isfinite(c['metrics']['loss']): files[path] = c",
                SORTED,
                BEST,
                *REMOVE,
            ),
            "Such a file goes when it is old",
        ),
    ],
)
def test_what_is_said_of_other_cleanups_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("06.5", clean_up(*lines), words, capsys)
