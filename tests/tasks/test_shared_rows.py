"""Documents of both sides that share what fills a row: a licence at the head of every file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.cut import FIRST_DOCUMENTS, ROWS
from data.token_files import adopt
from data.withholding import KnownRows
from evidence.errors import GateFailedError
from flows.settings import PipelineSettings
from tasks.shard import STAGE, summary
from tests.tasks.tiny import begin, pretokenized, sharded, tiny_settings, write_corpus

LICENCE = "".join(
    f"# {line}\n"
    for line in (
        "Permission is granted, free of charge, to any person obtaining a copy of this file, to",
        "deal in it without restriction, provided that this notice is in all copies of it, and",
        "without warranty of any kind, express or implied, including fitness for a purpose.",
    )
)
WHOLE = ('shard.packing="whole"', 'filters.near_duplicates="off"')


@pytest.fixture
def settings(home: Path) -> PipelineSettings:
    write_corpus(home / "corpus")
    for path in (home / "corpus").iterdir():
        path.write_text(LICENCE + path.read_text())
    return tiny_settings(home, WHOLE)


def test_they_are_withheld_from_training_and_counted(settings: PipelineSettings) -> None:
    run = begin(settings)
    sharded(run, pretokenized(run, settings), settings)
    record = run.stage_records()["shard"]
    measured = record["measurements"]
    assert measured["withheld_rows"] > 20
    assert measured["leaked_rows"] == 0
    assert f" validation rows, {measured['withheld_rows']} withheld; " in summary(measured)
    assert {gate["id"]: gate["verdict"] for gate in record["gates"]}["shard.leak"] == "pass"


def test_a_gate_finds_them_if_they_are_not(
    settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_all(_: KnownRows, unit: Path, *, rows: Path, first_documents: Path) -> Any:
        adopt(unit / ROWS, rows)
        adopt(unit / FIRST_DOCUMENTS, first_documents)
        return np.empty((0, settings.shard.context_length + 1), "<u2")

    monkeypatch.setattr(KnownRows, "withhold", keep_all)
    run = begin(settings)
    tokens = pretokenized(run, settings)
    with pytest.raises(GateFailedError) as caught:
        sharded(run, tokens, settings)
    assert (caught.value.gate, caught.value.threshold) == ("shard.leak", 0)
    assert caught.value.value is not None
    assert caught.value.value > 20


def test_nothing_is_said_where_nothing_is_withheld(home: Path) -> None:
    write_corpus(home / "corpus")
    run, settings = begin(tiny_settings(home)), tiny_settings(home)
    sharded(run, pretokenized(run, settings), settings)
    measured = run.stage_records()["shard"]["measurements"]
    assert measured["withheld_rows"] == 0
    assert "withheld" not in STAGE.summary(measured)
