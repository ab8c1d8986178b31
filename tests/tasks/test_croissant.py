"""The description of a corpus, as the reference implementation of Croissant reads it."""

import json
import shutil
from typing import Any

import pyarrow.parquet as pq
import pytest

from evidence.canonical import file_sha256
from tasks.croissant import CONFORMS_TO, describe_corpus
from tasks.errors import ArtefactDamagedError, NotFoundError
from tests.tasks.tiny import Finished, begin


def test_every_file_of_tokens_and_shards_is_there_with_its_digest(reading: Finished) -> None:
    found = describe_corpus(reading.run)
    assert found["conformsTo"] == CONFORMS_TO
    assert found["license"] == ["https://spdx.org/licenses/MIT"]
    names = {each["@id"] for each in found["distribution"]}
    assert {"tokens/documents.parquet", "tokens/tokenizer.json", "shards/baselines.json"} <= names
    assert "shards/train/shard-00000.bin" in names
    for each in found["distribution"]:
        path = reading.home / "store" / each["contentUrl"]
        assert file_sha256(path) == each["sha256"]
        assert each["contentSize"] == f"{path.stat().st_size} B"


def test_every_column_that_is_described_exists_with_its_type(reading: Finished) -> None:
    directory = reading.store.directory(reading.refs.tokens)
    kinds = {"sc:Text": "string", "sc:Integer": "int64"}
    for records in describe_corpus(reading.run)["recordSet"]:
        schema = pq.read_schema(directory / f"{records['name']}.parquet")
        for each in records["field"]:
            kind = schema.field(each["source"]["extract"]["column"]).type
            inner = kind.value_type if each.get("repeated") else kind
            assert str(inner) == kinds[each["dataType"]]


def test_the_words_say_how_rows_lie_in_a_shard(reading: Finished) -> None:
    said = describe_corpus(reading.run)["description"]
    measured = reading.run.stage_records()["shard"]["measurements"]
    assert f"{measured['train_rows']} training rows" in said
    assert "of 33 ids lie one after another in the shards, as uint16, little-endian" in said


def test_a_run_without_a_corpus_is_refused(copied: Finished) -> None:
    with pytest.raises(NotFoundError):
        describe_corpus(begin(copied.settings, "bare"))


def test_an_artefact_that_is_gone_or_damaged_is_refused(copied: Finished) -> None:
    index = copied.store.directory(copied.refs.shards) / "index.json"
    index.write_text(index.read_text().replace('"num_rows": ', '"num_rows": 1'))
    with pytest.raises(ArtefactDamagedError):
        describe_corpus(copied.run)
    shutil.rmtree(copied.store.directory(copied.refs.tokens))
    with pytest.raises(NotFoundError):
        describe_corpus(copied.run)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside rdflib by mlcroissant
def test_the_reference_implementation_accepts_it_and_reads_the_records(
    reading: Finished, tmp_path: Any
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    shutil.copytree(reading.store.directory(reading.refs.tokens).parents[1], tmp_path / "tokens")
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(describe_corpus(reading.run)))
    dataset = mlcroissant.Dataset(jsonld=path)
    assert dataset.metadata.issues.errors == set()
    records = list(dataset.records("documents"))
    table = pq.read_table(reading.store.directory(reading.refs.tokens) / "documents.parquet")
    assert len(records) == table.num_rows == 40
    assert [each["documents/num_tokens"] for each in records] == table["num_tokens"].to_pylist()
    assert records[0]["documents/sha256"].decode() == table["sha256"][0].as_py()
