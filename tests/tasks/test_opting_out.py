"""A repository that is opted out of The Stack v2: what is made again, what is left of it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.minhash import band_keys, bands_for, signatures
from data.token_files import TokenReader
from data.tokenizer import TOKENIZER, Tokenizer
from flows.settings import PipelineSettings
from tasks.store import Artefact, Store
from tests.data.near import jaccard
from tests.data.stack_server import StackServer
from tests.tasks.scale_run import Refs, copy_units, inline, kinds_of, units_of
from tests.tasks.stack_corpus import OPTED_OUT, put_stack, stack_settings
from tests.tasks.tiny import at_home

pytestmark = pytest.mark.slow
UNTOUCHED = ("fetch", "draw sample", "name sample", "train vocabulary", "engine", "take in")


@dataclass(frozen=True)
class Made:
    """What was made of one list of removals, and where."""

    home: Path
    refs: Refs

    @property
    def tokens(self) -> Artefact:
        return Store(self.home / "store").open(self.refs.tokens)

    @property
    def shards(self) -> Artefact:
        return Store(self.home / "store").open(self.refs.shards)

    @property
    def documents(self) -> list[dict[str, Any]]:
        return table(self.tokens.directory / "documents.parquet")

    @property
    def rejected(self) -> list[dict[str, Any]]:
        return table(self.tokens.directory / "rejected.parquet")

    def texts(self) -> list[str]:
        """Decode every document of the token files."""
        index: Any = self.tokens.index["content"]
        files = tuple((name, number) for name, number in index["token_files"])
        reader = TokenReader(self.tokens.directory, files, index["dtype"])
        tokenizer = Tokenizer.load(self.tokens.directory / TOKENIZER)
        lengths = [each["num_tokens"] for each in self.documents]
        starts = np.cumsum(lengths) - lengths
        return [
            tokenizer.decode(reader.read(int(start), length)).decode()
            for start, length in zip(starts, lengths, strict=True)
        ]


@dataclass(frozen=True)
class Both:
    before: Made
    after: Made
    settings: PipelineSettings
    "Those of the latter."


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """All of the corpus, and what is left of it, in one store after the other."""
    directory = tmp_path_factory.mktemp("opting-out")
    with StackServer() as server, pytest.MonkeyPatch.context() as patch:
        server.point_to(patch)
        put_stack(directory / "index", server, num_per_layout=350)
        settings, homes = stack_settings(directory / "index"), [directory / "a", directory / "b"]
        before = made(homes[0], settings)
        copy_units(homes[0], homes[1], [*kinds_of(homes[0])])
        settings = opting_out(settings, directory, OPTED_OUT)
        yield Both(before, made(homes[1], settings), settings)


def made(home: Path, settings: PipelineSettings) -> Made:
    with at_home(home):
        return Made(home, inline(settings))


def opting_out(settings: PipelineSettings, directory: Path, name: str) -> PipelineSettings:
    """Return settings with a removal list of one name."""
    path = directory / "removals.txt"
    path.write_text(f"# asked for\n{name}\n")
    return replace(settings, pretokenize=replace(settings.pretokenize, removal_list=str(path)))


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def shard_tables(shards: Artefact) -> dict[str, list[dict[str, Any]]]:
    """Return the documents of every shard, by its name."""
    paths = sorted(shards.directory.glob("*/shard-*.documents.parquet"))
    return {f"{path.parent.name}/{path.name}": table(path) for path in paths}


def test_only_what_holds_the_repository_is_made_again(both: Both) -> None:
    again = {
        key: record
        for key, record in units_of(both.after.home).items()
        if key not in units_of(both.before.home)
    }
    gone = [each for each in both.before.documents if each["repository"] == OPTED_OUT]
    copies = [
        each
        for each in both.before.rejected
        if each["repository"] == OPTED_OUT and each["filter"] in ("duplicate", "near_duplicate")
    ]
    digests = {each["sha256"] for each in gone}
    touched = [
        name
        for name, rows in shard_tables(both.before.shards).items()
        if digests & {each["sha256"] for each in rows}
    ]
    num_units = len({each["unit"] for each in (*gone, *copies)})
    assert (num_units, len(gone)) == (2, 18)
    assert len(touched) < len(shard_tables(both.before.shards)) == 12
    kinds = kinds_of(both.after.home) - kinds_of(both.before.home)
    assert len(again) == kinds.total()
    assert kinds == {"settle": 1, "compact": num_units, "plan": 1, "cut": len(touched)}


def test_what_was_built_upon_the_rest_is_what_is_made_without_it(
    both: Both, tmp_path: Path
) -> None:
    copy_units(both.before.home, tmp_path, UNTOUCHED)
    assert made(tmp_path, both.settings).refs == both.after.refs


def test_nothing_of_the_repository_is_left(both: Both) -> None:
    gone = [each for each in both.before.documents if each["repository"] == OPTED_OUT]
    assert OPTED_OUT not in {each["repository"] for each in both.after.documents}
    digests = {each["sha256"] for each in gone}
    left = [row for rows in shard_tables(both.after.shards).values() for row in rows]
    assert len(left) == len(both.after.documents) == len(both.before.documents) - len(gone)
    assert not digests & {each["sha256"] for each in left}
    assert not digests & {each["sha256"] for each in both.after.documents}
    own = [f'"""Module number {int(each["path"][6:-3])}."""\n' for each in gone]
    for corpus, found in ((both.before, 18), (both.after, 0)):
        whole = "".join(corpus.texts())
        assert sum(line in whole for line in own) == found
    reasons = [r["filter"] for r in both.after.rejected if r["repository"] == OPTED_OUT]
    assert reasons.count("opted_out") >= len(gone)


def test_a_store_without_its_units_and_earlier_artefacts_is_rid_of_it(
    both: Both, tmp_path: Path
) -> None:
    shutil.copytree(both.after.home, tmp_path / "home", copy_function=os.link)
    # Those of an earlier run, in the same store.
    shutil.copytree(
        both.before.home / "store",
        tmp_path / "home" / "store",
        dirs_exist_ok=True,
        copy_function=os.link,
        ignore=lambda _, names: {*names} & {"units", "recipes", "tmp", "gc.lock"},
    )
    store = Store(tmp_path / "home" / "store")
    gone = [each for each in both.before.documents if each["repository"] == OPTED_OUT]
    own = [f'"""Module number {int(each["path"][6:-3])}."""\n'.encode() for each in gone]
    held = holding(store.root, own)
    assert {path.relative_to(store.root).parts[0] for path in held} == {"units", "tokens", "shards"}
    shutil.rmtree(store.root / "units")
    for ref in (both.before.refs.tokens, both.before.refs.shards):
        shutil.rmtree(store.directory(ref))
    assert holding(store.root, own) == []
    assert made(tmp_path / "home", both.settings).refs == both.after.refs
    assert not (store.root / "units").exists()


def holding(root: Path, texts: list[bytes]) -> list[Path]:
    """Find the files that hold one of some texts, in cells of tables or as tokens."""
    (path,) = {path.read_bytes(): path for path in root.rglob(TOKENIZER)}.values()
    tokenizer = Tokenizer.load(path)
    pieces = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
    found = []
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            cells = pq.read_table(path).to_pydict().values()
            content = "\n".join(str(cell) for column in cells for cell in column).encode()
            content = content.replace(b"\\n", b"\n")
        elif path.suffix == ".bin" and "first" not in path.name:
            content = b"".join(map(pieces.__getitem__, np.fromfile(path, "<u2").tolist()))
        else:
            continue
        if any(text in content for text in texts):
            found.append(path)
    return found


def test_shards_hold_the_documents_of_the_corpus_that_they_were_made_of(both: Both) -> None:
    for corpus in (both.before, both.after):
        tables = shard_tables(corpus.shards).values()
        held = sorted((row["sha256"], row["num_tokens"]) for rows in tables for row in rows)
        assert held == sorted((each["sha256"], each["num_tokens"]) for each in corpus.documents)


def test_training_and_validation_share_no_document_and_nothing_like_it(both: Both) -> None:
    documents, texts = both.before.documents, both.before.texts()
    sides = [each["split"] for each in documents]
    held_out = {each["sha256"] for each in documents if each["split"] == "val"}
    assert not held_out & {each["sha256"] for each in documents if each["split"] == "train"}
    assert len({each["sha256"] for each in documents}) == len(documents)
    drawn = Random(0)
    numbers = range(len(texts))
    sampled = {tuple(sorted(drawn.sample(numbers, 2))) for _ in range(2000)}
    across = [pair for pair in sampled | alike(texts, 0.5) if sides[pair[0]] != sides[pair[1]]]
    assert len(across) > 400
    assert max(jaccard(texts[left], texts[right]) for left, right in across) < 0.5
    # The search sees what there is to see: with the copies back, it finds them.
    copies = [f"{text}extra = 1\n" for text in texts[:20]]
    found = alike([*texts, *copies], 0.5)
    assert {(number, len(texts) + number) for number in range(20)} <= found


def alike(texts: list[str], threshold: float) -> set[tuple[int, ...]]:
    """Return the pairs that a search at a threshold would look at."""
    bands = bands_for(threshold)
    keys_DB = band_keys(signatures(pa.array(texts, pa.large_string()), seed=42), bands)
    pairs = set[tuple[int, ...]]()
    for keys_D in keys_DB.T:
        order = np.argsort(keys_D, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(keys_D[order])) + 1):
            pairs |= set(combinations(sorted(bucket.tolist()), 2))
    return pairs
