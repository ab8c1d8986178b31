"""The gates of a training: before its first step, at every step, after every epoch, at its end.

The worker judges the first three kinds while it trains, and stops there and then. A finished
training is judged by all of them at once, each by its worst measurement (`worst`).
"""

from collections.abc import Iterable, Mapping

from evidence.gates import Gate

HOLD_OUT_MORE = "raise pretokenize.validation_fraction, or use a larger corpus"

START_GATES = (
    Gate(
        id="train.device",
        sentence="every weight is on the device that was asked for",
        measured="misplaced_tensors",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.held-out",
        sentence="no validation document is a training document",
        measured="shared_documents",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.validation",
        sentence="validation has enough batches for its mean to mean something",
        measured="val_batches",
        operator=">=",
        threshold="thresholds.min_val_batches",
        hint=HOLD_OUT_MORE,
    ),
    Gate(
        id="train.spread",
        sentence="every new matrix has the spread that the architecture plans",
        measured="spread_error",
        operator="<=",
        threshold="thresholds.max_spread_error",
        if_measured=True,
    ),
    Gate(
        id="train.shape",
        sentence="every new matrix has the tails of a normal distribution",
        measured="kurtosis_error",
        operator="<=",
        threshold="thresholds.max_kurtosis_error",
        if_measured=True,
    ),
    Gate(
        id="train.forward",
        sentence="the model predicts what a plain float64 implementation does",
        measured="forward_error",
        operator="<=",
        threshold="thresholds.max_forward_error",
    ),
    Gate(
        id="train.gradient",
        sentence="the accumulated gradient is the slope of a plain float64 loss",
        measured="gradient_error",
        operator="<=",
        threshold="thresholds.max_gradient_error",
    ),
    Gate(
        id="train.resume",
        sentence="the resumed model scores what it scored when it was saved",
        measured="resume_drift",
        operator="<=",
        threshold="thresholds.max_reload_drift",
        if_measured=True,
    ),
    Gate(
        id="train.restored",
        sentence="the resumed state is, bit for bit, the one that was logged",
        measured="changed_states",
        operator="==",
        threshold=0,
        if_measured=True,
    ),
)

STEP_GATES = (
    Gate(
        id="train.complete",
        sentence="a step reports every field that this device can measure, and no other",
        measured="flawed_fields",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.order",
        sentence="a step follows the one before it",
        measured="step_error",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.updates",
        sentence="the optimizer has made one update a step",
        measured="updates_error",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.schedule",
        sentence="the optimizer's learning rate is the schedule's",
        measured="schedule_error",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.moves",
        sentence="an update changes the weights",
        measured="update_norm",
        operator=">",
        threshold=0,
    ),
    Gate(
        id="train.tokens",
        sentence="no step counts more tokens than its rows hold",
        measured="excess_tokens",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.sum",
        sentence="the tokens seen are the sum of those of the steps",
        measured="tokens_error",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.cursor",
        sentence="a step begins in the data where the one before it ended",
        measured="cursor_error",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.leak",
        sentence="no row that is learnt from is a validation row",
        measured="leaked_rows",
        operator="<=",
        threshold="thresholds.max_leaked_rows",
        hint="shard the tokens again: `assay shard` leaves such rows out",
    ),
    Gate(
        id="train.constant",
        sentence="loss and gradient norm change from step to step",
        measured="repeated_values",
        operator="<=",
        threshold="thresholds.max_repeated_values",
    ),
    Gate(
        id="train.floor",
        sentence="the training loss is not lower than text can be predicted",
        measured="smallest_train_loss",
        operator=">=",
        threshold="thresholds.min_loss_nats",
    ),
    Gate(
        id="train.ceiling",
        sentence="the training loss is not above that of a uniform guess",
        measured="loss_to_uniform",
        operator="<=",
        threshold="thresholds.max_loss_to_uniform",
    ),
    Gate(
        id="train.wall",
        sentence="no step takes a fraction of the time of the fastest before it",
        measured="wall_to_fastest",
        operator=">=",
        threshold="thresholds.min_wall_to_fastest",
        if_measured=True,
    ),
    Gate(
        id="train.peak",
        sentence="no step is faster than the device can be",
        measured="largest_mfu",
        operator="<=",
        threshold="thresholds.max_mfu",
        if_measured=True,
    ),
)

EPOCH_GATES = (
    Gate(
        id="train.stable",
        sentence="the validation loss stays near that of the epoch before",
        measured="val_loss_growth",
        operator="<=",
        threshold="thresholds.max_val_loss_growth",
    ),
    Gate(
        id="train.val-floor",
        sentence="the validation loss is not lower than text can be predicted",
        measured="smallest_val_loss",
        operator=">=",
        threshold="thresholds.min_loss_nats",
    ),
    Gate(
        id="train.unigram",
        sentence="after the warm-up the model predicts better than a table of token frequencies",
        measured="val_loss_to_unigram",
        operator="<=",
        threshold="thresholds.max_loss_to_unigram",
        if_measured=True,
    ),
    Gate(
        id="train.too-good",
        sentence="validation is not better than training, in standard errors",
        measured="val_below_train_errors",
        operator="<=",
        threshold="thresholds.max_val_below_train_errors",
        if_measured=True,
    ),
    Gate(
        id="train.resolution",
        sentence="validation is large enough to see an improvement worth an epoch",
        measured="improvement_error_nats",
        operator="<=",
        threshold="thresholds.max_improvement_error_nats",
        hint=HOLD_OUT_MORE,
        if_measured=True,
    ),
    Gate(
        id="train.overfit",
        sentence="validation does not fall behind training, in standard errors",
        measured="gap_growth_errors",
        operator="<=",
        threshold="thresholds.max_gap_growth_errors",
        required=False,
        if_measured=True,
    ),
    Gate(
        id="train.throughput",
        sentence="the device does a fair share of the work that it could",
        measured="epoch_mfu_c1",
        operator=">=",
        threshold="thresholds.min_mfu",
        if_measured=True,
    ),
    Gate(
        id="train.busy",
        sentence="the device is busy in most steps",
        measured="gpu_busy_share",
        operator=">=",
        threshold="thresholds.min_gpu_busy_share",
        if_measured=True,
    ),
)

END_GATES = (
    Gate(
        id="train.budget",
        sentence="exactly the planned steps were executed, or those until an early stop",
        measured="steps",
        operator="==",
        threshold="steps_due",
    ),
    Gate(
        id="train.learned",
        sentence="validation loss ended below the first training loss",
        measured="val_loss",
        operator="<",
        threshold="first_train_loss",
    ),
    Gate(
        id="train.digests",
        sentence="the recorded digests of weights and optimizer are those of the files",
        measured="wrong_digests",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.moved",
        sentence="no epoch left the weights of another",
        measured="repeated_weights",
        operator="==",
        threshold=0,
    ),
    Gate(
        id="train.target",
        sentence="the best validation loss reached the target",
        measured="best_val_loss",
        operator="<=",
        threshold="target_val_loss",
        required=False,
    ),
)

TRAIN_GATES = (*START_GATES, *STEP_GATES, *EPOCH_GATES, *END_GATES)


def worst(
    gates: Iterable[Gate], measured: Iterable[Mapping[str, float | None]]
) -> dict[str, float | None]:
    """Take from many measurements of each gate the one that is furthest from passing.

    An absent number is the worst of all; what was never measured stays absent.
    """
    rows = list(measured)
    found: dict[str, float | None] = {}
    for gate in gates:
        values = [row[gate.measured] for row in rows if gate.measured in row]
        if values:
            numbers = [value for value in values if value is not None]
            choose = min if gate.operator in (">", ">=") else max
            found[gate.measured] = choose(numbers) if len(numbers) == len(values) else None
    return found
