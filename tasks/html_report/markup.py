"""HTML from functions: what is not markup already is escaped."""

import html
from collections.abc import Iterable, Sequence

Child = str | None | Iterable["Child"]

_VOID = {"br", "meta", "col"}


class Markup(str):
    """Text that is HTML: a type of its own, so that nothing from a record is it by accident."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Write an element; an attribute of None is left out, and `class_` is `class`."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _VOID else f"{join(children)}</{name}>"
    return raw(f"<{name}{head}>{end}")


def join(children: Child) -> Markup:
    """Write children one after another."""
    if children is None:
        return raw("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return raw(html.escape(_visible(children)))
    return raw("".join(join(child) for child in children))


def raw(text: str) -> Markup:
    """Take text for HTML; for what is written here, never for what was read."""
    return Markup(text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    caption: str,
    class_: str | None = None,
) -> Markup:
    """Write a table whose first column names the rows.

    Roles are stated because narrow screens lay cells out as blocks, which would lose them.
    """
    head = [tag("th", column, scope="col", role="columnheader") for column in columns]
    body = [
        tag("tr", [_cell(columns, number, each) for number, each in enumerate(row)], role="row")
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", head, role="row"), role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
        class_=class_,
    )


def _cell(columns: Sequence[str], number: int, content: Child) -> Markup:
    if number == 0:
        return tag("th", content, scope="row", role="rowheader")
    return tag("td", content, role="cell", data_label=columns[number])


def _visible(text: str) -> str:
    """Spell out control characters: what a model or a file name says is anybody's."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )
