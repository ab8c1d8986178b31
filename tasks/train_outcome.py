"""One word for how a training ended.

A word that promises success is earned: `CONVERGED` needs the target, whatever the budget.
"""

CONVERGED = "CONVERGED"
EARLY_STOP = "EARLY_STOP"
BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"

DIVERGENCE = "DIVERGENCE"
NUMERICAL_INSTABILITY = "NUMERICAL_INSTABILITY"
LOSS_SPIKE = "LOSS_SPIKE"
STREAM_EXHAUSTED = "STREAM_EXHAUSTED"
DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"
DEVICE_UNPROVEN = "GPU_RESIDENCY_PROOF_FAILED"
THROUGHPUT_OUT_OF_RANGE = "THROUGHPUT_OUT_OF_RANGE"
DATA_LEAK = "DATA_LEAK"
NOT_LEARNING = "NOT_LEARNING"
WRONG_MODEL = "WRONG_MODEL"
INCONSISTENT_LOG = "INCONSISTENT_LOG"
FAILED = "FAILED"

_OF_ERROR = {
    "NonFiniteError": NUMERICAL_INSTABILITY,
    "LossSpikeError": LOSS_SPIKE,
    "StreamExhaustedError": STREAM_EXHAUSTED,
    "DeviceUnavailableError": DEVICE_UNAVAILABLE,
}
OF_GATE = {
    "train.device": DEVICE_UNPROVEN,
    "train.busy": DEVICE_UNPROVEN,
    "train.held-out": DATA_LEAK,
    "train.leak": DATA_LEAK,
    "train.too-good": DATA_LEAK,
    "train.validation": NOT_LEARNING,
    "train.resolution": NOT_LEARNING,
    "train.unigram": NOT_LEARNING,
    "train.floor": NOT_LEARNING,
    "train.val-floor": NOT_LEARNING,
    "train.constant": NOT_LEARNING,
    "train.moves": NOT_LEARNING,
    "train.wall": NOT_LEARNING,
    "train.spread": WRONG_MODEL,
    "train.shape": WRONG_MODEL,
    "train.forward": WRONG_MODEL,
    "train.gradient": WRONG_MODEL,
    "train.resume": WRONG_MODEL,
    "train.ceiling": DIVERGENCE,
    "train.stable": DIVERGENCE,
    "train.peak": THROUGHPUT_OUT_OF_RANGE,
    "train.throughput": THROUGHPUT_OUT_OF_RANGE,
    "train.complete": INCONSISTENT_LOG,
    "train.order": INCONSISTENT_LOG,
    "train.updates": INCONSISTENT_LOG,
    "train.schedule": INCONSISTENT_LOG,
    "train.tokens": INCONSISTENT_LOG,
    "train.sum": INCONSISTENT_LOG,
    "train.cursor": INCONSISTENT_LOG,
    "train.restored": INCONSISTENT_LOG,
}
"""What it means that a gate stopped the training."""


def success(best_val_loss: float, target_val_loss: float, *, ended_early: bool) -> str:
    """Return the word for a training that ended as it should."""
    if best_val_loss <= target_val_loss:
        return CONVERGED
    return EARLY_STOP if ended_early else BUDGET_EXHAUSTED


def failure(error: Exception) -> str:
    """Return the word for what stopped a training."""
    gate = getattr(error, "gate", None)
    if isinstance(gate, str):
        return OF_GATE.get(gate, FAILED)
    return _OF_ERROR.get(type(error).__name__, FAILED)
