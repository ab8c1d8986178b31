"""What a file, a record or a model says is shown, and steers no terminal."""

import io
import json
import sys

import pytest

from flows import screen
from flows.screen import Screen, complain, printable_json, show_table
from tasks.saying import say

ESCAPES = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://x\x1b\\",
    "one byte for two": "\x9b2J",
    "back": "a\b\b",
    "over the line": "a\rb",
    "delete": "\x7f",
    "turned round": "\u202egpj.exe",
    "isolated": "\u2066x",
    "no width": "a\u200bb",
    "a line of its own": "a\u2028b",
    "half a pair": "\udc80",
    "a null": "a\x00b",
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What screens print, as a terminal would get it."""
    file = io.StringIO()
    for name in ("out", "err"):
        terminal = Screen(file=file, force_terminal=True, highlight=False, width=200)
        monkeypatch.setattr(screen, name, terminal)
    return file


def without_styles(text: str) -> str:
    """Take away what our own styles are."""
    for own in ("\x1b[31m", "\x1b[1m", "\x1b[3m", "\x1b[0m"):
        text = text.replace(own, "")
    return text


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_nothing_that_is_printed_steers_a_terminal(shown: io.StringIO, escape: str) -> None:
    error = ValueError(f"x{escape}y")
    error.add_note(f"note {escape}")

    screen.out.print(f"x{escape}y")
    show_table([{f"k{escape}": f"v{escape}", "list": [escape]}], title=f"t{escape}")
    complain(error)

    assert [each for each in without_styles(shown.getvalue()) if not each.isprintable()] == [
        "\n"
    ] * shown.getvalue().count("\n")


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_json_says_the_same_without_steering_a_terminal(escape: str) -> None:
    value = {f"a{escape}": [f"é{escape}", 1.5, None]}

    text = printable_json(value, indent=2)

    assert json.loads(text) == value
    assert all(each.isprintable() for each in text.split("\n"))
    assert "é" in text


def test_brackets_are_no_markup(shown: io.StringIO) -> None:
    screen.out.print("[red]a[/red] [/nope] [link=http://x]b")
    show_table([{"[bold]k": "[/b]"}], title="[/t]")

    assert without_styles(shown.getvalue()).split() == [
        *("[red]a[/red]", "[/nope]", "[link=http://x]b"),
        *("[/t]", "[bold]k", "[/b]"),
    ]


def test_lines_and_tabs_stay(shown: io.StringIO) -> None:
    screen.out.print("a\tb\nc")

    assert shown.getvalue().split() == ["a", "b", "c"]
    assert shown.getvalue().count("\n") == 2


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, "x\\x1b[31my\n"), (False, None)])
def test_what_a_model_writes_steers_no_terminal_and_reaches_a_pipe_as_it_is(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, expected: str | None
) -> None:
    from flows.use_commands import generate

    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr("tasks.generate.complete", lambda *_, **__: iter(["\x1b[31m", "y"]))

    generate("checkpoint:0", prompt="x")

    assert file.getvalue() == (expected or "x\x1b[31my\n")


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_a_line_that_a_task_says_is_one_line_without_orders(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say(f"warning: {text}\nerror: forged")
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said.endswith("\\nerror: forged\n")
    assert said[:-1].isprintable()
