"""Tokens to rows: documents shuffled over shards, laid out in rows of equal length, rows shuffled.

A row holds one token more than the context, so that it carries its own targets; no token is in
two rows. Every shard is a unit of work of its own, checked as it is written, and depends on its
own documents alone. What all of them decide together comes last: training rows that are equal to
a validation row are withheld.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.bounds import at_least, share
from data.cut import (
    COUNTS,
    FIRST_DOCUMENTS,
    ROWS,
    SIZES,
    CutSettings,
    Packing,
    TokenFiles,
    cut,
    tokens_cut,
)
from data.cut import VERSION as CUT_VERSION
from data.digests import file_sha256
from data.documents import DOCUMENTS
from data.errors import CorpusTooSmallError, CorruptShardError, WrongSettingError
from data.plan import VERSION as PLAN_VERSION
from data.plan import ShardPlan, make_plan
from data.pretokenize import TokensIndex
from data.split import SPLITS, SplitName
from data.token_files import LITTLE_ENDIAN, DtypeName, adopt
from data.token_statistics import DegenerateBounds, TokenCounter
from data.tokenizer import TOKENIZER, Tokenizer
from data.units import Given, MakeUnits, Unit
from data.withholding import KnownRows, without_padding

VERSION = 3
_NAME = re.compile(r"(train|val)/shard-[0-9]{5,9}")
MAX_SHARD_BYTES = 512 * 2**20
"""A shard is held in memory while it is cut, more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """How long rows are, how documents fill them, and over how many files they are spread."""

    context_length: int
    packing: Packing
    """`concatenate` cuts documents at the ends of rows; `whole` cuts none that fits into one."""
    seed: int
    train_shards: int
    val_shards: int
    round_trip_share: float
    """Share of the documents that are decoded again from the rows on disk."""
    baseline_tokens: int
    """At most so many training tokens are counted for the baselines."""

    def __post_init__(self) -> None:
        """Refuse rows without a target and splits without a shard.

        Raises: WrongSettingError.
        """
        at_least("shard.context_length", self.context_length, 1)
        if self.packing not in ("concatenate", "whole"):
            raise WrongSettingError("shard.packing", self.packing, "'concatenate' or 'whole'")
        at_least("shard.seed", self.seed, 0)
        at_least("shard.train_shards", self.train_shards, 1)
        at_least("shard.val_shards", self.val_shards, 1)
        share("shard.round_trip_share", self.round_trip_share)
        at_least("shard.baseline_tokens", self.baseline_tokens, self.context_length + 1)

    def num_shards(self, split: SplitName) -> int:
        """Return how many shards a split has."""
        return self.train_shards if split == "train" else self.val_shards


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What the files of one shard hold.

    Units: `num_tokens` are those of the rows, `entropy_bits` is per token.
    """

    name: str
    num_rows: int
    num_tokens: int
    num_documents: int
    dropped_tokens: int
    withheld_rows: int
    """Rows that were cut and left out, because validation has them too."""
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float

    def __post_init__(self) -> None:
        """Refuse a name that leads out of the directory of the shards.

        Raises: CorruptShardError.
        """
        if not _NAME.fullmatch(self.name):
            raise CorruptShardError(Path(ascii(self.name)), "named so", "train/ or val/shard-NNNNN")


@dataclass(frozen=True, slots=True)
class SplitIndex:
    """What the directory of one split holds; its rows are those of its shards, in order."""

    num_rows: int
    num_tokens: int
    num_documents: int
    dropped_tokens: int
    withheld_rows: int
    distinct_ids: int
    entropy_bits: float
    unk_ratio: float
    shards: tuple[ShardIndex, ...]


@dataclass(frozen=True, slots=True)
class ShardsIndex:
    """What a shards directory holds."""

    vocab_size: int
    end_of_text_id: int
    dtype: DtypeName
    context_length: int
    packing: Packing
    train: SplitIndex
    val: SplitIndex


def shard(
    tokens: Given,
    index: TokensIndex,
    settings: ShardSettings,
    bounds: DegenerateBounds,
    make_units: MakeUnits,
    *,
    out: Path,
) -> ShardsIndex:
    """Write a shards directory from a tokens directory.

    Raises: WrongSettingError, CorruptTokensError, LeakError, CorpusTooSmallError,
        TokenOutOfRangeError, DegenerateTokensError, RoundTripError.
    """
    _refuse_large_shards(index, settings)
    plan = plan_unit(tokens, index, settings)
    (plan_directory,) = make_units("plan", [plan])
    adopt(tokens.directory / TOKENIZER, out / TOKENIZER)
    tokenizer = Tokenizer.load(out / TOKENIZER)

    def cut_split(name: SplitName) -> list[Path]:
        units = list(cut_units(plan, plan_directory, tokens, name, index, settings, bounds))
        return make_units(f"{name} shards", units)

    train, val = (cut_split(name) for name in SPLITS)
    form = (LITTLE_ENDIAN[index.dtype], settings.context_length + 1)
    return ShardsIndex(
        vocab_size=index.vocab_size,
        end_of_text_id=index.end_of_text_id,
        dtype=index.dtype,
        context_length=settings.context_length,
        packing=settings.packing,
        train=_assemble("train", train, KnownRows(val, *form), tokenizer, out),
        val=_assemble("val", val, KnownRows([], *form), tokenizer, out),
    )


def plan_unit(tokens: Given, index: TokensIndex, settings: ShardSettings) -> Unit:
    """Say how documents are spread over shards."""
    num_shards = {split: settings.num_shards(split) for split in SPLITS}
    return Unit(
        recipe={
            "kind": "plan",
            "version": PLAN_VERSION,
            "seed": settings.seed,
            "num_shards": num_shards,
        },
        label="plan the shards",
        make=partial(
            make_plan,
            num_documents=index.num_documents,
            num_tokens=index.num_tokens,
            seed=settings.seed,
            num_shards=num_shards,
        ),
        inputs=(tokens,),
    )


def cut_units(
    plan: Unit,
    plan_directory: Path,
    tokens: Given,
    split: SplitName,
    index: TokensIndex,
    settings: ShardSettings,
    bounds: DegenerateBounds,
) -> Iterator[Unit]:
    """Say how each shard of a split is cut: it depends on its own documents and the tokenizer."""
    tokenizer = file_sha256(tokens.directory / TOKENIZER)
    cutting = CutSettings(
        row_tokens=settings.context_length + 1,
        packing=settings.packing,
        seed=settings.seed,
        round_trip_share=settings.round_trip_share,
        bounds=bounds,
    )
    files = TokenFiles(index.dtype, index.token_files)
    for number in range(settings.num_shards(split)):
        planned = ShardPlan.read(plan_directory, split, number)
        yield Unit(
            recipe={
                "kind": "cut",
                "version": CUT_VERSION,
                "split": split,
                "number": number,
                "documents": planned.sha256,
                "tokenizer": tokenizer,
                "settings": asdict(cutting),
            },
            label=f"{split} shard {number}",
            make=partial(cut, split=split, number=number, files=files, settings=cutting),
            aside=(plan, tokens),
            count_tokens=tokens_cut,
        )


def _refuse_large_shards(index: TokensIndex, settings: ShardSettings) -> None:
    """Refuse shards that do not fit into memory.

    Raises: WrongSettingError.
    """
    width = LITTLE_ENDIAN[index.dtype].itemsize
    num_tokens = {
        "train": index.num_train_tokens,
        "val": index.num_tokens - index.num_train_tokens,
    }
    for split in SPLITS:
        least, found = -(-num_tokens[split] * width // MAX_SHARD_BYTES), settings.num_shards(split)
        if found < least:
            expected = f"at least {least}: a shard holds {MAX_SHARD_BYTES >> 20} MiB at most"
            raise WrongSettingError(f"shard.{split}_shards", found, expected)


def _assemble(
    split: SplitName, units: Sequence[Path], known: KnownRows, tokenizer: Tokenizer, out: Path
) -> SplitIndex:
    """Bring the shards of a split together, without the known rows.

    Raises: CorpusTooSmallError.
    """
    (out / split).mkdir()
    everything = TokenCounter(tokenizer.vocab_size, f"{split} rows")
    shards = []
    for number, unit in enumerate(units):
        own = TokenCounter(tokenizer.vocab_size, f"{split}/shard-{number:05d}")
        shards.append(_bring(unit, known, tokenizer, own, out))
        everything.add_counts(own.counts_V)
    found = everything.statistics(tokenizer.unk_id)
    dropped_tokens = sum(each.dropped_tokens for each in shards)
    if not found.num_tokens:
        raise CorpusTooSmallError(split, dropped_tokens, known.row_tokens)
    return SplitIndex(
        num_rows=sum(each.num_rows for each in shards),
        num_tokens=found.num_tokens,
        num_documents=sum(each.num_documents for each in shards),
        dropped_tokens=dropped_tokens,
        withheld_rows=sum(each.withheld_rows for each in shards),
        distinct_ids=found.distinct_ids,
        entropy_bits=found.entropy_bits,
        unk_ratio=found.unk_ratio,
        shards=tuple(shards),
    )


def _bring(
    unit: Path, known: KnownRows, tokenizer: Tokenizer, counter: TokenCounter, out: Path
) -> ShardIndex:
    """Give a shard its place, without the known rows, and count what stays."""
    name = counter.where
    places = {made: out / f"{name}{suffix}" for made, suffix in SUFFIXES.items()}
    adopt(unit / DOCUMENTS, places[DOCUMENTS])
    withheld_WS = known.withhold(unit, rows=places[ROWS], first_documents=places[FIRST_DOCUMENTS])
    gone = TokenCounter(tokenizer.vocab_size, name)
    gone.add(without_padding(withheld_WS, tokenizer.end_of_text_id))
    counter.add_counts(np.load(unit / COUNTS) - gone.counts_V)
    found = counter.statistics(tokenizer.unk_id)
    num_rows, dropped_tokens = np.load(unit / SIZES).tolist()
    return ShardIndex(
        name=name,
        num_rows=num_rows - len(withheld_WS),
        num_tokens=found.num_tokens,
        num_documents=pq.read_metadata(unit / DOCUMENTS).num_rows,
        dropped_tokens=dropped_tokens,
        withheld_rows=len(withheld_WS),
        distinct_ids=found.distinct_ids,
        entropy_bits=found.entropy_bits,
        unk_ratio=found.unk_ratio,
    )


SUFFIXES = {ROWS: ".bin", FIRST_DOCUMENTS: ".first.bin", DOCUMENTS: ".documents.parquet"}
"""The files of a unit, and what their names end in beside each other."""
