import gzip
import json
import re
from importlib import resources
from typing import Any

import pytest

from data.screen import screen
from tests.data.candidates import CODE, candidates, filter_settings

PACKED = resources.files("data").joinpath("benchmarks/HumanEval.jsonl.gz").read_bytes()
TASKS = [json.loads(line) for line in gzip.decompress(PACKED).splitlines()]


def rejected(*contents: bytes, **settings: Any) -> list[tuple[str, str, str]]:
    chosen = {"decontaminate": ("HumanEval",), **settings}
    _, rejections = screen(candidates(contents), filter_settings(**chosen))
    return [(row["path"], row["filter"], row["detail"]) for row in rejections.to_pylist()]


def test_the_benchmark_is_the_published_one() -> None:
    assert len(TASKS) == 164
    assert TASKS[0]["entry_point"] == "has_close_elements"


def test_a_prompt_is_found_with_its_task_and_its_place() -> None:
    prompt = TASKS[12]["prompt"].lstrip().encode()
    assert rejected(CODE, CODE + b"#" + prompt, CODE) == [
        ("1.py", "contaminated", "HumanEval/12, 10 words from byte 52")
    ]
    assert rejected(CODE, CODE + prompt, CODE, decontaminate=()) == []


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["task_id"])
def test_every_task_is_found(task: dict[str, str]) -> None:
    content = (task["prompt"] + task["canonical_solution"]).encode()
    assert [found[:2] for found in rejected(content)] == [("0.py", "contaminated")]


def test_the_words_of_any_docstring_alone_are_found_however_they_are_laid_out() -> None:
    for task in TASKS:
        (docstring,) = re.findall(
            r"(?:\"{3}|'{3})(.*?)(?:\"{3}|'{3})\s*$", task["prompt"], re.DOTALL
        )
        content = "\n".join(docstring.split()).encode()
        assert rejected(CODE, content, CODE) != [], task["task_id"]


def test_case_and_what_stands_between_words_do_not_count() -> None:
    words = TASKS[0]["prompt"].upper().replace(" ", "  # ").encode()
    assert [found[:2] for found in rejected(words)] == [("0.py", "contaminated")]


def test_as_many_words_as_asked_for_are_needed_in_a_row() -> None:
    words = b"has_close_elements numbers List float threshold float bool Check if in given list"
    assert rejected(words, decontamination_ngram=10) != []
    assert rejected(b" ".join(words.split()[:9]), decontamination_ngram=10) == []
    assert rejected(b" ".join(words.split()[:9]), decontamination_ngram=9) != []
    broken = words.replace(b" threshold", b" threshold of")
    assert rejected(broken, decontamination_ngram=10) == []


def test_numbers_alone_are_no_contamination() -> None:
    # HumanEval/78 says that "prime numbers are 2, 3, 5, 7, 11, 13, 17,...".
    assert rejected(b"2 3 5 7 11 13 17", decontamination_ngram=7) == []
    assert rejected(b"are 2 3 5 7 11 13 17", decontamination_ngram=8) == [
        ("0.py", "contaminated", "HumanEval/78, 8 words from byte 0")
    ]


def test_words_of_two_documents_are_not_in_a_row() -> None:
    words = b"has_close_elements numbers List float threshold float bool Check if in"
    assert rejected(words, words) != []
    for place in range(1, len(words)):
        assert rejected(words[:place], words[place:]) == []


def test_the_last_word_of_a_document_counts_before_one_that_goes_on() -> None:
    words = b"has_close_elements numbers List float threshold float bool Check if in"
    for following in (b"name", b"n", b"something_of_many_letters"):
        assert [found[0] for found in rejected(words, following)] == ["0.py"]


def test_the_first_word_of_a_document_counts_after_one_that_does_not_end() -> None:
    words = b"has_close_elements numbers List float threshold float bool Check if in"
    assert rejected(b"name", words) == [
        ("1.py", "contaminated", "HumanEval/0, 10 words from byte 0")
    ]
