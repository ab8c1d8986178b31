import pytest

from data.syntax import Passage, is_beginning, passages

BEGINNINGS = [
    "",
    "x = 1\n",
    "if x:\n",
    "x = (\n    1,\n",
    "'''a docstring\n",
    "class A:\n    def f(self):\n        return [\n",
    "x = 1 + \\\n",
    "'\\d'\n",
]
NO_BEGINNINGS = [
    "def f(:\n",
    "x = 'abc\ny = 1\n",
    "if x:\ny\n",
    "else:\n",
    "class A:\n  def f(self):\n    x\n   y\n",
    "x = 1)\n(\n",
    "x\0y\n",
    "(" * 300 + "\n",
]


@pytest.mark.parametrize("text", BEGINNINGS)
def test_what_could_go_on_is_a_beginning(text: str) -> None:
    assert is_beginning(text, is_cut=False)


@pytest.mark.parametrize("text", NO_BEGINNINGS)
def test_what_no_continuation_mends_is_none(text: str) -> None:
    assert not is_beginning(text, is_cut=False)


def test_half_a_line_counts_only_where_the_writer_ended_it() -> None:
    text = "def f(x):\n    return 'ab"

    assert is_beginning(text, is_cut=True)
    assert not is_beginning(text, is_cut=False)


TEXTS = [
    "import os\n\n\n@cached\ndef a():\n    return 1\n\n\nclass B:\n    def c(self):\n        ...\n",
    "print 'of another Python'\n",
    "x = 1\nasync def d():\n    pass\n",
]


def test_passages_begin_at_definitions_of_the_top_level() -> None:
    assert passages(TEXTS, 9, min_characters=0) == [
        Passage(
            0, 4, "@cached\ndef a():\n    return 1\n\n\nclass B:\n    def c(self):\n        ...\n"
        ),
        Passage(0, 9, "class B:\n    def c(self):\n        ...\n"),
        Passage(2, 2, "async def d():\n    pass\n"),
    ]


def test_fewer_passages_are_spread_over_all() -> None:
    assert [each.line for each in passages(TEXTS, 2, min_characters=0)] == [4, 9]
    assert [each.line for each in passages(TEXTS * 2, 2, min_characters=0)] == [4, 4]


def test_short_passages_are_left_out() -> None:
    assert [each.line for each in passages(TEXTS, 9, min_characters=30)] == [4, 9]
    assert passages(TEXTS, 9, min_characters=1000) == []
