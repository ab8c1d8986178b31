"""Failures of the corpus, the tokenizer and the shards: F23 to F34."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.encoders import Encoded, joined
from data.shard import ShardsIndex
from data.tokenizer_file import END_OF_TEXT, byte_characters
from evidence.canonical import pretty
from evidence.refs import Ref
from tasks.preflight import check_fits
from tasks.store import open_store
from tests.faults.lab import AT_ONCE, Lab
from tests.faults.loop_faults import copied, fault
from tests.tasks.tiny import (
    Finished,
    at_home,
    begin,
    pretokenized,
    sharded,
    tiny_settings,
    write_corpus,
)

PROVING = "in pretokenize, before the corpus is encoded"
ENCODING = "in pretokenize, in the first unit"
SHARDING = "in shard, before any work"
OPENING = "before training"


def encode(lab: Lab, changes: Sequence[str] = (), *, where: str = ENCODING) -> None:
    """Make tokens of the tiny corpus in a home of its own."""
    home = lab.directory.parent / "home"
    write_corpus(home / "corpus")
    settings = tiny_settings(home, changes)
    with lab.at(where), at_home(home):
        pretokenized(begin(settings, "data"), settings)


def imported(lab: Lab, definition: dict[str, Any], end_of_text: str = END_OF_TEXT) -> list[str]:
    """Say that a tokenizer is imported, which is written for that."""
    path = lab.directory.parent / "tokenizer.json"
    path.write_text(json.dumps(definition))
    return [
        'tokenizer.kind="import"',
        f'tokenizer.path="{path}"',
        *(f"tokenizer.{name}=0" for name in ("min_merge_frequency", "sample_bytes", "sample_seed")),
        f'tokenizer.specials=["{end_of_text}"]',
    ]


def own_definition(lab: Lab) -> dict[str, Any]:
    """Read the tokenizer of the finished run."""
    tokens = lab.finished.store.open(lab.finished.refs.tokens)
    definition: dict[str, Any] = json.loads((tokens.directory / "tokenizer.json").read_text())
    return definition


def damaged(lab: Lab, ref: Ref, file: str) -> tuple[Finished, Path]:
    """Copy the finished run, and name a file of one of its artefacts."""
    finished = copied(lab, lab.directory.parent / "home")
    return finished, finished.store.directory(ref) / file


def all_of_one(self: Any, texts: Any) -> Encoded:
    """Encode every byte as one and the same id."""
    return joined([np.full(len(text.encode()), 3, np.uint32) for text in texts.to_pylist()])


@fault(
    "F23",
    "the encoder knows no character: everything is one id",
    "99.99 % of 2.3 billion tokens were the unknown token, after 17 hours",
    "TokenizerGateError",
    PROVING,
)
def _(lab: Lab) -> None:
    lab.replace("data.encoders.HuggingFaceEncoder.encode", all_of_one)
    encode(lab, where=PROVING)


@fault(
    "F23b",
    "the same, once the tokenizer has been proven",
    "-",
    "DegenerateTokensError",
    ENCODING,
)
def _(lab: Lab) -> None:
    lab.replace("data.checked_encoder.CheckedEncoder.encode", all_of_one)
    encode(lab)


@fault(
    "F23c",
    "some characters are lost, and the rest looks like text",
    "-",
    "RoundTripError",
    ENCODING,
)
def _(lab: Lab) -> None:
    def without_last(self: Any, texts: Any) -> Encoded:
        return joined([ids[:-1] for ids in real(self, texts).documents()])

    real = lab.replace("data.checked_encoder.CheckedEncoder.encode", without_last)
    encode(lab)


@fault(
    "F24",
    "a vocabulary written in another alphabet is taken for a byte-level one",
    "hexadecimal tokens looked up in a GPT-2 vocabulary: 99 % unknown, once more",
    "WrongTokenizerError",
    PROVING,
)
def _(lab: Lab) -> None:
    definition = own_definition(lab)
    hexadecimal = {char: f"{byte:02x}" for byte, char in enumerate(byte_characters())}
    if lab.planted:
        model = definition["model"]
        special = {token["content"] for token in definition["added_tokens"]}
        model["vocab"] = {
            piece if piece in special else "".join(map(hexadecimal.__getitem__, piece)): number
            for piece, number in model["vocab"].items()
        }
        model["merges"] = []
    encode(lab, imported(lab, definition), where=PROVING)


@fault(
    "F25",
    "a loss far below what text allows is taken for a success",
    "0.0008 nats, looked into as a fault of the evaluation",
    "train.floor",
    "step 14",
)
def _(lab: Lab) -> None:
    def of_one_id(*arguments: Any, **named: Any) -> Iterator[np.ndarray]:
        return (np.full_like(batch, 7) for batch in real(*arguments, **named))

    real = lab.replace("tasks.train_worker.batches", of_one_id)
    lab.train()


@fault(
    "F26",
    "an ordinary entry of the vocabulary ends the documents",
    "`</s>`, id 128247, where the model's own end of text is 151643",
    "WrongTokenizerError",
    PROVING,
)
def _(lab: Lab) -> None:
    end_of_text = lab.either("return", END_OF_TEXT)
    encode(lab, imported(lab, own_definition(lab), end_of_text), where=PROVING)


@fault(
    "F27",
    "the right bytes in other pieces than the tokenizer's own",
    "2.55 bytes a token; the commonest token was a single space",
    "EncoderMismatchError",
    ENCODING,
)
def _(lab: Lab) -> None:
    def byte_by_byte(self: Any, texts: Any) -> Encoded:
        vocabulary = json.loads(self._definition)["model"]["vocab"]
        ids_of_bytes = np.array([vocabulary[char] for char in byte_characters()], np.uint32)
        return joined(
            [ids_of_bytes[np.frombuffer(text.encode(), np.uint8)] for text in texts.to_pylist()]
        )

    lab.replace("data.encoders.GigatokenEncoder.encode", byte_by_byte)
    lab.replace("data.corpus_units.prove_engine", proven)
    encode(lab, ['tokenizer.engine="gigatoken"'])


def proven(out: Path, _vocabulary: Path, **_: Any) -> None:
    """Say that an engine's Unicode tables are those of Hugging Face."""
    (out / "engine.json").write_bytes(pretty({"differing": []}))


@fault(
    "F28",
    "tokenizer and model have vocabularies of two sizes",
    "50,257 and 50,000; an escape for ids beyond the table hid it",
    "PreflightError",
    AT_ONCE,
)
def _(lab: Lab) -> None:
    shards = lab.finished.store.open(lab.finished.refs.shards)
    job = lab.job()
    model = replace(job.model, vocab_size=lab.either(256, job.model.vocab_size))
    check_fits(shards.read_index(ShardsIndex), model, job.train, num_ranks=1)


@fault(
    "F28b",
    "an id beyond the vocabulary is written",
    "-",
    "TokenOutOfRangeError",
    ENCODING,
)
def _(lab: Lab) -> None:
    def beyond(self: Any, texts: Any) -> Encoded:
        encoded = real(self, texts)
        ids = encoded.ids_N.copy()
        ids[len(ids) // 2] = 300
        return Encoded(ids, encoded.lengths_D)

    real = lab.replace("data.checked_encoder.CheckedEncoder.encode", beyond)
    encode(lab)


def shard_again(lab: Lab, finished: Finished) -> None:
    with lab.at(SHARDING), at_home(finished.home):
        settings = tiny_settings(finished.home, ["shard.seed=2"])
        sharded(begin(settings, "other"), finished.refs.tokens, settings)


@fault(
    "F30",
    "files without the manifest that is written last",
    "killed runs left shards that nothing described",
    "NotFoundError",
    SHARDING,
)
def _(lab: Lab) -> None:
    finished, index = damaged(lab, lab.finished.refs.tokens, "index.json")
    if lab.planted:
        index.unlink()
    shard_again(lab, finished)


@fault(
    "F31",
    "a manifest without the digests that it promises",
    "no sha256 of corpus, tokenizer or producer was ever written",
    "ArtefactDamagedError",
    SHARDING,
)
def _(lab: Lab) -> None:
    finished, index = damaged(lab, lab.finished.refs.tokens, "index.json")
    if lab.planted:
        document = json.loads(index.read_text())
        for entry in document["files"]:
            entry["sha256"] = ""
        index.write_bytes(pretty(document))
    shard_again(lab, finished)


@fault(
    "F34",
    "a shard that cannot be read is left out",
    "unreadable files were skipped without a word",
    "ArtefactDamagedError",
    OPENING,
)
def _(lab: Lab) -> None:
    finished, shard = damaged(lab, lab.finished.refs.shards, "train/shard-00000.bin")
    if lab.planted:
        shard.write_bytes(shard.read_bytes()[:-66])
    with lab.at(OPENING), at_home(finished.home):
        open_store().open(finished.refs.shards)


@fault(
    "F32",
    "one of four files is read",
    "18.1 million tokens instead of 74.3 million, found months later",
    "PreflightError",
    "before training, by the budget",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    write_corpus(home / "corpus")
    settings = tiny_settings(
        home, lab.either(['source.include=["module_0*.py","module_1[0-3].py"]'], ())
    )
    whole = lab.finished.store.open(lab.finished.refs.shards).read_index(ShardsIndex)
    budget = lab.job(max_passes=1, num_steps=whole.train.num_rows // 8)
    with lab.at("before training, by the budget"), at_home(home):
        run = begin(settings, "data")
        shards = open_store().open(sharded(run, pretokenized(run, settings), settings))
        index = shards.read_index(ShardsIndex)
        check_fits(index, replace(budget.model, vocab_size=index.vocab_size), budget.train, 1)
