"""Plain values as one line of text, so that nothing else crosses from process to process.

What is decoded is made of built-in types alone, whatever was encoded: no method of the sender
comes along. Subclasses of them arrive as the type that they extend.
"""

import json
from typing import Any

MAX_BYTES = 1 << 20
"""Of a line; longer ones are no answer."""

_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class NotPlainValueError(TypeError):
    """A value that is no number, text or bytes, nor a collection of such."""


def encode(value: object) -> str:
    """Write a value as a line.

    Raises: NotPlainValueError, RecursionError.
    """
    return json.dumps(_pack(value))


def decode(line: str) -> Any:
    """Read a line that `encode` wrote.

    Raises: ValueError or TypeError for one that it did not.
    """
    return _unpack(json.loads(line))


def _pack(value: object) -> list[Any]:
    if value is None or isinstance(value, bool):
        return ["only", None if value is None else bool(value)]
    if isinstance(value, int):
        # As text in base ten it would be limited.
        return ["int", hex(int(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, bytes):
        return ["bytes", bytes.hex(value)]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [_pack(each) for each in value]]
    if isinstance(value, dict):
        return ["dict", [[_pack(key), _pack(each)] for key, each in dict.items(value)]]
    raise NotPlainValueError(f"a {type(value).__name__} is no plain value")


def _unpack(packed: Any) -> Any:
    name, *content = packed
    if name in _SEQUENCES:
        return _SEQUENCES[name](_unpack(each) for each in content[0])
    match name:
        case "only" if content[0] is None or isinstance(content[0], bool):
            return content[0]
        case "int":
            return int(content[0], 16)
        case "float":
            return float.fromhex(content[0])
        case "complex":
            return complex(*map(float.fromhex, content))
        case "str" if isinstance(content[0], str):
            return content[0]
        case "bytes":
            return bytes.fromhex(content[0])
        case "dict":
            return {_unpack(key): _unpack(each) for key, each in content[0]}
    raise ValueError(f"{name!r} is no kind of plain value")
