"""What the lesson on resuming shows: runs that forget, their figures, and the widget that chooses what."""

from __future__ import annotations

import io
from itertools import combinations

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from koemorph_tutorial.teaching import amnesia
from koemorph_tutorial.teaching.amnesia import PARTS, Outcome, SmallRun, forget, forget_each, straight
from koemorph_tutorial.teaching.gaps import Forget, compare, matrix

FIRST = {
    "best": "epoch 3 ends: the best is 3, not 1",
    "early-stop count": "epoch 3 ends: 0 epochs in vain, not 2",
    "numpy RNG": "epoch 3, batch 5: strength of the noise",
    "Python RNG": "epoch 3, batch 5: loudness",
    "torch RNG": "epoch 3, batch 5: noise and dropout",
    "data order": "epoch 3, batch 5: windows",
    "batch position": "batches 0 to 4 come again",
    "scheduler": "epoch 4, batch 0: learning rate",
    "optimizer": "epoch 3, batch 5: learning rate",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_that_forgets_nothing_is_bitwise_the_run_that_never_stopped() -> None:
    outcome = forget()
    assert {3: 0.0, 4: 0.0, 5: 0.0, 6: 0.0} == outcome.distances
    assert ("nothing", "nothing, to the end") == (outcome.name, outcome.first)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_different_first_is_what_was_forgotten(part: str) -> None:
    assert FIRST[part] == forget(part).first


@pytest.mark.parametrize("part", PARTS)
def test_only_what_is_merely_recorded_leaves_the_weights_equal(part: str) -> None:
    equal = [distance == 0 for distance in forget(part).distances.values()]
    recorded = {"best": [True] * 4, "early-stop count": [True] * 4, "scheduler": [True, False, False, False]}
    assert recorded.get(part, [False] * 4) == equal


def test_forgetting_makes_a_run_different_and_not_always_worse() -> None:
    last = [outcome.losses[6] - forget().losses[6] for outcome in forget_each()]
    assert min(last) < 0 < max(last)


def test_a_run_may_forget_several_things_and_what_it_forgot_before_does_not_matter() -> None:
    before = forget("optimizer")
    amnesia._forget.cache_clear()
    both = forget("optimizer", "scheduler")
    assert ("scheduler", "optimizer") == both.forgotten
    assert before == forget("optimizer")  # a checkpoint in memory, used twice, would have been trained on


def test_a_part_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected some of best, early-stop count, .*, found 'weights'"):
        forget("weights")


def test_without_chance_nothing_is_random() -> None:
    """The order is that of the data, and no seed matters."""
    runs = []
    for seed in (1, 2):
        run = SmallRun(chance=False)
        torch.manual_seed(seed)
        run.train_epoch()
        runs.append(run)
    assert torch.equal(runs[0].weights, runs[1].weights)
    assert torch.equal(runs[0].seen[0], SmallRun(chance=False).loader.dataset.tensors[1])  # type: ignore[attr-defined]


def test_the_best_of_the_small_run_is_clearly_before_the_stop() -> None:
    """What the lesson shows must not hang on the last bits of a processor."""
    losses = straight().losses
    assert losses[1] * 1.05 < min(loss for epoch, loss in losses.items() if epoch != 1)


# -------------------------------------------------------------------------------------------------------- the figures


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    texts = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def test_the_matrix_says_in_words_and_signs_what_is_equal() -> None:
    figure, caption = matrix(forget_each())
    assert "Weights:\nequal to the last bit: nothing, best, early-stop count;\nequal at first: scheduler;\n" in caption
    assert caption.endswith("The last loss of those that differ: higher in some, lower in others.")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [*PARTS] == [text for text in texts if text in PARTS]
    assert 16 == texts.count("=")  # three rows of weights and losses, and the scheduler's first epoch
    assert {FIRST[part] for part in PARTS} <= set(texts)
    assert "Last loss: ▲ higher than in that run, ▼ lower." in texts[-1]


def test_nothing_in_the_matrix_overlaps_or_leaves_it() -> None:
    figure, _ = matrix(forget_each())
    assert [] == overlapping(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert figure.bbox.x0 <= min(box.x0 for box in boxes)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert figure.bbox.y0 <= min(box.y0 for box in boxes)
    assert max(box.y1 for box in boxes) <= figure.bbox.y1
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 10.5


@pytest.mark.parametrize("far", [1e-9, 0.00999, 0.0999, 0.95, 7.0])
def test_any_distance_finds_its_cell(far: float) -> None:
    outcome = Outcome(
        forgotten=("optimizer",), losses=forget().losses, distances=dict.fromkeys(range(3, 7), far), first="x"
    )
    figure, caption = matrix([forget(), outcome])
    assert [] == overlapping(figure)
    assert "different at once: optimizer" in caption
    assert caption.endswith("The last loss of those that differ: the same.")


def test_a_comparison_says_from_which_epoch_on_the_weights_differ() -> None:
    assert compare(forget("scheduler"))[1] == (
        "Forgotten: scheduler. Weights: different from epoch 4 on. Different first: epoch 4, batch 0: learning rate."
    )
    figure, caption = compare(forget())
    assert caption == "Forgotten: nothing. Weights: equal to the last bit. Different first: nothing, to the end."
    assert ["="] * 4 == [text.get_text() for text in figure.axes[1].texts]
    epochs = [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert [list(range(7)), [3, 4, 5, 6]] == epochs[:2]  # counted from 0, as in the files


def test_the_title_of_a_comparison_fits_whatever_is_forgotten() -> None:
    figure, _ = compare(forget(*list(PARTS)[:-1]))
    figure.draw_without_rendering()
    (title,) = [text for text in figure.texts if text.get_text().startswith("Forgotten: best and")]
    assert title.get_window_extent().x1 <= figure.bbox.x1
    assert title.get_window_extent().y0 >= max(ax.get_tightbbox().y1 for ax in figure.axes) - 1


# --------------------------------------------------------------------------------------------------------- the widget


def test_a_tick_is_a_forgotten_part_and_the_picture_follows() -> None:
    choose = Forget()
    assert ((), compare(forget())[1]) == (choose.value, choose.caption)
    before = bytes(choose._image.value)
    choose._boxes["optimizer"].value = True
    assert (("optimizer",), compare(forget("optimizer"))[1]) == (choose.value, choose.caption)
    assert before != bytes(choose._image.value)
    choose._boxes["optimizer"].value = False
    assert before == bytes(choose._image.value)


def test_a_value_that_is_set_ticks_the_boxes() -> None:
    choose = Forget("best")
    choose.value = ["optimizer", "scheduler"]
    assert ["scheduler", "optimizer"] == [name for name, box in choose._boxes.items() if box.value]
    choose.value = "best"  # type: ignore[assignment]
    assert ("best",) == choose.value
    with pytest.raises(ValueError, match="found 'nonsense'"):
        choose.value = ["nonsense"]  # type: ignore[assignment]
    assert ("best",) == choose.value


def test_where_nothing_runs_the_picture_and_its_caption_are_there() -> None:
    data = Forget("data order")._repr_mimebundle_()
    assert compare(forget("data order"))[1] == data["text/plain"]
    assert "P" == Image.open(io.BytesIO(data["image/png"])).mode
    assert "application/vnd.jupyter.widget-view+json" in data


def test_in_plain_python_the_widget_prints_its_caption(capsys: pytest.CaptureFixture[str]) -> None:
    Forget("best").show()
    assert capsys.readouterr().out == compare(forget("best"))[1] + "\n"
