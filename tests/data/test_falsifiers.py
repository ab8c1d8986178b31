"""What would prove the first stages wrong, looked for in what a corpus full of traps became."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.pretokenize import pretokenize
from data.rows import open_rows
from data.shard import shard
from data.split import SPLITS
from data.tokenizer import Tokenizer
from data.units import Given
from tests.data.corpus import bounds, corpus_of, shard_settings
from tests.data.inline import InlineUnits
from tests.data.near import shingles, sources, with_edits
from tests.data.test_filters import SECRETS

THRESHOLD = 0.85
NUM_FAMILIES, NUM_COPIES, NUM_ALONE, NUM_SECRETS = 6, 30, 120, 30
NUM_PAIRS = 10_000


@dataclass(frozen=True)
class Made:
    texts: dict[str, str]
    "By path; the families have theirs in the first part of it."
    documents: list[dict[str, Any]]
    shards: bytes
    "The text of all rows."

    def alike(self, drawn: Random, num_pairs: int) -> list[tuple[float, Any, Any]]:
        """Draw pairs of documents; return how alike the texts of each are, as they are."""
        known = {each["path"]: shingles(self.texts[each["path"]]) for each in self.documents}
        pairs = [drawn.sample(self.documents, 2) for _ in range(num_pairs)]
        both = [(known[a["path"]], known[b["path"]], a, b) for a, b in pairs]
        return [(len(left & right) / len(left | right), a, b) for left, right, a, b in both]


def planted(drawn: Random) -> dict[str, str]:
    """Texts that share little, families of copies with few edits, and texts with a secret."""
    texts = {f"alone/{n}.py": text for n, text in enumerate(sources(NUM_ALONE, 1))}
    for family, text in enumerate(sources(2 * NUM_FAMILIES, 2)[:NUM_FAMILIES]):
        long = "\n".join([text, *sources(3, 100 + family)])
        for number in range(NUM_COPIES):
            texts[f"family{family}/{number}.py"] = with_edits(long, 1, drawn)
    kinds = list(SECRETS.values())
    for number, text in enumerate(sources(NUM_SECRETS, 3)):
        lines = text.split("\n")
        key = kinds[number % len(kinds)]
        lines.insert(drawn.randrange(len(lines)), f'key_{number} = "{key}"')
        texts[f"secret/{number}.py"] = "\n".join(lines)
    return texts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    root, texts = tmp_path_factory.mktemp("traps"), planted(Random(5))
    paths = list(texts)
    Random(6).shuffle(paths)
    (root / "source").mkdir()
    for part in range(4):
        own = paths[part::4]
        table = pa.table({"path": own, "text": [texts[path] for path in own]})
        pq.write_table(table, root / "source" / f"{part}.parquet")

    def with_near_duplicates(kept: str) -> Made:
        source = {"kind": "parquet", "include": ("*",), "text_column": "text"}
        corpus = corpus_of(
            root / "source",
            source={**source, "path_column": "path", "unit_bytes": 0, "licence": ""},
            filters={"max_file_bytes": 10**6, "max_lines": 10**6, "near_duplicates": kept},
            tokenizer={"vocab_size": 300, "sample_bytes": 10**5, "checked_share": 0.001},
            validation_fraction=0.4,
        )
        tokens, shards = root / kept / "tokens", root / kept / "shards"
        tokens.mkdir(parents=True)
        shards.mkdir()
        units = InlineUnits(root / "units")
        index = pretokenize(corpus, units, out=tokens)
        rows = shard(
            Given(kept, tokens),
            index,
            shard_settings(context_length=255),
            bounds(),
            units,
            out=shards,
        )
        documents = pq.read_table(tokens / "documents.parquet").to_pylist()
        tokenizer = Tokenizer.load(tokens / "tokenizer.json")
        pieces = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
        return Made(
            texts,
            documents,
            b"".join(
                b"".join(map(pieces.__getitem__, own.ids(np.arange(len(own))).reshape(-1).tolist()))
                for own in (open_rows(shards, rows, split) for split in SPLITS)
            ),
        )

    return with_near_duplicates


@pytest.fixture(scope="module")
def dropped(made: Callable[[str], Made]) -> Made:
    return made("drop")


@pytest.fixture(scope="module")
def together(made: Callable[[str], Made]) -> Made:
    return made("together")


def test_no_planted_secret_reaches_a_shard(dropped: Made) -> None:
    secrets = [secret.encode() for secret in SECRETS.values()]
    everything = "".join(dropped.texts.values()).encode()
    assert all(everything.count(secret) >= NUM_SECRETS // len(secrets) for secret in secrets)
    assert [secret for secret in secrets if secret in dropped.shards] == []
    # Rows are cut and shuffled; short texts that are no secrets are found in them.
    assert dropped.shards.count(b"return None") > 1000
    assert b"key_" not in dropped.shards


def test_ten_thousand_pairs_of_what_is_kept_are_below_the_threshold(
    dropped: Made, together: Made
) -> None:
    found = dropped.alike(Random(7), NUM_PAIRS)
    assert max(similarity for similarity, _, _ in found) < THRESHOLD
    # With the copies back in, as many pairs would tell.
    with_copies = together.alike(Random(7), NUM_PAIRS)
    assert sum(similarity >= THRESHOLD for similarity, _, _ in with_copies) > 300


def test_no_pair_that_is_nearly_alike_is_on_both_sides(together: Made) -> None:
    found = together.alike(Random(8), NUM_PAIRS)
    alike = [(a, b) for similarity, a, b in found if similarity >= THRESHOLD]
    assert len(alike) > 300
    assert [pair for pair in alike if pair[0]["split"] != pair[1]["split"]] == []
    # Families are on either side, so that chance alone did not do it.
    assert {a["split"] for a, _ in alike} == {"train", "val"}
