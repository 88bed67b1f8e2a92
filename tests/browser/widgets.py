"""What a reader turns: every slider, box, list, button and player, by key or click, and what is shown follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.jupyterlab import pixels, wait_until_idle

CONTROLS = {
    "sliders": "[role=slider]",
    "boxes": "[type=checkbox]",
    "lists": "select",
    "buttons": "button.widget-button",
    "players": ".widget-play",
}
SHOWN = """widget => JSON.stringify([
    [...widget.querySelectorAll('img')].map(image => image.src),
    [...widget.querySelectorAll('.widget-label')].map(label => label.innerText),
])"""
IS_ANOTHER = f"""([widget, before]) => ({SHOWN})(widget) !== before
    && [...widget.querySelectorAll('img')].every(image => image.complete)"""


def widgets(page: Page) -> list[Locator]:
    return page.locator(".jp-Notebook .jp-OutputArea-output:has(> .jupyter-widgets)").all()


def move_all(page: Page, widget: Locator) -> int:
    """Move every control of a widget once, and return how many it has."""
    found = {kind: widget.locator(where).all() for kind, where in CONTROLS.items()}
    for slider in found["sliders"]:
        move_slider(page, widget, slider)
    for box in found["boxes"]:
        there_and_back(page, widget, box.is_checked, box.click, box.click)
    for options in found["lists"]:
        there_and_back(page, widget, options.input_value, *keys(options, "ArrowDown", "ArrowUp"))
    for button in found["buttons"]:
        assert seen(widget) != after(page, widget, button.click)
    for player in found["players"]:
        move_player(page, widget, player)
    return sum(map(len, found.values()))


def seen(widget: Locator) -> tuple[object, ...]:
    """Return what a reader sees of a widget beside its controls: its pictures, and what stands below them."""
    pictures = [pixels(image).tobytes() for image in widget.locator("img").all()]
    return *pictures, *widget.locator(".widget-label").all_inner_texts()


def after(page: Page, widget: Locator, act: Callable[[], None]) -> tuple[object, ...]:
    """Return what a reader sees once a widget has followed what was done to it."""
    before = widget.evaluate(SHOWN)
    act()
    page.wait_for_function(IS_ANOTHER, arg=[widget.element_handle(), before])
    wait_until_idle(page)
    return seen(widget)


def there_and_back(
    page: Page, widget: Locator, value: Callable[[], Any], go: Callable[[], None], back: Callable[[], None]
) -> None:
    """A control takes another value and something else is shown; brought back, all is as it was."""
    begun = value(), seen(widget)
    shown = after(page, widget, go)
    assert (begun[0] != value(), begun[1] != shown) == (True, True)
    shown = after(page, widget, back)
    assert begun == (value(), shown)


def keys(control: Locator, *names: str) -> list[Callable[[], None]]:
    return [partial(control.press, name) for name in names]


def move_slider(page: Page, widget: Locator, slider: Locator) -> None:
    """An arrow key moves a slider, the other one brings it back."""
    value = partial(slider.get_attribute, "aria-valuenow")
    there = ["ArrowRight", "ArrowLeft"]
    if value() == slider.get_attribute("aria-valuemax"):
        there.reverse()
    there_and_back(page, widget, value, *keys(slider, *there))


def move_player(page: Page, widget: Locator, player: Locator) -> None:
    """A player moves the slider beside it by itself, goes to its beginning when stopped, and may be told to repeat."""
    play, stop, repeat = player.locator("button").all()
    slider = widget.locator("[role=slider]")
    begun = seen(widget)
    first = after(page, widget, play.click)
    second = after(page, widget, lambda: None)  # nobody does anything
    assert len({begun, first, second}) == 3
    stop.click()
    expect(slider).to_have_attribute("aria-valuenow", slider.get_attribute("aria-valuemin") or "")
    for is_on in (True, False):
        repeat.click()
        assert is_on == ("mod-active" in (repeat.get_attribute("class") or ""))
