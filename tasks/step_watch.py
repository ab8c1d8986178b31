"""What every line of the step log is compared with: the plan, and the lines before it.

The training worker judges each line as it is written; whoever measures a finished training feeds
all lines again, and gets the same numbers.
"""

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.schedule import learning_rate
from model.state_digest import is_digested
from model.train_settings import TrainSettings

FIELDS = frozenset(
    {
        "step",
        "updates",
        "train_loss",
        "grad_norm",
        "update_norm",
        "learning_rate",
        "tokens",
        "tokens_seen",
        "cursor_rows",
        "batch_digest",
        "leaked_rows",
        "tokens_per_second",
        "wall_seconds",
        "time",
    }
)
"""What a step is on every device."""
GPU_FIELDS = frozenset({"gpu_utilization_percentage", "gpu_memory_megabytes"})
"""What NVML adds."""
STATE_DIGEST = "state_digest"
"""What is added on every device where it is due: see `model.state_digest`."""
DIGEST_STEPS = "state_digest_steps"
"""A start's line says by this key how often it is due."""
DIGEST = re.compile("[0-9a-f]{16}")
MFU = "mfu_c1"
"""Model FLOPs utilisation by convention C1 of `model.flops`, where the device's peak is known."""
SPIKE = "spike"
"""A line with this key is a batch that was answered and not learnt from; its value names what."""
BACK_TO = "back_to_step"
"""A spike's line with this key undid all steps after that one."""
WALL_WINDOW = 64
MIN_WALLS = 16
"""Steps before times are compared: the first ones also warm up caches and compilers."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What a training was asked for, as far as single steps show it."""

    train: TrainSettings
    context_length: int
    uniform_nats: float


class StepWatch:
    """Measures lines in the order in which they were written."""

    def __init__(self, plan: StepPlan, starts: Sequence[Row]) -> None:
        self.plan = plan
        self._starts = starts
        "What a line must hold depends on the device on which its worker started."
        self._step = 0
        self._tokens_seen = 0
        self._cursor_rows = 0
        self._last: dict[str, float] = {}
        self._repeats = {"train_loss": 1, "grad_norm": 1}
        self._walls: deque[float] = deque(maxlen=WALL_WINDOW)

    def measure(self, row: Row) -> dict[str, float]:
        """Compare a line with what it should follow from."""
        if SPIKE in row:
            return self._measure_spike(row)
        flawed = self._num_flawed(row)
        if flawed:
            # Nothing else can be told of such a line.
            return {"flawed_fields": flawed}
        measured = {
            "flawed_fields": 0,
            **self._against_the_plan(row),
            **self._cursor(row),
            "repeated_values": self._count_repeats(row),
            **self._wall(row),
        }
        self._step, self._tokens_seen = row["step"], row["tokens_seen"]
        return measured

    def _measure_spike(self, row: Row) -> dict[str, float]:
        measured = self._cursor(row)
        if BACK_TO in row:
            self._step, self._tokens_seen = row[BACK_TO], row["tokens_seen"]
        return measured

    def _num_flawed(self, row: Row) -> int:
        fields = self._fields(row)
        odd = row.keys() ^ fields
        kept = row.keys() & fields
        return len(odd) + sum(not _is_measured(name, row[name]) for name in kept)

    def _fields(self, row: Row) -> frozenset[str]:
        said = row.get("cursor_rows")
        cursor = said if isinstance(said, int) else math.inf
        # A start whose work was lost is followed by one at the same place, or an earlier one.
        before = [start for start in self._starts if start["cursor_rows"] < cursor]
        if not before:
            return FIELDS
        step, every = row.get("step"), before[-1].get(DIGEST_STEPS)
        due = every and isinstance(step, int) and is_digested(step, every, self.plan.train)
        return frozenset(before[-1]["fields"]) | ({STATE_DIGEST} if due else set())

    def _against_the_plan(self, row: Row) -> dict[str, float]:
        train = self.plan.train
        most_tokens = train.batch_rows * self.plan.context_length
        measured = {
            "step_error": abs(row["step"] - self._step - 1),
            "updates_error": abs(row["updates"] - row["step"]),
            "schedule_error": abs(row["learning_rate"] - learning_rate(row["step"], train)),
            "update_norm": row["update_norm"],
            "excess_tokens": max(0, row["tokens"] - most_tokens),
            "tokens_error": abs(row["tokens_seen"] - self._tokens_seen - row["tokens"]),
            "leaked_rows": row["leaked_rows"],
            "smallest_train_loss": row["train_loss"],
            "loss_to_uniform": row["train_loss"] / self.plan.uniform_nats,
        }
        if MFU in row:
            measured["largest_mfu"] = row[MFU]
        return measured

    def _cursor(self, row: Row) -> dict[str, float]:
        expected = self._cursor_rows + self.plan.train.batch_rows
        self._cursor_rows = row["cursor_rows"]
        return {"cursor_error": abs(self._cursor_rows - expected)}

    def _count_repeats(self, row: Row) -> int:
        """Count how many steps in a row, up to this one, reported one same value."""
        for name in self._repeats:
            same = self._last.get(name) == row[name]
            self._repeats[name] = self._repeats[name] + 1 if same else 1
            self._last[name] = row[name]
        return max(self._repeats.values())

    def _wall(self, row: Row) -> dict[str, float]:
        earlier = list(self._walls)
        self._walls.append(row["wall_seconds"])
        if len(earlier) < MIN_WALLS:
            return {}
        # Not the usual one: other work on the machine makes steps many times slower, none faster.
        return {"wall_to_fastest": row["wall_seconds"] / min(earlier)}


def _is_measured(name: str, value: object) -> bool:
    if name in ("batch_digest", STATE_DIGEST):
        return isinstance(value, str) and bool(DIGEST.fullmatch(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if name == "tokens_per_second":
        return value > 0
    return value >= 0 and not (name == "gpu_utilization_percentage" and value > 100)
