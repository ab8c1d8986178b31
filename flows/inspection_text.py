"""A description as people read it: single facts, then a section for everything that has parts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evidence.records import flatten
from flows.screen import out, show_table, text_of
from tasks.saying import printable

LAYER = re.compile(r"\d+")
HIDDEN = ("metadata",)
"What the other sections tell; `--json` has all."


def show_description(described: Mapping[str, Any]) -> None:
    """Print a description in sections."""
    _show_facts({key: value for key, value in described.items() if not _has_parts(value)})
    for title, value in described.items():
        if _has_parts(value) and value and title not in HIDDEN:
            out.print(f"\n{title}", style="bold")
            _show_parts(title, value)


def _show_parts(title: str, value: Any) -> None:
    if title == "tensors":
        show_table(list(collapsed(value)))
    elif isinstance(value, Mapping):
        _show_facts(flatten(value))
    elif all(isinstance(each, Mapping) for each in value):
        show_table(value)
    else:
        out.print(text_of(value))


def _show_facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        out.print(f"{printable(key):<{width}}  {text_of(value)}")


def _has_parts(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, Sequence) and not isinstance(value, str) and not _is_plain(value)
    )


def _is_plain(values: Sequence[object]) -> bool:
    return all(isinstance(value, str | int | float) for value in values)


def collapsed(tensors: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    """Yield a row for all tensors that differ in their numbers alone: those of the layers."""
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for tensor in tensors:
        pattern = LAYER.sub("N", tensor["name"])
        groups.setdefault((pattern, tensor["dtype"], *tensor["shape"]), []).append(tensor)
    for key, alike in groups.items():
        yield {
            "tensor": key[0] if len(alike) > 1 else alike[0]["name"],
            "number": len(alike),
            "dtype": alike[0]["dtype"],
            "shape": alike[0]["shape"],
            "bytes": sum(tensor["size_bytes"] for tensor in alike),
        }
