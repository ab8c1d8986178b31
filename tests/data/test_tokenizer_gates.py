import json
from pathlib import Path

import pytest

from data.errors import TokenizerGateError
from data.tokenizer import Tokenizer, train_tokenizer
from data.tokenizer_gates import prove_tokenizer

TRAIN = "print('one two three')\nprint('one two four')\n" * 3
SPECIALS = ("<|endoftext|>", "<fim_prefix>")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(
        train_tokenizer([TRAIN], vocab_size=262, min_merge_frequency=2, specials=SPECIALS)
    )
    return Tokenizer.load(path)


def test_a_good_tokenizer_is_proven_on_texts_code_points_and_special_tokens(
    tokenizer: Tokenizer,
) -> None:
    proof = prove_tokenizer(tokenizer, ["x = 1\r\n", "\ufeff<|endoftext|>", "\u00e9"])
    assert proof.num_round_trips == 3
    assert proof.num_round_trip_bytes == 7 + 16 + 2
    assert proof.num_code_points > 0x20000 - 0x800
    assert proof.num_spelt_out == 10


def test_a_tokenizer_that_encodes_a_special_tokens_text_is_refused(tokenizer: Tokenizer) -> None:
    definition = json.loads(tokenizer.engine_definition)
    definition["added_tokens"] = json.loads(tokenizer.path.read_text())["added_tokens"]
    tokenizer.engine_definition = json.dumps(definition)
    with pytest.raises(TokenizerGateError) as caught:
        prove_tokenizer(tokenizer, [])
    assert caught.value.gate == "special token spelt out"
    assert caught.value.found == "text becomes <|endoftext|>"


def test_a_tokenizer_that_loses_text_is_refused(tokenizer: Tokenizer) -> None:
    definition = json.loads(tokenizer.engine_definition)
    definition["normalizer"] = {"type": "NFC"}
    tokenizer.engine_definition = json.dumps(definition)
    with pytest.raises(TokenizerGateError) as caught:
        prove_tokenizer(tokenizer, [])
    assert caught.value.gate == "every code point"


def test_an_unknown_token_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.unk_id = next(token for token in range(262) if tokenizer.decode([token]) == b"\x7f")
    with pytest.raises(TokenizerGateError) as caught:
        prove_tokenizer(tokenizer, [])
    assert caught.value.found == "text becomes the unknown token"
