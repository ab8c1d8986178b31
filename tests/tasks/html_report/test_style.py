"""Colours can be told apart by everybody, in light, dark and print."""

import re

import pytest

from tasks.html_report.page import STYLE

TEXT, GRAPHIC = 4.5, 3.0
"""WCAG 2.2: contrast of text (1.4.3) and of what must be seen to understand (1.4.11)."""
PAIRS = [
    *((name, ground, TEXT) for name in ("ink", "soft", "accent") for ground in ("page", "card")),
    *((tone, f"{tone}-fill", TEXT) for tone in ("good", "bad", "open")),
    *(("ink", f"{tone}-fill", TEXT) for tone in ("good", "bad", "open")),
    *((tone, "card", TEXT) for tone in ("good", "bad", "open", "target")),
    *((name, "card", GRAPHIC) for name in ("train", "validation", "target", "muted")),
    *((name, "card", GRAPHIC) for name in ("kept", "lost", "whole", "part")),
    ("ink", "mark", TEXT),
]


def palettes() -> dict[str, dict[str, str]]:
    found = re.findall(r":root \{(.*?)\n *\}", STYLE.read_text(), re.DOTALL)
    colours = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in found]
    return dict(zip(("light", "dark", "print"), colours, strict=True))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_black_on_white_has_the_contrast_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize(("colour", "ground", "least"), PAIRS)
def test_a_colour_stands_out(theme: str, colour: str, ground: str, least: float) -> None:
    palette = palettes()[theme]
    assert contrast(palette[colour], palette[ground]) >= least


def test_every_theme_has_every_colour_and_every_colour_is_used() -> None:
    text = STYLE.read_text()
    names = [set(each) for each in palettes().values()]
    assert names[0] == names[1] == names[2]
    assert {name for name in names[0] if f"var(--{name})" not in text} == set()


def test_the_style_asks_for_nothing_from_elsewhere() -> None:
    assert re.findall(r"url\(|@import|@font-face|https?:", STYLE.read_text()) == []
