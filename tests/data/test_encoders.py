"""The engines against Hugging Face: on real source, on hostile text, and with faults planted."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data import checked_encoder, encoders
from data.checked_encoder import CheckedEncoder
from data.encoders import (
    Encoded,
    GigatokenEncoder,
    describe,
    differing_code_points,
    joined,
    open_engine,
)
from data.errors import EncoderMismatchError, UnusableEngineError
from data.tokenizer import EngineName, Tokenizer, train_tokenizer
from data.tokenizer_file import END_OF_TEXT
from data.unicode_classes import CodePointTest

FAST: tuple[EngineName, ...] = ("gigatoken", "fastokens")
REAL_BYTES = 3_000_000


def large(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def real_sources() -> Iterator[str]:
    left = REAL_BYTES
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        left -= len(text)
        if left < 0:
            return
        yield text


SOURCES = list(real_sources())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer(SOURCES[:40], vocab_size=3000, min_merge_frequency=2))
    return Tokenizer.load(path)


@pytest.fixture(autouse=True)
def _nothing_open() -> None:
    checked_encoder._opened.cache_clear()


def planes() -> list[str]:
    points = [point for point in range(0x20000) if not 0xD800 <= point < 0xE000]
    return ["".join(map(chr, points[first : first + 500])) for first in range(0, len(points), 500)]


HARD = [
    "",
    "\n",
    "\ufeff",
    "\ufeffimport os\n",
    "x = 1\r\n\r\ny = 2\r\r\n",
    " " * 5000 + "x" + "\t" * 3000 + "\n" * 2000,
    " \n" * 1000,
    "a" * 1_000_000,
    "0123456789" * 20_000,
    "def f(a): return a; " * 50_000,
    f"end = '{END_OF_TEXT}'\n{END_OF_TEXT}{END_OF_TEXT}",
    "e\u0301 \u00e9 \U0001f40d\U0001f468\u200d\U0001f469 \u6587\u5b57 \u0661\u0662\u0663\u0664",
    "\x00\x01\x7f\x80\x85\xa0\u1680\u180e\u2028\u2029\u202f\u3000\ufffd\uffff",
    "don't WE'LL they'Re \u2019s I'\u017f",
]


@pytest.mark.parametrize("engine", FAST)
def test_an_engine_gives_hugging_faces_ids_for_real_source(
    tokenizer: Tokenizer, engine: EngineName
) -> None:
    texts = large(SOURCES)
    found = open_engine(engine, tokenizer.engine_definition).encode(texts)
    expected = open_engine("tokenizers", tokenizer.engine_definition).encode(texts)
    assert sum(map(len, SOURCES)) > 2_000_000
    assert found.ids_N.dtype == np.uint32
    np.testing.assert_array_equal(found.lengths_D, expected.lengths_D)
    np.testing.assert_array_equal(found.ids_N, expected.ids_N)


@pytest.mark.parametrize("engine", FAST)
def test_an_engine_gives_hugging_faces_ids_for_hard_texts(
    tokenizer: Tokenizer, engine: EngineName
) -> None:
    texts = HARD + planes()
    found = checked(tokenizer, engine, large(texts))
    for text, ids, expected in zip(
        texts, found.documents(), tokenizer.encode_batch(texts), strict=True
    ):
        assert ids.tolist() == expected.tolist(), text[:40]
        assert tokenizer.end_of_text_id not in ids
    decoded = tokenizer.decode_batch(found.ids_N, found.lengths_D)
    assert decoded.to_pylist() == [text.encode() for text in texts]


def checked(
    tokenizer: Tokenizer, engine: EngineName, texts: pa.LargeStringArray, **changes: Any
) -> Encoded:
    settings: dict[str, Any] = {
        "differing": differing_code_points(engine, tokenizer.engine_definition),
        "checked_share": 0.999,
        "where": "unit 0",
    }
    with CheckedEncoder(tokenizer, engine, **(settings | changes)) as encoder:
        return encoder.encode(texts)


@pytest.mark.parametrize("engine", ["gigatoken", "fastokens", "tokenizers"])
def test_a_slice_of_an_array_is_encoded_as_if_it_were_alone(
    tokenizer: Tokenizer, engine: EngineName
) -> None:
    encoder = open_engine(engine, tokenizer.engine_definition)
    texts = ["import os", "", "\u00e9t\u00e9", "x = 12345", "\n"]
    found = encoder.encode(large(texts).slice(1, 3))
    assert [ids.tolist() for ids in found.documents()] == [
        ids.tolist() for ids in tokenizer.encode_batch(texts[1:4])
    ]
    nothing = encoder.encode(large(texts).slice(2, 0))
    assert (len(nothing.ids_N), len(nothing.lengths_D)) == (0, 0)


def test_the_end_of_text_follows_each_document() -> None:
    documents = [np.array(ids, dtype=np.uint32) for ids in ([7, 8], [], [9])]
    ended = joined(documents).ended(3, np.dtype("<u2"))
    assert ended.tolist() == [7, 8, 3, 3, 9, 3]
    assert ended.dtype == np.dtype("<u2")


def test_an_engine_without_differences_is_told_by_asking_it(tokenizer: Tokenizer) -> None:
    assert differing_code_points("tokenizers", tokenizer.engine_definition) == ()
    assert differing_code_points("fastokens", tokenizer.engine_definition) == ()


def test_the_code_points_on_which_an_engine_differs_are_found_and_matter(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    differing = differing_code_points("gigatoken", tokenizer.engine_definition)
    # A letter since Unicode 17: gigatoken 0.10.0 knows it, tokenizers 0.23.3 does not.
    assert 0xA7CE in differing
    assert all(0x80 <= point < 0x20000 for point in differing)
    path = tmp_path / "tokenizer.json"
    # Its first bytes are those of a letter of both, so the merge crosses what one of them splits.
    path.write_text(train_tokenizer(["a\ua7cb " * 9], vocab_size=260, min_merge_frequency=2))
    crossing, texts = Tokenizer.load(path), large(["a\ua7cb", "a\ua7ce", "a\u00e9"])
    expected = [ids.tolist() for ids in crossing.encode_batch(texts.to_pylist())]
    alone = GigatokenEncoder(crossing.engine_definition).encode(texts)
    assert [
        ids.tolist() == right for ids, right in zip(alone.documents(), expected, strict=True)
    ] == [
        True,
        False,
        True,
    ]
    found = checked(crossing, "gigatoken", texts, differing=differing)
    assert [ids.tolist() for ids in found.documents()] == expected


def test_what_encodes_is_described_with_its_versions(tokenizer: Tokenizer) -> None:
    assert describe("gigatoken", tokenizer, (0x88F, 0xA7CE)) == {
        "engine": "gigatoken 0.10.0",
        "engine_unicode": "17.0",
        "reference": "tokenizers 0.23.3",
        "reference_unicode": "16.0",
        "num_differing_code_points": 2,
        "last_code_point_asked": 0x1FFFF,
    }


@pytest.mark.parametrize("offset", [0, 1, 1023, 1024, 3000])
def test_documents_with_a_code_point_are_found_wherever_it_stands(offset: int) -> None:
    test = CodePointTest([0xA7CE, 0x378, 0x10940])
    with_it = [
        f"{'x' * offset}{chr(point)}{'y' * after}"
        for point in (0xA7CE, 0x378, 0x10940, 0x20000, 0x10FFFF)
        for after in (0, 1, 2000)
    ]
    without = ["x" * offset, "", "\ua7cd\u0377\u0379 \u6587 \U00010941", "\u00e9" * offset]
    texts = large([text for pair in zip(with_it, without * 4, strict=False) for text in pair])
    assert test.documents(texts).tolist() == list(range(0, 2 * len(with_it), 2))
    assert test.documents(texts.slice(1)).tolist() == list(range(1, 2 * len(with_it) - 1, 2))
    assert test.documents(texts.slice(0, 0)).tolist() == []


def test_referred_documents_are_encoded_by_hugging_face_and_counted(tokenizer: Tokenizer) -> None:
    texts = large(["a b", "\U00020000 c", "d", "e \U0001ffff"])
    encoder = CheckedEncoder(
        tokenizer, "gigatoken", differing=(0x1FFFF,), checked_share=0.999, where="unit 0"
    )
    with encoder:
        found = encoder.encode(texts)
    expected = tokenizer.encode_batch(texts.to_pylist())
    assert [ids.tolist() for ids in found.documents()] == [ids.tolist() for ids in expected]
    assert (encoder.num_referred, encoder.num_checked) == (2, 2)


class Wrong:
    """An engine that gets one document in fifty wrong."""

    name = "wrong 1.0"

    def __init__(self, definition: str) -> None:
        self._engine = encoders.HuggingFaceEncoder(definition)
        self._number = 0

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        documents = [ids.copy() for ids in self._engine.encode(texts).documents()]
        for ids in documents:
            self._number += 1
            if self._number % 50 == 0:
                ids[1] = 7
        return joined(documents)


def test_an_engine_that_gets_a_sampled_document_wrong_stops_the_unit(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoders.ENGINES, "gigatoken", Wrong)
    texts = large([f"x = {number}\n" for number in range(100, 200)])
    with pytest.raises(EncoderMismatchError) as caught:
        checked(tokenizer, "gigatoken", texts, differing=(), checked_share=0.999)
    expected = tokenizer.encode_batch([texts[caught.value.document].as_py()])[0]
    assert caught.value.document in (49, 99)
    assert (caught.value.position, caught.value.found_id) == (1, 7)
    assert caught.value.expected_id == expected[1]
    assert (caught.value.where, caught.value.engine) == ("unit 0", "wrong 1.0")


def test_a_token_too_few_is_a_mismatch(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Wrong, texts: pa.LargeStringArray) -> Encoded:
        return joined([ids[:-1] for ids in self._engine.encode(texts).documents()])

    monkeypatch.setattr(Wrong, "encode", short)
    monkeypatch.setitem(encoders.ENGINES, "gigatoken", Wrong)
    with pytest.raises(EncoderMismatchError) as caught:
        checked(tokenizer, "gigatoken", large(["x\n"]), differing=())
    assert (caught.value.position, caught.value.found_id) == (1, -1)


@pytest.mark.parametrize(("share", "expected"), [(0.02, 6), (1e-9, 2)])
def test_the_sample_does_not_depend_on_the_batches(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, share: float, expected: int
) -> None:
    texts = large([f"x = {number}\n" for number in range(500)])
    compared: dict[str, set[tuple[int, str]]] = {"whole": set(), "parts": set()}

    def run(name: str, batches: list[pa.LargeStringArray]) -> int:
        found, plain = compared[name], CheckedEncoder._compare

        def compare(self: CheckedEncoder, sampled: list[Any]) -> None:
            found.update((document.number, document.text) for document in sampled)
            plain(self, sampled)

        monkeypatch.setattr(CheckedEncoder, "_compare", compare)
        encoder = CheckedEncoder(
            tokenizer, "fastokens", differing=(), checked_share=share, where="unit 0"
        )
        with encoder:
            for batch in batches:
                encoder.encode(batch)
        monkeypatch.undo()
        return encoder.num_checked

    assert run("whole", [texts]) == expected
    assert run("parts", [texts[:3], texts[3:400], texts[400:]]) == expected
    assert compared["whole"] == compared["parts"]
    assert len(compared["whole"]) == expected
    assert all(text == f"x = {number}\n" for number, text in compared["whole"])


def test_engines_stay_open_for_the_next_unit(tokenizer: Tokenizer) -> None:
    first, second = (
        CheckedEncoder(
            tokenizer, "fastokens", differing=(), checked_share=0.5, where=f"unit {number}"
        )
        for number in range(2)
    )
    assert first._engine is second._engine
    assert first._reference is second._reference
    assert first._engine is not first._reference


def test_a_unit_that_fails_otherwise_keeps_its_own_error(tokenizer: Tokenizer) -> None:
    encoder = CheckedEncoder(
        tokenizer, "fastokens", differing=(), checked_share=1e-9, where="unit 0"
    )
    with pytest.raises(KeyError), encoder:
        raise KeyError
    assert encoder.num_checked == 0


def test_the_cache_of_an_engine_is_dropped_once_it_has_grown(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before and after each call: the process grows by 200 MiB twice, then no more.
    sizes = iter(mebibytes * 2**20 for mebibytes in (100, 300, 400, 600, 600, 600, 600, 600))
    monkeypatch.setattr(encoders, "_resident_bytes", lambda: next(sizes))
    encoder = GigatokenEncoder(tokenizer.engine_definition)
    engines, found = [], []
    for _ in range(4):
        found.append(encoder.encode(large(["import os\n"])).ids_N.tolist())
        engines.append(encoder._engine)
    assert found == [tokenizer.encode_batch(["import os\n"])[0].tolist()] * 4
    assert [engine is engines[0] for engine in engines] == [True, True, False, False]
    assert engines[2] is engines[3]


def test_the_default_engine_starts_no_threads_in_a_worker(tokenizer: Tokenizer) -> None:
    program = (
        "import os, sys, pathlib, pyarrow as pa;"
        "from data.tokenizer import Tokenizer; from data.encoders import GigatokenEncoder;"
        "tokenizer = Tokenizer.load(pathlib.Path(sys.argv[1]));"
        "encoder = GigatokenEncoder(tokenizer.engine_definition);"
        "texts = pa.array(['import os'] * 9000, pa.large_string());"
        "before = len(os.listdir('/proc/self/task'));"
        "encoder.encode(texts);"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    command = [sys.executable, "-c", program, str(tokenizer.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_an_engine_that_refuses_the_tokenizer_is_named(tokenizer: Tokenizer) -> None:
    digits = '{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},'
    level = '{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]}'
    definition = json.loads(tokenizer.engine_definition)
    definition["pre_tokenizer"] = json.loads(digits + level)
    with pytest.raises(UnusableEngineError) as caught:
        open_engine("gigatoken", json.dumps(definition))
    assert caught.value.engine == "gigatoken"
    assert caught.value.found.startswith("refuses the tokenizer (")
    assert open_engine("tokenizers", json.dumps(definition)).name == "tokenizers 0.23.3"


def test_an_engine_that_is_not_installed_is_named(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(UnusableEngineError) as caught:
        open_engine("fastokens", tokenizer.engine_definition)
    assert caught.value.found.startswith("not installed")
    assert caught.value.expected == "installed (pip install fastokens)"
