import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from data.errors import VocabularyTooLargeError, WrongTokenizerError
from data.tokenizer import END_OF_TEXT, NUM_BYTES, Tokenizer, train_tokenizer
from tests.data.conftest import Tokens
from tests.data.corpus import TEXTS

TRAIN = "print('one two three')\nprint('one two four')\n" * 3


@pytest.fixture(scope="module")
def tokenizer(tokens: Tokens) -> Tokenizer:
    return Tokenizer.load(tokens.directory / "tokenizer.json")


def write(path: Path, **changes: Any) -> Path:
    definition = json.loads(train_tokenizer([TRAIN], vocab_size=260, min_merge_frequency=2))
    for key, value in changes.items():
        target = definition["model"] if key in definition["model"] else definition
        target[key] = value
    path.write_text(json.dumps(definition))
    return path


def test_a_small_vocabulary_is_the_end_the_bytes_and_the_first_merges(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path / "tokenizer.json"))
    assert tokenizer.vocab_size == 260
    assert tokenizer.end_of_text_id == 0
    assert tokenizer.unk_id is None
    pieces = [tokenizer.decode([token]) for token in range(260)]
    assert pieces[0] == b""
    assert sorted(pieces[1:257]) == [bytes([byte]) for byte in range(NUM_BYTES)]
    assert pieces[257:] == [b" t", b"')", b"('"]
    assert tokenizer.token_bytes().tolist() == [len(piece) for piece in pieces]


def test_training_twice_gives_the_same_file_in_any_process() -> None:
    code = (
        "import sys; from data.tokenizer import train_tokenizer; sys.stdout.write("
        f"train_tokenizer([{TRAIN!r}], vocab_size=270, min_merge_frequency=1))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = train_tokenizer([TRAIN], vocab_size=270, min_merge_frequency=1)
    assert here == train_tokenizer([TRAIN], vocab_size=270, min_merge_frequency=1)
    assert here == there.stdout


@given(st.text())
def test_any_text_comes_back_byte_for_byte(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids.tolist()) == text.encode()
    assert tokenizer.end_of_text_id not in ids


@given(st.binary())
def test_every_byte_has_a_token(tokenizer: Tokenizer, content: bytes) -> None:
    token_of = {tokenizer.decode([token]): token for token in range(tokenizer.vocab_size)}
    assert tokenizer.decode(token_of[bytes([byte])] for byte in content) == content


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", f"{END_OF_TEXT}\n" * 3])
def test_a_spelt_out_end_of_text_is_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.end_of_text_id not in ids
    assert tokenizer.decode(ids.tolist()) == text.encode()


def test_normal_forms_line_ends_and_a_byte_order_mark_are_kept(tokenizer: Tokenizer) -> None:
    texts = ["\u00e9", "e\u0301", "\r\n", "\n", "\r", "\ufeffx"]
    encoded = [tuple(ids.tolist()) for ids in tokenizer.encode_batch(texts)]
    assert len(set(encoded)) == len(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == [text.encode() for text in texts]


def test_ids_and_text_are_those_of_the_library_on_the_same_file(tokens: Tokens) -> None:
    path = tokens.directory / "tokenizer.json"
    texts = [content.decode() for name, content in TEXTS.items() if name != "eot.py"]
    engine, tokenizer = Engine.from_file(str(path)), Tokenizer.load(path)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert engine.encode(text).ids == ids.tolist()
        assert engine.decode(ids.tolist()).encode() == tokenizer.decode(ids.tolist())


def test_the_library_sees_one_special_token_with_id_zero(tokens: Tokens) -> None:
    engine = Engine.from_file(str(tokens.directory / "tokenizer.json"))
    assert [(token, str(added)) for token, added in engine.get_added_tokens_decoder().items()] == [
        (0, END_OF_TEXT)
    ]


def test_digits_come_in_groups_of_at_most_three(tokenizer: Tokenizer, tmp_path: Path) -> None:
    definition = train_tokenizer(["12345678 " * 9], vocab_size=262, min_merge_frequency=2)
    (tmp_path / "tokenizer.json").write_text(definition)
    digits = Tokenizer.load(tmp_path / "tokenizer.json")
    (ids,) = digits.encode_batch(["12345678"])
    assert [digits.decode([token]) for token in ids.tolist()] == [b"123", b"456", b"78"]


def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused() -> None:
    with pytest.raises(VocabularyTooLargeError) as caught:
        train_tokenizer(["ab ab"], vocab_size=300, min_merge_frequency=1)
    assert caught.value.requested == 300
    # The end of text, the bytes, "ab" and " ab".
    assert caught.value.supported == 259


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"type": "Unigram"}, "Unigram with normalizer None"),
        ({"normalizer": {"type": "NFC"}}, "BPE with normalizer {'type': 'NFC'}"),
        ({"added_tokens": []}, "added tokens are {}"),
        ({"added_tokens": [{"content": "<s>", "id": 0}]}, "added tokens are {'<s>': 0}"),
        ({"added_tokens": [{}]}, "no 'content'"),
        ({"vocab": {END_OF_TEXT: 0, "a": 2}}, "ids have gaps"),
        ({"vocab": {END_OF_TEXT: 0, "a": 1}}, "255 bytes have no token"),
        ({"vocab": {END_OF_TEXT: 0, "64 ": 1}}, "token '64 '"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    path = write(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(WrongTokenizerError) as caught:
        Tokenizer.load(path)
    assert caught.value.path == path
    assert caught.value.found == found
    assert caught.value.expected


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WrongTokenizerError) as caught:
        Tokenizer.load(tmp_path / "tokenizer.json")
    assert caught.value.expected == "a tokenizer.json"
