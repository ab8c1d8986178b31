import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from data.errors import (
    TokenOutOfRangeError,
    VocabularyTooLargeError,
    WrongSettingError,
    WrongTokenizerError,
)
from data.tokenizer import (
    Tokenizer,
    TokenizerSettings,
    train_tokenizer,
)
from data.tokenizer_file import END_OF_TEXT, NUM_BYTES
from tests.data.corpus import TEXTS

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
REMOVING = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Split", "behavior": "Removed"}, BYTE_LEVEL],
}
TRAIN = "print('one two three')\nprint('one two four')\n" * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [content.decode() for content in TEXTS.values()]
    path.write_text(train_tokenizer(texts, vocab_size=280, min_merge_frequency=2))
    return Tokenizer.load(path)


def token(content: str, number: int, *, special: bool = False) -> dict[str, Any]:
    return {"content": content, "id": number, "special": special}


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


def test_ids_and_text_are_those_of_the_library_on_the_same_file(tokenizer: Tokenizer) -> None:
    texts = [content.decode() for name, content in TEXTS.items() if name != "eot.py"]
    engine = Engine.from_file(str(tokenizer.path))
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert engine.encode(text).ids == ids.tolist()
        assert engine.decode(ids.tolist()).encode() == tokenizer.decode(ids.tolist())


def test_the_library_sees_one_special_token_with_id_zero(tokenizer: Tokenizer) -> None:
    engine = Engine.from_file(str(tokenizer.path))
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
        ({"normalizer": {"type": "NFC"}}, "BPE with normalizer NFC"),
        ({"byte_fallback": True}, "byte_fallback is True"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix is '</w>'"),
        ({"pre_tokenizer": None}, "pre-tokenizer null"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace"),
        ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "add_prefix_space is true"),
        ({"pre_tokenizer": REMOVING}, "pre-tokenizer removes text"),
        ({"added_tokens": []}, "special tokens are none"),
        ({"added_tokens": [token("<s>", 260)]}, "special tokens are none"),
        (
            {"added_tokens": [token("<a>", 260, special=True), token("<b>", 261, special=True)]},
            "special tokens are <a>, <b>",
        ),
        (
            {"added_tokens": [token(END_OF_TEXT, 0, special=True), token("  ", 260)]},
            "added token '  '",
        ),
        (
            {"added_tokens": [token(END_OF_TEXT, 3, special=True)]},
            "added token '<|endoftext|>' has the ids 3 and 0",
        ),
        (
            {"added_tokens": [token(END_OF_TEXT, 0, special=True), token("<s>", 270)]},
            "261 tokens up to id 270: ids have gaps",
        ),
        ({"added_tokens": [{}]}, "no 'content'"),
        ({"vocab": {END_OF_TEXT: 0, "a": 2}}, "2 tokens up to id 2: ids have gaps"),
        ({"vocab": {END_OF_TEXT: 0, "a": 1}, "merges": []}, "255 bytes have no token"),
        ({"vocab": {END_OF_TEXT: 0, "64 ": 1}, "merges": []}, "token '64 '"),
        ({"merges": [["a", "\u0120t"]]}, "merge ['a', '\\u0120t']"),
        ({"merges": [["\u0120", "t"], ["\u0120", "t"]]}, "merge ['\\u0120', 't'] twice"),
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


def settings(**changes: Any) -> TokenizerSettings:
    values: dict[str, Any] = {
        "kind": "train",
        "path": "",
        "vocab_size": 300,
        "min_merge_frequency": 2,
        "sample_bytes": 1000,
        "sample_seed": 0,
        "specials": (END_OF_TEXT,),
        "engine": "tokenizers",
        "checked_share": 0.5,
    }
    return TokenizerSettings(**(values | changes))


IMPORT = {
    "kind": "import",
    "path": "x.json",
    "vocab_size": 300,
    "min_merge_frequency": 0,
    "sample_bytes": 0,
}


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"kind": "borrow"}, "kind"),
        ({"path": "x.json"}, "path"),
        ({"vocab_size": 256}, "vocab_size"),
        ({"vocab_size": 258, "specials": ("<a>", "<b>", "<c>")}, "vocab_size"),
        ({"min_merge_frequency": 0}, "min_merge_frequency"),
        ({"sample_bytes": 0}, "sample_bytes"),
        ({"sample_seed": -1}, "sample_seed"),
        ({"specials": ()}, "specials"),
        ({"specials": ("<a>", "<a>")}, "specials"),
        ({"specials": ("",)}, "specials"),
        ({"engine": "magic"}, "engine"),
        ({"checked_share": 0.0}, "checked_share"),
        (IMPORT | {"path": ""}, "path"),
        (IMPORT | {"vocab_size": 256}, "vocab_size"),
        (IMPORT | {"min_merge_frequency": 2}, "min_merge_frequency"),
        (IMPORT | {"sample_bytes": 1}, "sample_bytes"),
        (IMPORT | {"sample_seed": 1}, "sample_seed"),
        (IMPORT | {"specials": ("<a>", "<b>")}, "specials"),
    ],
)
def test_a_setting_that_cannot_work_or_means_nothing_is_refused(
    changes: dict[str, Any], setting: str
) -> None:
    with pytest.raises(WrongSettingError) as caught:
        settings(**changes)
    assert caught.value.setting == f"tokenizer.{setting}"


def test_settings_of_both_kinds_are_accepted() -> None:
    assert settings().kind == "train"
    assert settings(**IMPORT).kind == "import"


SPECIALS = ("<|end|>", "<fim_prefix>", "<file_sep>")


def test_further_special_tokens_come_first_and_are_never_encoded(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(
        train_tokenizer([TRAIN], vocab_size=265, min_merge_frequency=2, specials=SPECIALS)
    )
    tokenizer = Tokenizer.load(path, "<|end|>")
    assert dict(tokenizer.reserved) == {"<|end|>": 0, "<fim_prefix>": 1, "<file_sep>": 2}
    assert (tokenizer.end_of_text, tokenizer.end_of_text_id) == ("<|end|>", 0)
    (ids,) = tokenizer.encode_batch(["<fim_prefix>x<|end|><file_sep>"])
    assert min(ids.tolist()) > 2
    assert tokenizer.decode([1, *ids.tolist(), 0]) == b"<fim_prefix>x<|end|><file_sep>"


def test_a_file_with_added_tokens_above_its_vocabulary_is_imported(tmp_path: Path) -> None:
    added = [token("<|im_end|>", 261, special=True), token("<tool>", 260)]
    trained = json.loads(train_tokenizer([TRAIN], vocab_size=260, min_merge_frequency=2))
    vocab = {
        "<|im_end|>" if text == END_OF_TEXT else text: i
        for text, i in trained["model"]["vocab"].items()
    }
    added[0]["id"] = 0
    path = write(tmp_path / "tokenizer.json", added_tokens=added, vocab=vocab)
    for tokenizer in (Tokenizer.load(path, "<|im_end|>"), Tokenizer.load(path)):
        assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (261, 0)
        assert tokenizer.decode([260]) == b""
    with pytest.raises(WrongTokenizerError) as caught:
        Tokenizer.load(path, "<tool>")
    assert str(caught.value).endswith(
        "special tokens are <|im_end|>, should be <tool> among them, as the end of text"
    )


def test_what_a_file_says_of_truncation_and_templates_adds_and_cuts_nothing(
    tmp_path: Path,
) -> None:
    truncation = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    path = write(tmp_path / "tokenizer.json", truncation=truncation)
    (ids,) = Tokenizer.load(path).encode_batch(["print('one')"])
    assert Tokenizer.load(path).decode(ids.tolist()) == b"print('one')"


def test_documents_are_decoded_together_as_they_are_alone(tokenizer: Tokenizer) -> None:
    texts = ["", "x = 1\r\n", END_OF_TEXT, "\U0001f40d e\u0301", ""]
    encoded = tokenizer.encode_batch(texts)
    lengths_D = np.array([len(ids) for ids in encoded], dtype=np.int64)
    for dtype in (np.uint16, np.uint32):
        found = tokenizer.decode_batch(np.concatenate(encoded).astype(dtype), lengths_D)
        assert found.to_pylist() == [text.encode() for text in texts]
    nothing = tokenizer.decode_batch(np.empty(0, np.uint16), np.empty(0, np.int64))
    assert nothing.to_pylist() == []


def test_decoding_an_id_beyond_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenOutOfRangeError) as caught:
        tokenizer.decode_batch(np.array([5, 280], np.uint16), np.array([2]))
    assert (caught.value.token, caught.value.vocab_size) == (280, 280)
