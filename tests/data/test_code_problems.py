import gzip
import json
from pathlib import Path

import pytest

from data.code_problems import (
    mean_pass_at_k,
    parse_problems,
    pass_at_k,
    problems_content,
    without_what_follows,
)
from data.errors import MissingFileError, WrongProblemsError

LINE = {
    "task_id": "mine/0",
    "prompt": 'def double(x):\n    """Double x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


def content(*changes: dict[str, object]) -> bytes:
    return "\n".join(json.dumps({**LINE, **change}) for change in changes).encode()


def test_all_problems_of_humaneval_are_there() -> None:
    problems = parse_problems("HumanEval", problems_content("HumanEval"))

    assert len(problems) == 164
    assert [problems[0].task_id, problems[163].task_id] == ["HumanEval/0", "HumanEval/163"]
    assert problems[32].entry_point == "find_zero"


def test_a_file_of_the_same_shape_is_read_packed_or_not(tmp_path: Path) -> None:
    plain = content({"more": 1}, {"task_id": "mine/1"})
    (tmp_path / "mine.jsonl").write_bytes(plain)

    read = problems_content(str(tmp_path / "mine.jsonl"))

    assert [each.task_id for each in parse_problems("mine", read)] == ["mine/0", "mine/1"]
    assert parse_problems("mine", gzip.compress(plain)) == parse_problems("mine", plain)


def test_a_line_ends_at_a_line_feed_alone() -> None:
    task = "mine\N{LINE SEPARATOR}0"
    line = json.dumps({**LINE, "task_id": task}, ensure_ascii=False)

    assert [each.task_id for each in parse_problems("mine", f"{line}\r\n".encode())] == [task]


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingFileError) as caught:
        problems_content("nowhere.jsonl")

    assert caught.value.path == Path("nowhere.jsonl")


WRONG = {
    "no JSON": (b"{", 1, "Expecting property name"),
    "too many digits": (b"[" + b"9" * 5000 + b"]", 1, "Exceeds the limit"),
    "no object": (b"[]", 1, "no text under 'task_id'"),
    "another type": (content({}, {"task_id": "b", "test": 7}), 2, "no text under 'test'"),
    "a prompt in pieces": (content({"prompt": "def f(:"}), 1, "a prompt that does not run"),
    "twice the same": (content({}, {}), 0, "mine/0 twice"),
    "nothing": (b"\n", 0, "no problem"),
    "not UTF-8": (b"\xff", 0, "'utf-8' codec can't decode"),
    "no gzip behind its header": (
        gzip.compress(b"")[:10] + b"\xff" * 9,
        0,
        "Error -3 while decompressing data",
    ),
    "half a gzip": (gzip.compress(content({}))[:-9], 0, "Compressed file ended"),
}


@pytest.mark.parametrize(("wrong", "line", "found"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_solved_is_refused_by_line(wrong: bytes, line: int, found: str) -> None:
    with pytest.raises(WrongProblemsError) as caught:
        parse_problems("mine.jsonl", wrong)

    assert caught.value.line == line
    assert caught.value.found.startswith(found)


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 1\n", "    return 1\n"),
        ("    return 1\n\ndef g():\n", "    return 1\n"),
        ("    x = 1\nif x:\n    pass\n# y", "    x = 1"),
        ("    # a comment\n    if x: print(x)\n", "    # a comment\n    if x: print(x)\n"),
    ],
)
def test_a_completion_ends_where_it_leaves_its_function(completion: str, kept: str) -> None:
    assert without_what_follows(completion) == kept


@pytest.mark.parametrize(
    ("num_samples", "num_passed", "k", "expected"),
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (10, 3, 1, 0.3), (5, 2, 2, 0.7), (4, 1, 4, 1.0), (5, 0, 3, 0)],
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(
    num_samples: int, num_passed: int, k: int, expected: float
) -> None:
    assert pass_at_k(num_samples, num_passed, k) == pytest.approx(expected, abs=1e-12)


def test_the_mean_is_over_problems_not_over_answers() -> None:
    assert mean_pass_at_k([(10, 10), (2, 0)], 1) == 0.5


@pytest.mark.parametrize(("num_samples", "num_passed", "k"), [(1, 2, 1), (1, 0, 2), (2, 0, 0)])
def test_a_draw_of_more_than_there_are_is_refused(
    num_samples: int, num_passed: int, k: int
) -> None:
    with pytest.raises(ValueError, match="are drawn"):
        pass_at_k(num_samples, num_passed, k)
