"""What people are told on stderr while work is under way: a line at a time, and no orders to it."""

import sys


def say(line: str) -> None:
    """Write a line on stderr, at once; foreign text in it can neither steer nor forge one."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Spell out what could steer a terminal or forge a line: names in files are anybody's."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
