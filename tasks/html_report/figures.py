"""Numbers as people read them, each with its exact value and the record that it was read from."""

import math
from collections.abc import Mapping
from typing import Any

from tasks.html_report.markup import Child, Markup, tag

SHORT_DIGEST = 12
Record = Mapping[str, Any]
_SIGNIFICANT = 4
_DAY, _HOUR, _MINUTE = 86_400, 3_600, 60
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LEAST_SCALED = 10_000


def number(value: object) -> str:
    """Write a value with as many digits as people compare."""
    if value is None:
        return "not measured"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.2e}"
    digits = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def planned(value: float | None) -> str:
    """Write a number that a person chose, as that person wrote it."""
    if value is None or value.is_integer():
        return number(value)
    return f"{value:.12g}"


def scaled(value: float) -> str:
    """Write a value in few characters, for axes and tiles."""
    if abs(value) < _LEAST_SCALED:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    scale, letter = next(each for each in _SCALES if abs(value) >= each[0])
    return f"{value / scale:.3g}{letter}"


def reach(value: float) -> str:
    """Write a standard error, of which two digits mean something."""
    return f"± {value:.2g}"


def share(value: float) -> str:
    """Write a share in per cent."""
    return f"{100 * value:.3g}%"


def duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR / _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY / _HOUR:.0f} h"


def size(num_bytes: float) -> str:
    """Write a number of bytes in decimal units."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
    return f"{num_bytes / 1000:.3g} TB"


def cited(value: object, place: str, text: Child = None) -> Markup:
    """Write a value that was read from a record: exact for machines, and on hovering its place."""
    shown = number(value) if text is None else text
    if value is None:
        return tag("span", shown, class_="absent", title=f"{place} was not measured")
    return tag("data", shown, value=str(value), title=f"{place} = {value}", data_from=place)


def measured(record: Record | None, name: str, text: Child = None) -> Markup:
    """Write one measurement of a stage's record; absent is said to be absent."""
    return cited(
        value_of(record, name), f"{record['stage'] if record else 'no record'}.{name}", text
    )


def percent(record: Record | None, name: str) -> Markup:
    """Write one measured share in per cent."""
    value = value_of(record, name)
    return measured(record, name, None if value is None else share(value))


def value_of(record: Record | None, name: str) -> Any:
    """Return one measurement of a stage's record; None where there is none."""
    return record["measurements"].get(name) if record else None


def digest(text: str | None) -> Markup:
    """Write the beginning of a digest, with all of it on hovering and for copying."""
    if not text:
        return tag("span", "none", class_="absent")
    kind, colon, hexadecimal = text.rpartition(":")
    return tag("code", f"{kind}{colon}{hexadecimal[:SHORT_DIGEST]}", title=text, class_="digest")


def source(record: Record | None, *more: Child) -> Markup:
    """Say from which record a section's numbers are read."""
    parts: list[Child] = []
    if record is not None:
        name = str(record["stage"])
        parts = [
            tag("a", f"{name}.metadata.json", href=f"#record-{name}"),
            " ",
            digest(str(record["record_sha256"])),
        ]
    for each in more:
        parts += [", " if parts else "", each]
    return tag("p", "Read from ", parts, class_="source")
