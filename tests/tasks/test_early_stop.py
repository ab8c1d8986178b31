"""A training that ends early is a success of its own kind, which later stages accept."""

from tasks.run_record import finish_run
from tasks.store import Store
from tasks.train_measure import summary
from tasks.verify import verify_run
from tests.tasks.tiny import EPOCH_STEPS, Finished, begin, evaluated, tiny_settings, train_again

# No improvement is this much larger than its own error.
IN_VAIN = (
    "train.early_stop_errors=1e9",
    "train.early_stop_patience=1",
    "train.early_stop_min_epochs=1",
    "train.target_val_loss=0.5",
)


def test_an_early_stop_is_recorded_verified_and_evaluated(copied: Finished) -> None:
    settings = tiny_settings(copied.home, IN_VAIN)
    run = begin(settings, "early")
    training = train_again(run, copied.refs.shards, settings)
    evaluated(run, training, copied.refs.shards, settings)
    finish_run(run, "completed", None)

    record = run.stage_records()["train"]
    measured = record["measurements"]
    assert measured["outcome"] == "EARLY_STOP"
    assert measured["steps"] == measured["steps_due"] == 2 * EPOCH_STEPS
    assert measured["steps_planned"] == 3 * EPOCH_STEPS
    assert summary(measured).endswith("nats, EARLY_STOP")
    assert [gate["id"] for gate in record["gates"] if gate["verdict"] == "FAIL"] == []
    index = Store(copied.home / "store").open(training).index["content"]
    assert (index["outcome"], index["num_steps"]) == ("EARLY_STOP", 2 * EPOCH_STEPS)
    assert verify_run(run).failures == []
