"""Recorded checks are done over: they agree with an honest run, and with no other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.apr_model import read_model, write_model
from tasks.errors import NotFoundError
from tasks.recheck import recheck
from tasks.rechecked import Rechecked
from tests.tasks.tampering import edit_rows, forge
from tests.tasks.tiny import Finished


def results(finished: Finished, stage: str | None = None) -> dict[str, Rechecked]:
    found = recheck(finished.run, stage, "cpu")
    return {f"{each.stage}: {one.check}": one for each in found for one in each.results}


def failing(finished: Finished, stage: str) -> list[str]:
    return [name for name, each in results(finished, stage).items() if not each.holds]


def test_an_honest_run_gives_every_recorded_number_again(reading: Finished) -> None:
    found = results(reading)
    assert [name for name, each in found.items() if not each.holds] == []
    assert {name for name in found if ": spread of " not in name} == {
        "pretokenize: documents that encode to other ids",
        "shard: unigram_nats",
        "shard: bigram_nats",
        "shard: five_gram_nats",
        "shard: validation rows in training",
        "train: tokens of steps",
        "train: loss of step 17",
        "train: loss of step 33",
        "train: validation loss of epoch 2",
        "evaluate: digest of the model",
        "evaluate: validation loss",
        "checkpoint: validation loss of model.apr",
        "bisect: sites",
        "bisect: differing_sites",
    }
    assert sum(": spread of " in name for name in found) == 35
    assert found["pretokenize: documents that encode to other ids"].n == 40
    assert found["train: tokens of steps"].measured == 12_288
    assert found["evaluate: validation loss"].measured == pytest.approx(
        reading.run.stage_records()["evaluate"]["measurements"]["val_loss"], abs=1e-6
    )


def test_a_step_log_that_claims_other_tokens_and_losses_is_found_out(copied: Finished) -> None:
    def edit(rows: list[dict[str, float]]) -> None:
        rows[16]["train_loss"] *= 1.01
        rows[20]["tokens"] -= 1

    forge(copied, copied.refs.training, edit_rows(edit))
    assert failing(copied, "train") == ["train: tokens of steps", "train: loss of step 17"]


def test_weights_that_never_had_the_recorded_losses_are_found_out(copied: Finished) -> None:
    def edit(directory: Path) -> None:
        path = directory / "ckpt" / "epoch-002.apr"
        settings, tensors = read_model(path)
        changed = {name: tensor * 1.01 for name, tensor in tensors.items()}
        tokenizer_json = copied.store.open(copied.refs.shards).directory / "tokenizer.json"
        path.unlink()
        write_model(
            path, settings, changed, tokenizer_json=tokenizer_json.read_text(), provenance={}
        )

    forge(copied, copied.refs.training, edit)
    assert failing(copied, "train") == ["train: validation loss of epoch 2"]


def test_an_evaluation_of_losses_that_were_never_measured_is_found_out(copied: Finished) -> None:
    def edit(directory: Path) -> None:
        path = directory / "documents.parquet"
        table = pq.read_table(path)
        nats = np.array(table["nats"]) * 0.99
        place = table.column_names.index("nats")
        pq.write_table(table.set_column(place, "nats", [nats]), path)

    forge(copied, copied.refs.evaluation, edit)
    assert failing(copied, "evaluate") == ["evaluate: validation loss"]
    assert failing(copied, "checkpoint") == ["checkpoint: validation loss of model.apr"]


def test_tokens_that_are_not_those_of_their_text_are_found_out(copied: Finished) -> None:
    """Two ids for what the tokenizer would merge: the text is the same, the tokens are not."""

    def edit(directory: Path) -> None:
        path = directory / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        del tokenizer["model"]["merges"][-1]
        # A merge less leaves its token in the vocabulary, which no merge makes then.
        path.write_text(json.dumps(tokenizer))

    forge(copied, copied.refs.tokens, edit)
    assert failing(copied, "pretokenize") == ["pretokenize: documents that encode to other ids"]


def test_baselines_that_were_never_counted_are_found_out(copied: Finished) -> None:
    record = copied.run.stage_records()["shard"]
    record["measurements"]["bigram_nats"] += 1e-6
    path = copied.run.directory / "shard.metadata.json"
    from evidence.records import write_record

    write_record(path, {key: record[key] for key in record if key != "record_sha256"})
    assert failing(copied, "shard") == ["shard: bigram_nats"]


def test_a_trace_with_another_spread_is_found_out(copied: Finished) -> None:
    def edit(directory: Path) -> None:
        path = directory / "trace.json"
        trace = json.loads(path.read_text())
        trace["taps"][4]["statistics"]["std"] *= 1.01
        path.write_text(json.dumps(trace))

    site = "layer"
    forge(copied, copied.refs.trace, edit)
    found = failing(copied, "bisect")
    assert len(found) == 1
    assert site in found[0] or "spread of" in found[0]


@pytest.mark.parametrize(
    ("kind", "stage"), [("shards", "train"), ("training", "evaluate"), ("evaluation", "checkpoint")]
)
def test_an_input_that_is_gone_is_refused_by_name(copied: Finished, kind: str, stage: str) -> None:
    shutil.rmtree(copied.home / "store" / kind)
    with pytest.raises(NotFoundError) as caught:
        results(copied, stage)
    assert caught.value.what.startswith(f"artefact {kind}:")


def test_a_stage_that_the_run_has_not_is_refused(copied: Finished) -> None:
    (copied.run.directory / "bisect.metadata.json").unlink()
    with pytest.raises(NotFoundError, match="no finished stage bisect"):
        results(copied, "bisect")


@pytest.mark.parametrize(
    ("recorded", "measured", "bar", "relative", "holds"),
    [
        (2.0, 2.001, 0.001, True, True),
        (2.0, 2.003, 0.001, True, False),
        (2.0, 2.003, 0.01, False, True),
        (0, 0, 0, False, True),
        (0, 1, 0, False, False),
        (2.0, float("nan"), 1.0, False, False),
        ("ab", "ab", 0, False, True),
        ("ab", "ac", 9, False, False),
    ],
)
def test_a_check_holds_within_its_bar(
    recorded: float | str, measured: float | str, bar: float, *, relative: bool, holds: bool
) -> None:
    each = Rechecked(
        check="x", recorded=recorded, measured=measured, bar=bar, relative=relative, n=1
    )
    assert each.holds == holds
    assert each.verdict == ("holds" if holds else "FAILS")
