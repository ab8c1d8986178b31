"""Hostile GGUF files: each is wrong in one place, and refused for it."""

import os
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from model.errors import CorruptFileError, ModelFormatError, WrongTensorsError
from model.gguf_file import open_gguf
from model.gguf_model import describe_gguf, read_gguf_model
from tests.corrupt.gguf_recipe import (
    ARRAY,
    BOOL,
    F32,
    GOOD,
    I32,
    STRING,
    U8,
    U32,
    U64,
    Entry,
    Key,
    Recipe,
    array,
    build,
    llama,
    number,
    text,
    words,
)

MAX_SECONDS = 1.0
MAX_EXTRA_BYTES = 100_000_000

HUGE = 2**63


def with_key(key: Key) -> Recipe:
    return replace(GOOD, keys=(*GOOD.keys, key))


def with_entry(**changes: object) -> Recipe:
    return replace(GOOD, entries=(replace(Entry(), **changes),))  # type: ignore[arg-type]


HOSTILE: dict[str, tuple[Recipe, str, str]] = {
    "another magic": (replace(GOOD, magic=b"GGML"), "starts with b'GGML'", "b'GGUF', a GGUF file"),
    "version 1": (replace(GOOD, version=1), "version 1", "3, little-endian"),
    "version 2": (replace(GOOD, version=2), "version 2", "3, little-endian"),
    "version of the future": (replace(GOOD, version=99), "version 99", "3, little-endian"),
    "big-endian": (
        replace(GOOD, version=3 << 24),
        "version 50331648, a big-endian file",
        "3, little-endian",
    ),
    "2^63 tensors": (
        replace(GOOD, num_tensors=HUGE),
        f"{HUGE} tensors",
        "at most 4, for which there is room",
    ),
    "2^63 keys": (
        replace(GOOD, num_keys=HUGE),
        f"{HUGE} metadata keys",
        "at most 9, for which there is room",
    ),
    "more tensors than described": (
        replace(GOOD, num_tensors=2),
        "tensor name ''",
        "1 to 63 printable bytes",
    ),
    "fewer tensors than described": (
        replace(GOOD, num_tensors=0, data=b""),
        "padding after the list of tensors is not zero",
        "zeros",
    ),
    "too many tensors": (
        replace(GOOD, num_tensors=1 << 15, data=bytes(2 << 20)),
        "32768 tensors",
        "at most 16384",
    ),
    "too many keys": (
        replace(GOOD, num_keys=1 << 13, data=bytes(2 << 20)),
        "8192 metadata keys",
        "at most 4096",
    ),
    "an empty key": (
        with_key(Key(b"", U8, b"\1")),
        "key ''",
        "1 to 65535 printable bytes",
    ),
    "a key that is not UTF-8": (with_key(Key(b"\xff", U8, b"\1")), r"key b'\xff'", "UTF-8"),
    "a key with a control character": (
        with_key(Key(b"a\0b", U8, b"\1")),
        r"key 'a\x00b'",
        "1 to 65535 printable bytes",
    ),
    "a key twice": (
        with_key(words("general.architecture", "x")),
        "key 'general.architecture' twice",
        "each key once",
    ),
    "a value of unknown type": (
        with_key(Key(b"k", 13, b"")),
        "'k' is of type 13",
        "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12",
    ),
    "an array of unknown type": (
        with_key(array("k", 99, b"", 0)),
        "'k' is of type 99",
        "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12",
    ),
    "an array of arrays": (
        with_key(array("k", ARRAY, b"", 0)),
        "'k' is an array of arrays",
        "one array",
    ),
    "a boolean that is neither": (
        with_key(Key(b"k", BOOL, b"\2")),
        "'k' is 2",
        "0 or 1, being true or false",
    ),
    "booleans that are neither": (
        with_key(array("k", BOOL, b"\0\1\3", 3)),
        "'k' is 3",
        "0 or 1, being true or false",
    ),
    "a text that is not UTF-8": (
        with_key(Key(b"k", STRING, text(b"a\xc3"))),
        r"text of 'k' b'a\xc3'",
        "UTF-8",
    ),
    "texts one of which is not UTF-8": (
        with_key(array("k", STRING, text(b"a") + text(b"\xed\xa0\x80"), 2)),
        r"text of 'k' b'\xed\xa0\x80'",
        "UTF-8",
    ),
    "NaN": (with_key(number("k", F32, float("nan"))), "'k' is nan", "finite"),
    "infinity in an array": (
        with_key(array("k", F32, struct.pack("<2f", 1, float("-inf")), 2)),
        "'k' is -inf",
        "finite",
    ),
    "an array of bytes without end": (
        with_key(array("k", U8, b"", 2**62)),
        f"'k' that ends at {2**62 + 94} of 160 bytes",
        "a whole metadata",
    ),
    "an array whose size wraps round": (
        with_key(array("k", U64, b"", 2**61)),
        f"'k' that ends at {2**64 + 94} of 160 bytes",
        "a whole metadata",
    ),
    "texts without end": (
        with_key(array("k", STRING, b"", 2**62)),
        f"'k' has {2**62} texts",
        "at most 1048576 here",
    ),
    "alignment 0": (
        with_key(number("general.alignment", U32, 0)),
        "general.alignment is 0",
        "a U32, a power of two from 8 to 65536",
    ),
    "alignment 24": (
        with_key(number("general.alignment", U32, 24)),
        "general.alignment is 24",
        "a U32, a power of two from 8 to 65536",
    ),
    "alignment of 2^31": (
        with_key(number("general.alignment", U32, 2**31)),
        "general.alignment is 2147483648",
        "a U32, a power of two from 8 to 65536",
    ),
    "an alignment of another type": (
        with_key(number("general.alignment", U64, 32)),
        "general.alignment is None",
        "a U32, a power of two from 8 to 65536",
    ),
    "a tensor name that is not UTF-8": (
        with_entry(name=b"\xff"),
        r"tensor name b'\xff'",
        "UTF-8",
    ),
    "a tensor without a name": (
        with_entry(name=b""),
        "tensor name ''",
        "1 to 63 printable bytes",
    ),
    "a long tensor name": (
        with_entry(name=b"w" * 64),
        f"tensor name '{'w' * 64}'",
        "1 to 63 printable bytes",
    ),
    "a tensor name with a zero": (
        with_entry(name=b"w\0"),
        r"tensor name 'w\x00'",
        "1 to 63 printable bytes",
    ),
    "a tensor twice": (
        replace(GOOD, entries=(Entry(), Entry(offset=32)), data=bytes(64)),
        "tensor 'w' twice",
        "each name once",
    ),
    "no dimensions": (with_entry(dimensions=()), "tensor 'w' with 0 dimensions", "1 to 4"),
    "five dimensions": (
        with_entry(dimensions=(1, 1, 1, 1, 2)),
        "tensor 'w' with 5 dimensions",
        "1 to 4",
    ),
    "2^32 - 1 dimensions": (
        with_entry(num_dimensions=2**32 - 1),
        f"tensor 'w' with {2**32 - 1} dimensions",
        "1 to 4",
    ),
    "an empty dimension": (
        with_entry(dimensions=(2, 0)),
        "tensor 'w' of shape [0, 2] and type F32",
        "rows of a multiple of 1, none of them empty",
    ),
    "2^63 values": (
        with_entry(dimensions=(HUGE,)),
        f"tensor 'w' of shape [{HUGE}]",
        "at most the 58 bytes that are left",
    ),
    "a shape that wraps round to nothing": (
        with_entry(dimensions=(2**32, 2**32)),
        f"tensor 'w' of shape [{2**32}, {2**32}]",
        "at most the 50 bytes that are left",
    ),
    "an unknown type": (with_entry(type=255), "tensor 'w' of type 255", "a type of GGML's"),
    "a removed type": (with_entry(type=4), "tensor 'w' of type 4", "a type of GGML's"),
    "rows that are no whole blocks": (
        with_entry(type=8, dimensions=(31,)),
        "tensor 'w' of shape [31] and type Q8_0",
        "rows of a multiple of 32, none of them empty",
    ),
    "an offset before the data": (
        with_entry(offset=2**64 - 32),
        f"tensor 'w' at {2**64 - 32}",
        "0, where the one before it ends",
    ),
    "an offset after the end": (
        with_entry(offset=32),
        "tensor 'w' at 32",
        "0, where the one before it ends",
    ),
    "an unaligned offset": (
        replace(GOOD, entries=(Entry(), Entry(name=b"v", offset=8)), data=bytes(64)),
        "tensor 'v' at 8",
        "32, where the one before it ends",
    ),
    "overlapping tensors": (
        replace(GOOD, entries=(Entry(), Entry(name=b"v")), data=bytes(64)),
        "tensor 'v' at 0",
        "32, where the one before it ends",
    ),
    "hidden bytes before the data": (
        replace(GOOD, padding=b"x"),
        "padding after the list of tensors is not zero",
        "zeros",
    ),
    "hidden bytes after a tensor": (
        replace(GOOD, data=bytes(8) + b"x" * 24),
        "padding after the tensor 'w' is not zero",
        "zeros",
    ),
    "trailing bytes": (
        replace(GOOD, data=bytes(33)),
        "1 bytes after the last tensor",
        "none",
    ),
    "data cut short": (replace(GOOD, data=bytes(31)), "data of 31 bytes", "32 for 1 tensors"),
    "metadata alone, cut short": (
        Recipe(entries=(), data=b"", alignment=1, keys=(Key(b"k", STRING, text(b"ab", 3)),)),
        "text of 'k' that ends at 48 of 47 bytes",
        "a whole metadata",
    ),
    "a text without end": (
        with_key(Key(b"k", STRING, text(b"", HUGE))),
        f"text of 'k' that ends at {HUGE + 90} of 160 bytes",
        "a whole metadata",
    ),
}


def refusal(path: Path, content: bytes) -> ModelFormatError:
    path.write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        open_gguf(path)
    assert caught.value.path == path
    return caught.value


def test_the_recipe_is_accepted_before_it_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(build(GOOD))
    assert open_gguf(path).content("w").tolist() == [0] * 8
    assert describe_gguf(path)["num_parameters"] == 2


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_refused_for_its_fault(tmp_path: Path, case: str) -> None:
    recipe, found, expected = HOSTILE[case]
    error = refusal(tmp_path / "hostile.gguf", build(recipe))
    assert (error.found, error.expected) == (found, expected)


@pytest.mark.parametrize(("recipe", "step"), [(GOOD, 1), (llama(), 11)], ids=["tensor", "model"])
def test_a_file_cut_short_anywhere_is_corrupt(tmp_path: Path, recipe: Recipe, step: int) -> None:
    content = build(recipe)
    for length in range(0, len(content), step):
        error = refusal(tmp_path / "hostile.gguf", content[:length])
        # Too little room for what is counted is as telling as the end itself.
        assert isinstance(error, CorruptFileError) or error.expected.endswith(
            ("for which there is room", "bytes that are left")
        )


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelFormatError) as caught:
        open_gguf(path)
    assert caught.value.found == "not a regular file"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        open_gguf(tmp_path)
    assert caught.value.found == "not a regular file"


BOMBS = {
    "a million texts": array(
        "k", STRING, b"".join(text(b"%08d" % n) for n in range((1 << 20) - 100)), (1 << 20) - 100
    ),
    "a wide text": Key(b"k", STRING, text("\U0001f40d".encode() + b"a" * ((16 << 20) - 200))),
    "sixteen million booleans": array("k", BOOL, bytes((16 << 20) - 200), (16 << 20) - 200),
}


@pytest.mark.parametrize("case", BOMBS)
def test_the_largest_metadata_is_read_in_bounded_time_and_memory(tmp_path: Path, case: str) -> None:
    path = tmp_path / "bomb.gguf"
    path.write_bytes(build(with_key(BOMBS[case])))
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    started = time.process_time()
    file = open_gguf(path)
    seconds = time.process_time() - started
    extra_bytes = process.memory_info().rss - before_bytes - file.size_bytes
    assert seconds < MAX_SECONDS
    assert extra_bytes < MAX_EXTRA_BYTES


MEBIBYTE = 1 << 20
OVERSIZED = {
    "one text": (text(b"x" * (17 * MEBIBYTE)), STRING),
    "one text in a list": (struct.pack("<IQ", STRING, 1) + text(b"x" * (17 * MEBIBYTE)), ARRAY),
    "numbers": (struct.pack("<IQ", U8, 17 * MEBIBYTE) + bytes(17 * MEBIBYTE), ARRAY),
}


@pytest.mark.parametrize("case", OVERSIZED)
def test_metadata_beyond_the_bound_is_refused_before_it_is_decoded(
    tmp_path: Path, case: str
) -> None:
    value, kind = OVERSIZED[case]
    path = tmp_path / "bomb.gguf"
    path.write_bytes(build(with_key(Key(b"k", kind, value))))
    tracemalloc.start()
    with pytest.raises(ModelFormatError) as caught:
        open_gguf(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.found == "metadata of more than 16777216 bytes"
    assert peak_bytes < MEBIBYTE


def test_a_list_of_tensors_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    recipe = replace(GOOD, entries=(Entry(name=b"w" * MEBIBYTE),))
    error = refusal(tmp_path / "bomb.gguf", build(recipe))
    assert error.found == "list of tensors of more than 119 bytes"


def test_texts_of_several_arrays_are_counted_together(tmp_path: Path) -> None:
    keys = tuple(array(f"k{n}", STRING, bytes(8 << 19), 1 << 19) for n in range(3))
    error = refusal(tmp_path / "bomb.gguf", build(replace(GOOD, keys=keys)))
    assert error.found == "'k2' has 524288 texts"


def changed(name: str, kind: int, value: float) -> Recipe:
    return llama({name: number(name, kind, value)})


WRONG_MODELS: dict[str, tuple[Recipe, str]] = {
    "another architecture": (
        llama({"general.architecture": words("general.architecture", "gpt2")}),
        "general.architecture is 'gpt2'",
    ),
    "no architecture": (llama({"general.architecture": None}), "no general.architecture"),
    "an architecture that is a number": (
        changed("general.architecture", U32, 1),
        "general.architecture is 1",
    ),
    "no layers": (changed("llama.block_count", U32, 0), "num_layers is 0"),
    "2^31 layers": (changed("llama.block_count", U32, 2**31), "num_layers is 2147483648"),
    "layers as a float": (changed("llama.block_count", F32, 1), "num_layers is 1.0"),
    "no heads": (changed("llama.attention.head_count", U32, 0), "num_heads is 0"),
    "heads that do not divide": (
        changed("llama.attention.head_count", U32, 3),
        "model.hidden_size is 4",
    ),
    "key heads that do not divide": (
        llama({"llama.attention.head_count_kv": number("llama.attention.head_count_kv", U32, 3)}),
        "model.num_heads is 2",
    ),
    "heads of every layer": (
        llama(
            {
                "llama.attention.head_count": array(
                    "llama.attention.head_count", I32, struct.pack("<i", 2), 1
                )
            }
        ),
        "'llama.attention.head_count' is an array",
    ),
    "a negative epsilon": (
        changed("llama.attention.layer_norm_rms_epsilon", F32, -1e-5),
        "rms_norm_eps is -1e-05",
    ),
    "no epsilon": (
        llama({"llama.attention.layer_norm_rms_epsilon": None}),
        "no rms_norm_eps",
    ),
    "a rope base of zero": (changed("llama.rope.freq_base", F32, 0), "rope_theta is 0.0"),
    "no context": (changed("llama.context_length", U32, 0), "max_position_embeddings is 0"),
    "a vocabulary of 2^31": (
        changed("llama.vocab_size", U32, 2**31 - 1),
        "vocab_size is 2147483647",
    ),
    "a scaled rope": (
        changed("llama.rope.scaling.factor", F32, 2),
        "unknown key 'llama.rope.scaling.factor'",
    ),
    "heads of another size": (
        changed("llama.attention.key_length", U32, 4),
        "llama.attention.key_length is 4",
    ),
    "fewer tokens than rows": (
        llama(
            {
                "llama.vocab_size": number("llama.vocab_size", U32, 3),
                "tokenizer.ggml.tokens": array("tokenizer.ggml.tokens", STRING, text(b"a"), 1),
            }
        ),
        "tokenizer.ggml.tokens has 1 items",
    ),
    "an end of text beyond the vocabulary": (
        changed("tokenizer.ggml.eos_token_id", U32, 3),
        "tokenizer.ggml.eos_token_id is 3",
    ),
    "NaN": (
        llama(value=float("nan")),
        "12 of 12 values of tensor 'model.embed_tokens.weight' are NaN or infinite",
    ),
    "a head that is said to be there": (
        llama({"assay.tie_embeddings": number("assay.tie_embeddings", U32, 1)}),
        "tie_embeddings is 1",
    ),
}


def test_the_model_is_accepted_before_it_is_spoiled(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(build(llama()))
    settings, tensors = read_gguf_model(path)
    assert (settings.vocab_size, settings.rms_norm_eps) == (3, 1e-5)
    assert all((tensor == 0.5).all() for tensor in tensors.values())


@pytest.mark.parametrize("case", WRONG_MODELS)
def test_a_model_that_is_none_is_refused_for_its_fault(tmp_path: Path, case: str) -> None:
    recipe, found = WRONG_MODELS[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(build(recipe))
    with pytest.raises(ModelFormatError) as caught:
        read_gguf_model(path)
    assert caught.value.found == found


@pytest.mark.parametrize(
    ("recipe", "missing", "unexpected", "num_misshapen"),
    [
        (llama(shapes={"output_norm.weight": None}), ("model.norm.weight",), (), 0),
        (llama(shapes={"rope_freqs.weight": (1,)}), (), ("'rope_freqs.weight'",), 0),
        (
            llama(shapes={"output_norm.weight": None, "model.norm.weight": (4,)}),
            ("model.norm.weight",),
            ("'model.norm.weight'",),
            0,
        ),
        (llama(shapes={"blk.0.attn_k.weight": (4, 4)}), (), (), 1),
        (llama(shapes={"blk.0.ffn_down.weight": (4, 8)}), (), (), 1),
        (
            llama(
                {"assay.tie_embeddings": number("assay.tie_embeddings", BOOL, 0)},
                {"output.weight": None},
            ),
            ("lm_head.weight",),
            (),
            0,
        ),
        (
            llama({"llama.block_count": number("llama.block_count", U32, 2)}),
            ("model.layers.1.input_layernorm.weight",),
            (),
            0,
        ),
    ],
)
def test_tensors_that_are_not_exactly_the_models_are_refused(
    tmp_path: Path,
    recipe: Recipe,
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    num_misshapen: int,
) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(build(recipe))
    with pytest.raises(WrongTensorsError) as caught:
        read_gguf_model(path)
    assert caught.value.missing[:1] == missing
    assert caught.value.unexpected == unexpected
    assert len(caught.value.misshapen) == num_misshapen


def test_weights_of_a_type_that_is_not_read_are_refused_by_name(tmp_path: Path) -> None:
    recipe = llama()
    entries = tuple(
        replace(entry, type=28) if entry.name == b"output_norm.weight" else entry
        for entry in recipe.entries
    )
    path = tmp_path / "hostile.gguf"
    path.write_bytes(build(replace(recipe, entries=entries)))
    with pytest.raises(ModelFormatError) as caught:
        read_gguf_model(path)
    assert caught.value.found == "tensor 'output_norm.weight' of type F64"
    assert caught.value.expected == "one of F32, F16, BF16, Q8_0, Q4_K, Q6_K"
