"""Tables whose cells are coloured by size: layers down, kinds of operations across."""

import math
from collections.abc import Callable, Mapping, Sequence

from tasks.html_report.markup import Markup, tag

NUM_SHADES = 8
LAYERS = "layers."


def layered(
    values: Mapping[str, float | None],
) -> tuple[list[str], dict[int, dict[str, float | None]]]:
    """Sort sites into kinds and layers; sites of no layer are left to the caller."""
    kinds: list[str] = []
    layers: dict[int, dict[str, float | None]] = {}
    for site, value in values.items():
        if not site.startswith(LAYERS):
            continue
        _, layer, kind = site.split(".", 2)
        layers.setdefault(int(layer), {})[kind] = value
        if kind not in kinds:
            kinds.append(kind)
    return kinds, layers


def outside_layers(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the sites of no layer."""
    return {site: value for site, value in values.items() if not site.startswith(LAYERS)}


def heat_map(
    values: Mapping[str, float | None],
    shade: Callable[[float | None], int],
    word: Callable[[float | None], str],
    *,
    caption: str,
    is_alarm: bool = True,
) -> Markup | None:
    """Write a heat map; every cell also says its value, to those who hover, hear or print it."""
    kinds, layers = layered(values)
    if not layers:
        return None
    head = tag(
        "tr",
        tag("th", "layer", scope="col"),
        [tag("th", tag("span", kind), scope="col", class_="kind") for kind in kinds],
    )
    rows = [
        tag(
            "tr",
            tag("th", str(layer), scope="row"),
            [_cell(f"layer {layer} {kind}", row.get(kind), shade, word) for kind in kinds],
        )
        for layer, row in sorted(layers.items())
    ]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", rows),
        class_="heat" if is_alarm else "heat calm",
    )


def _cell(
    site: str,
    value: float | None,
    shade: Callable[[float | None], int],
    word: Callable[[float | None], str],
) -> Markup:
    return tag(
        "td",
        tag("span", word(value), class_="heard"),
        class_=f"shade-{shade(value)}",
        title=f"{site}: {word(value)}",
    )


def shade_of(low: float, high: float) -> Callable[[float | None], int]:
    """Return how dark a value is between two bounds, by powers of ten; not a number is darkest."""
    span = math.log10(high / low) if high > low else 1.0

    def shade(value: float | None) -> int:
        if value is None or not math.isfinite(value):
            return NUM_SHADES
        if value <= 0:
            return 0
        part = math.log10(value / low) / span
        return 1 + round((NUM_SHADES - 2) * min(max(part, 0.0), 1.0))

    return shade


def key_of(words: Sequence[tuple[int, str]], *, is_alarm: bool = True) -> Markup:
    """Write what the shades mean."""
    cells = [
        tag("span", tag("i", class_=f"key shade-{shade}", aria_hidden="true"), word)
        for shade, word in words
    ]
    return tag("p", cells, class_="legend" if is_alarm else "legend calm")
