"""What a checkpoint may be sealed from."""

from pathlib import Path
from typing import Any

import pytest

from evidence.refs import EvaluationRef
from model.errors import WrongSettingError
from tasks.checkpoint import scored_from
from tasks.evaluate import measure
from tasks.evaluate_errors import OutdatedEvaluationError
from tasks.loss_evaluation import CARRIED, FORWARD
from tasks.store import Artefact, Store, open_store
from tests.tasks.tiny import Finished, at_home

REF = EvaluationRef("0" * 64)
SCORED_A_FILE = {**dict.fromkeys((*CARRIED, FORWARD), "0"), "training": None, "epoch": None}


def scored(tmp_path: Path, content: dict[str, Any]) -> Artefact:
    return Artefact(REF, tmp_path, {"content": content})


def test_what_is_not_of_a_training_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(WrongSettingError) as caught:
        scored_from(Store(tmp_path), scored(tmp_path, SCORED_A_FILE))
    assert str(caught.value) == (
        "evaluation is evaluation:000000000000, should be the evaluation of a training's snapshot"
    )


def test_an_evaluation_that_does_not_say_what_it_scored_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(OutdatedEvaluationError):
        scored_from(Store(tmp_path), scored(tmp_path, {"training": None, "epoch": None}))


def test_the_card_tells_what_the_evaluation_measured_on_its_own_rows(finished: Finished) -> None:
    with at_home(finished.home):
        scored = open_store().open(finished.refs.evaluation)
        card = (open_store().open(finished.refs.checkpoint).directory / "README.md").read_text()
    found = measure(scored)
    row = f"{found['val_loss']:.4f} ± {found['val_loss_standard_error']:.4f}"
    assert f"| validation loss, nats per token | {row} | `{scored.ref.short}` |" in card
    assert f"| validation loss, bits per byte | {found['val_bits_per_byte']:.4f} ± " in card
