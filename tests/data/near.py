"""Texts that are nearly alike, and the exact similarity that an estimate is held to."""

import random
from collections.abc import Sequence


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The definition, written out: five lines without white space and without the empty ones."""
    lines = ["".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if line]
    return frozenset(
        tuple(lines[at : at + 5]) for at in range(max(len(lines) - 4, min(1, len(lines))))
    )


def jaccard(left: str, right: str) -> float:
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def sources(num_texts: int, seed: int) -> list[str]:
    """Texts of 30 to 300 lines that share nothing but a line here and there."""
    drawn = random.Random(seed)
    return [_source(drawn, drawn.randint(30, 300)) for _ in range(num_texts)]


def _source(drawn: random.Random, num_lines: int) -> str:
    return "\n".join(_line(drawn) for _ in range(num_lines))


def _line(drawn: random.Random) -> str:
    return drawn.choice(
        (
            "    return None",
            "",
            f"    value = {drawn.random()}",
            f"def f{drawn.randint(0, 999)}(x):",
        )
    )


def with_edits(text: str, num_edits: int, drawn: random.Random) -> str:
    """Change, drop or add so many lines, and the indentation of all."""
    lines = text.split("\n")
    for _ in range(num_edits):
        place = drawn.randrange(len(lines))
        lines[place : place + drawn.randint(0, 1)] = [f"edited({drawn.random()})"]
    return "\n".join("  " + line for line in lines)


def planted(num_pairs: int, seed: int) -> tuple[Sequence[str], Sequence[str]]:
    """Pairs of originals and copies with up to seven edits."""
    drawn = random.Random(seed)
    originals = sources(num_pairs, seed)
    return originals, [with_edits(text, drawn.randint(0, 7), drawn) for text in originals]
