import hashlib

import pyarrow.parquet as pq

from data.validation_texts import validation_texts
from tests.data.conftest import Tokens


def held_out(tokens: Tokens) -> list[str]:
    table = pq.read_table(tokens.directory / "documents.parquet").to_pylist()
    return sorted(each["sha256"] for each in table if each["split"] == "val")


def digests(texts: list[bytes]) -> list[str]:
    return [hashlib.sha256(text).hexdigest() for text in texts]


def test_the_texts_are_those_of_the_held_out_documents_by_digest(tokens: Tokens) -> None:
    found = validation_texts(tokens.directory, tokens.index, 10**9)
    assert digests(found) == held_out(tokens)


def test_no_more_text_is_taken_than_asked_for_but_one_document(tokens: Tokens) -> None:
    everything = validation_texts(tokens.directory, tokens.index, 10**9)
    two = len(everything[0]) + len(everything[1])
    assert validation_texts(tokens.directory, tokens.index, two) == everything[:2]
    assert validation_texts(tokens.directory, tokens.index, two - 1) == everything[:1]
    assert validation_texts(tokens.directory, tokens.index, 1) == everything[:1]
