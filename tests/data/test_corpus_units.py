"""What makes a unit another one, and what leaves it as it is."""

import hashlib
import pickle
import platform
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.corpus import Corpus
from data.errors import NoTrainingDocumentsError
from data.pretokenize import pretokenize
from data.tokenizer import Tokenizer
from tests.data.conftest import Tokens
from tests.data.corpus import TEXTS, corpus_of, write_texts
from tests.data.inline import InlineUnits

A_FILE_EACH = {"unit_bytes": 1}
TAKE_IN = [f"take in {path}" for path in sorted(TEXTS)]
WORD = b"zqzqzqzqzq"
OPTED_OUT = b"".join(b"%s = [%d, '%c']\n" % (WORD, n * 7, 65 + n) for n in range(20))


def imported(tokens: Tokens) -> dict[str, Any]:
    """The settings of a tokenizer that exists, so that no sample decides about anything."""
    path = str(tokens.directory / "tokenizer.json")
    return {"kind": "import", "path": path, "min_merge_frequency": 0, "sample_bytes": 0}


def made(corpus: Corpus, units: InlineUnits, out: Path) -> list[str]:
    """Pretokenize; return what had to be made for it."""
    units.made.clear()
    out.mkdir()
    pretokenize(corpus, units, out=out)
    return units.made.copy()


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_file_at_the_front_is_all_that_is_taken_in(tokens: Tokens, tmp_path: Path) -> None:
    root, units = write_texts(tmp_path / "source", TEXTS), InlineUnits(tmp_path / "units")
    asked = {"source": A_FILE_EACH, "tokenizer": imported(tokens)}
    assert set(TAKE_IN) < set(made(corpus_of(root, **asked), units, tmp_path / "before"))
    write_texts(root, {"0.py": b"zero = 0  # comes before all others\n"})
    corpus = corpus_of(root, **asked)
    again = made(corpus, units, tmp_path / "after")
    assert again == ["take in 0.py", "settle copies", "compact unit 0"]
    # As if nothing had been there before: every unit has its new number.
    made(corpus, InlineUnits(tmp_path / "fresh"), tmp_path / "expected")
    assert files_of(tmp_path / "after") == files_of(tmp_path / "expected")
    numbers = pq.read_table(tmp_path / "after" / "documents.parquet")["unit"].to_pylist()
    assert numbers == list(range(len(TEXTS) + 1))


@pytest.mark.parametrize(
    ("must_parse", "again"), [(True, TAKE_IN), (False, [])], ids=["parsed", "not parsed"]
)
def test_another_python_takes_in_what_it_parsed_and_nothing_else(
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    must_parse: bool,
    again: list[str],
) -> None:
    corpus = corpus_of(
        write_texts(tmp_path / "source", TEXTS),
        source=A_FILE_EACH,
        tokenizer=imported(tokens),
        filters={"must_parse": must_parse},
    )
    units = InlineUnits(tmp_path / "units")
    made(corpus, units, tmp_path / "before")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    labels = made(corpus, units, tmp_path / "after")
    assert [label for label in labels if label.startswith("take in")] == again


def with_removals(tmp_path: Path, names: list[str], **tokenizer: Any) -> Corpus:
    """A corpus with one document to be opted out, which a sample of everything holds."""
    root = write_texts(tmp_path / "source", TEXTS | {"word.py": OPTED_OUT})
    (tmp_path / "removals.txt").write_text("".join(f"{name}\n" for name in names))
    return corpus_of(
        root,
        source=A_FILE_EACH,
        tokenizer=tokenizer,
        removal_list=str(tmp_path / "removals.txt"),
        validation_fraction=0.2,
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_is_opted_out_of_the_sample_is_unlearnt(tmp_path: Path) -> None:
    units, before, after = InlineUnits(tmp_path / "units"), tmp_path / "before", tmp_path / "after"
    made(with_removals(tmp_path, []), units, before)
    again = made(with_removals(tmp_path, [sha256(OPTED_OUT)]), units, after)
    assert again[0] == "train the tokenizer"
    assert {*TAKE_IN, "take in word.py"} < set(again)
    assert "draw the tokenizer's sample" not in again
    lengths = [
        len(Tokenizer.load(out / "tokenizer.json").encode_batch([WORD.decode()])[0])
        for out in (before, after)
    ]
    assert lengths[0] < lengths[1] == len(WORD)
    # As if the document had never been there.
    (tmp_path / "source" / "word.py").unlink()
    without = corpus_of(tmp_path / "source", source=A_FILE_EACH, validation_fraction=0.2)
    made(without, InlineUnits(tmp_path / "fresh"), tmp_path / "without")
    assert files_of(tmp_path / "without")["tokenizer.json"] == (files_of(after)["tokenizer.json"])


def test_what_is_opted_out_elsewhere_leaves_the_tokenizer_and_its_tokens(tmp_path: Path) -> None:
    units = InlineUnits(tmp_path / "units")
    # Too small for the largest document, which is drawn late enough to be left out.
    small = {"sample_bytes": 230, "vocab_size": 262, "sample_seed": 1}
    made(with_removals(tmp_path, [], **small), units, tmp_path / "before")
    again = made(with_removals(tmp_path, [sha256(OPTED_OUT)], **small), units, tmp_path / "after")
    assert again == ["settle copies", f"compact unit {len(TEXTS)}"]


def test_a_sample_that_was_opted_out_as_a_whole_is_refused(tmp_path: Path) -> None:
    names = [sha256(content) for content in (*TEXTS.values(), OPTED_OUT)]
    with pytest.raises(NoTrainingDocumentsError):
        made(with_removals(tmp_path, names), InlineUnits(tmp_path / "units"), tmp_path / "out")


def test_the_payload_of_a_unit_does_not_grow_with_the_source(tmp_path: Path) -> None:
    from data.corpus_units import engine_unit, intake_unit, vocabulary_unit

    def payloads(num_files: int) -> list[int]:
        names = [f"{number:05d}.py" for number in range(num_files)]
        root = write_texts(tmp_path / str(num_files), {n: f"x = {n!r}\n".encode() for n in names})
        corpus = corpus_of(root, source=A_FILE_EACH, tokenizer={"vocab_size": 257})
        units = InlineUnits(tmp_path / f"units{num_files}")
        vocabulary = vocabulary_unit(corpus, units)
        engine = engine_unit(corpus, vocabulary)
        taken = [
            intake_unit(corpus, each, "uint16", vocabulary, engine) for each in corpus.source.units
        ]
        return [len(pickle.dumps((unit.make, unit.count_tokens))) for unit in taken]

    few, many = payloads(3), payloads(300)
    assert len(many) == 300
    assert max(many) < max(few) + 100
