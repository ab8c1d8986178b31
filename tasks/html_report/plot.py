"""Plots that fit any width: curves are SVG that stretches, words are HTML that does not.

Colours come from the page's style sheet, so that one plot serves light, dark and paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.html_report.axes import Point, Scale, scale_of, thin
from tasks.html_report.figures import scaled
from tasks.html_report.markup import Markup, join, raw, tag

WIDTH, HEIGHT = 1000, 400
"""Units of the drawing, not of the screen."""
_LABEL_GAP = 0.055
"""Least distance of two labels at the right edge, as a share of the height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line through points."""

    label: str
    points: Sequence[Point]
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Points with a reach to both sides and a word each, joined by a line."""

    label: str
    points: Sequence[Point]
    reaches: Sequence[float]
    words: Sequence[str]
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal line with its name at the right edge."""

    label: str
    value: float
    colour: str = "muted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What is drawn, and what it is said to show where it cannot be seen."""

    title: str
    description: str
    x_label: str
    y_label: str
    curves: Sequence[Curve] = ()
    marks: Sequence[Marks] = ()
    levels: Sequence[Level] = ()
    is_log: bool = False
    height: str = "tall"
    notes: Sequence[str] = ()


def draw(plot: Plot, identity: str) -> Markup:
    """Write a plot as a figure with a caption."""
    x, y = _scales(plot)
    shapes = [
        *(_grid(x, y)),
        *(_level(each, y) for each in plot.levels),
        *(_curve(each, x, y) for each in plot.curves),
        *(shape for each in plot.marks for shape in _marks(each, x, y)),
    ]
    picture = tag(
        "svg",
        tag("title", plot.title, id=f"{identity}-title"),
        tag("desc", plot.description, id=f"{identity}-desc"),
        shapes,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_labelledby=f"{identity}-title {identity}-desc",
    )
    return tag(
        "figure",
        tag("figcaption", tag("h3", plot.title), _legend(plot)),
        tag("p", plot.y_label, class_="axis-name"),
        tag(
            "div", picture, _x_ticks(x), _y_ticks(y), _names(plot, y), class_=f"plot {plot.height}"
        ),
        tag("p", plot.x_label, class_="axis-name below"),
        [tag("p", note, class_="note") for note in plot.notes],
        id=identity,
    )


def _scales(plot: Plot) -> tuple[Scale, Scale]:
    lines: list[Curve | Marks] = [*plot.curves, *plot.marks]
    points = [point for each in lines for point in each.points]
    values = [value for _, value in points] + [level.value for level in plot.levels]
    for each in plot.marks:
        for (_, value), reach in zip(each.points, each.reaches, strict=True):
            values += [value - reach, value + reach]
    return scale_of([place for place, _ in points], margin=0.01), scale_of(
        values, is_log=plot.is_log
    )


def _curve(curve: Curve, x: Scale, y: Scale) -> Markup:
    path = "L".join(_at(point, x, y) for point in thin(curve.points))
    return tag("path", d=f"M{path}", class_=f"curve {curve.colour}")


def _marks(marks: Marks, x: Scale, y: Scale) -> list[Markup]:
    path = "L".join(_at(point, x, y) for point in marks.points)
    shapes = [tag("path", d=f"M{path}", class_=f"through {marks.colour}")]
    for (place, value), reach, word in zip(marks.points, marks.reaches, marks.words, strict=True):
        low, high = (_at((place, value + each), x, y) for each in (-reach, reach))
        if reach:
            shapes.append(tag("path", d=f"M{low}L{high}", class_=f"reach {marks.colour}"))
        # A line of no length with a round end stays a circle however the drawing is stretched.
        dot = f"M{_at((place, value), x, y)}h0"
        shapes.append(tag("path", tag("title", word), d=dot, class_=f"dot {marks.colour}"))
    return shapes


def _level(level: Level, y: Scale) -> Markup:
    height = _up(y.place(level.value))
    return tag("path", d=f"M0 {height}H{WIDTH}", class_=f"level {level.colour}")


def _grid(x: Scale, y: Scale) -> list[Markup]:
    rows = "".join(f"M0 {_up(y.place(tick))}H{WIDTH}" for tick in y.ticks())
    columns = "".join(f"M{WIDTH * x.place(tick):.1f} 0V{HEIGHT}" for tick in x.ticks())
    return [tag("path", d=rows + columns, class_="grid")]


def _at(point: Point, x: Scale, y: Scale) -> str:
    return f"{WIDTH * x.place(point[0]):.1f} {_up(y.place(point[1]))}"


def _up(share: float) -> str:
    return f"{HEIGHT * (1 - min(max(share, 0.0), 1.0)):.1f}"


def _x_ticks(x: Scale) -> list[Markup]:
    return [
        tag("span", scaled(tick), class_="tick x", style=f"left:{100 * x.place(tick):.2f}%")
        for tick in x.ticks()
    ]


def _y_ticks(y: Scale) -> list[Markup]:
    return [
        tag("span", scaled(tick), class_="tick y", style=f"top:{100 * (1 - y.place(tick)):.2f}%")
        for tick in y.ticks()
    ]


def _names(plot: Plot, y: Scale) -> list[Markup]:
    """Write the names of levels, moved apart where two would overlap."""
    names: list[Markup] = []
    free = 0.0
    for level in sorted(plot.levels, key=lambda each: -each.value):
        top = max(1 - y.place(level.value), free)
        free = top + _LABEL_GAP
        style = f"top:{100 * top:.2f}%"
        names.append(tag("span", level.label, class_=f"name {level.colour}", style=style))
    return names


def _legend(plot: Plot) -> Markup:
    lines: list[Curve | Marks] = [*plot.curves, *plot.marks]
    keys = [
        tag("span", tag("i", class_=f"key {each.colour}", aria_hidden="true"), each.label)
        for each in lines
    ]
    return tag("p", keys, class_="legend") if len(keys) > 1 else join(raw(""))
