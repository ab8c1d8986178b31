"""Whether text is the beginning of a Python program, and where programs have beginnings.

A text that was cut off is judged without its last line, which may be half of one. The rest is the
beginning of a program if the parser, reading on to its end, has met no error before: what is open
there (a bracket, a block, a docstring) could still be closed.
"""

import ast
import codeop
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FLAGS = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]
_INCOMPLETE = "incomplete input"
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Passage:
    """Text from a definition at the top level of a document to the document's end."""

    document: int
    line: int
    text: str


def is_beginning(text: str, *, is_cut: bool) -> bool:
    r"""Tell whether a program may begin like this; a cut text has lost its last line's end.

    >>> is_beginning("def f(x):\n    return (x +\n", is_cut=False)
    True
    >>> is_beginning("def f(x:\n    return\n", is_cut=False)
    False
    """
    if is_cut:
        text = text[: text.rfind("\n") + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<completion>", "exec", _FLAGS)
        except SyntaxError as error:
            return str(error.msg).startswith(_INCOMPLETE)
        except (ValueError, MemoryError, RecursionError):
            return False
    return True


def passages(texts: Sequence[str], num_chosen: int, min_characters: int) -> list[Passage]:
    """Choose passages, spread evenly over all that are long enough.

    Documents that do not parse have none.
    """
    each = (each for number, text in enumerate(texts) for each in _passages(number, text))
    found = [passage for passage in each if len(passage.text) >= min_characters]
    num_chosen = min(num_chosen, len(found))
    return [found[number * len(found) // num_chosen] for number in range(num_chosen)]


def _passages(document: int, text: str) -> Iterator[Passage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return
    lines = text.split("\n")
    for node in tree.body:
        if isinstance(node, _DEFINITIONS):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield Passage(document, first, "\n".join(lines[first - 1 :]))
