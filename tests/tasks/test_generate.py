from collections.abc import Iterator

import pytest

from model.errors import WrongSettingError
from tasks import generate
from tasks.errors import DeviceUnavailableError
from tasks.generate import complete
from tests.tasks.tiny import Finished


def text_before(stops: tuple[str, ...], pieces: list[str]) -> list[str]:
    return [piece for piece in generate._before(stops, iter(pieces)) if piece]


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["a", "b"], ["a", "b"]),
        (("\ndef",), ["x = 1", "\n", "d", "ef f"], ["x = 1"]),
        (("\ndef",), ["x", "\n", "d", "o"], ["x", "\ndo"]),
        (("b", "a"), ["xaby"], ["x"]),
        (("aab",), ["a", "a", "a", "b"], ["a"]),
        (("\n",), ["a\nb"], ["a"]),
        (("end",), ["en"], ["en"]),
    ],
)
def test_text_ends_before_a_stop_and_waits_for_no_more_than_it_must(
    stops: tuple[str, ...], pieces: list[str], expected: list[str]
) -> None:
    assert text_before(stops, pieces) == expected


def test_nothing_more_is_drawn_once_a_stop_was_seen() -> None:
    drawn = []

    def pieces() -> Iterator[str]:
        for piece in "abc":
            drawn.append(piece)
            yield piece

    assert "".join(generate._before(("b",), pieces())) == "a"
    assert drawn == ["a", "b"]


class Bytes:
    """A tokenizer that has these tokens."""

    def __init__(self, *tokens: bytes) -> None:
        self.tokens = tokens

    def decode(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[each] for each in ids)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((b"caf", b"\xc3", b"\xa9"), ["caf", "\N{LATIN SMALL LETTER E WITH ACUTE}"]),
        ((b"a caf\xc3", b"\xa9"), ["a caf", "\N{LATIN SMALL LETTER E WITH ACUTE}"]),
        ((b"a\xff", b"b"), ["a\N{REPLACEMENT CHARACTER}", "b"]),
        ((b"a", b"\xe2\x82"), ["a", "\N{REPLACEMENT CHARACTER}"]),
    ],
)
def test_characters_are_whole_wherever_tokens_cut_them(
    tokens: tuple[bytes, ...], expected: list[str]
) -> None:
    pieces = generate._characters(Bytes(*tokens), iter(range(len(tokens))))  # type: ignore[arg-type]

    assert [piece for piece in pieces if piece] == expected


def completed(finished: Finished, **changes: object) -> str:
    directory = finished.store.directory(finished.refs.checkpoint)
    asked = {"num_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 0, **changes}
    return "".join(complete(str(directory), "def ", **asked))  # type: ignore[arg-type]


def test_a_stop_shortens_what_is_completed(reading: Finished) -> None:
    whole = completed(reading)
    stop = whole[2:4]

    assert completed(reading, stops=(stop,)) == whole[: whole.index(stop)]
    assert len(completed(reading, precision="bfloat16")) > 0


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"stops": ("",)}, "--stop"),
        ({"precision": "float16"}, "--precision"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    reading: Finished, changes: dict[str, object], setting: str
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        completed(reading, **changes)

    assert caught.value.setting == setting


def test_a_gpu_that_is_not_there_is_refused(
    reading: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(DeviceUnavailableError) as caught:
        completed(reading, device="cuda")

    assert caught.value.device == "cuda"
