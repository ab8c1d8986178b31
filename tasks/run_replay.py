"""Replay a recorded run's training, and leave evidence: what was recorded, what came of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from evidence.canonical import finite, pretty
from tasks.loss_turns import LargestSpike, Regression, find_regression, largest_spike
from tasks.parting import FACTS
from tasks.recorded_training import RecordedTraining
from tasks.recording import recording_the_end
from tasks.replay import Replay, replay_line, require_step
from tasks.run_record import Run, start_run

RESULT = "replay.json"
TEXT = "replay.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a training's log shows, and what replays of it gave."""

    replays: list[Replay]
    spike: LargestSpike | None = None
    regression: Regression | None = None

    @property
    def verdicts(self) -> list[str]:
        """Every replay's verdict."""
        return [replay.verdict for replay in self.replays]


def replay_run(name: str, training: str, step: int | None) -> tuple[Run, Findings]:
    """Replay a step of a run, or those that stand out, and record it.

    Raises: NotFoundError, and those of `require_step` and `replay_line`.
    """
    recorded = RecordedTraining.of(training)
    line = None if step is None else require_step(recorded, step)
    run = start_run(name, {}, {"flow": "replay", "run": recorded.run.name, "step": step})
    with recording_the_end(run):
        if line is not None:
            found = Findings(replays=[replay_line(recorded, line)])
        else:
            found = _search(recorded)
        result = {**asdict(found), "verdicts": found.verdicts}
        (run.directory / RESULT).write_bytes(pretty(finite(result)))
        (run.directory / TEXT).write_text(findings_text(found))
    return run, found


def _search(training: RecordedTraining) -> Findings:
    """Replay what stands out: the largest spike, and where the validation loss rose."""
    spike, regression = largest_spike(training), find_regression(training)
    lines = [spike.line] if spike else []
    if regression and (not spike or spike.line["step"] != regression.step):
        lines.append(require_step(training, regression.step))
    replays = [replay_line(training, line) for line in lines]
    return Findings(replays=replays, spike=spike, regression=regression)


def findings_text(found: Findings) -> str:
    """Write findings as a page of Markdown."""
    parts = [
        *([_spike_sentence(found.spike)] if found.spike else []),
        *([_regression_sentence(found.regression)] if found.regression else []),
        *(part for replay in found.replays for part in (replay_sentence(replay), _table(replay))),
    ]
    return "\n\n".join(parts or ["the log is too short to show anything"]) + "\n"


def replay_sentence(replay: Replay) -> str:
    """Say whether a step reproduces, and if not, where its stretch first departs."""
    made = f"{replay.num_lines} steps from {replay.begun}"
    said = [f"step {replay.step} {replay.verdict}: {made}"]
    if replay.parting:
        p = replay.parting
        values = f"{p.fact} was {p.left!r} and is {p.right!r}"
        said.append(f"first at step {p.step}, {values} ({p.kind}: {p.look})")
    if replay.error:
        said.append(f"the replay ended: {replay.error}")
    if replay.floor is not None:
        said += [_noise(replay)]
    if replay.surroundings:
        told = (f"{key} {was} then, {now} now" for key, (was, now) in replay.surroundings.items())
        said.append(", ".join(told))
    return "; ".join(said)


def _noise(replay: Replay) -> str:
    floor = replay.floor or {}
    if not any(floor.values()):
        return "two replays agree bit for bit"
    told = (f"{name} {replay.distance[name]:.1e} ({floor[name]:.1e})" for name in floor)
    return f"relative difference (that of two replays): {', '.join(told)}"


def _spike_sentence(spike: LargestSpike) -> str:
    above = f"{spike.deviations:.1f} deviations above the {spike.num_before} steps before"
    is_spike = "a spike" if spike.deviations > spike.bound else "no spike"
    return (
        f"largest spike: step {spike.line['step']}, {spike.quantity} {spike.value:.4g}, {above} "
        f"(mean {spike.mean:.4g}); by the training's bound of {spike.bound:g}, {is_spike}"
    )


def _regression_sentence(found: Regression) -> str:
    rose = f"{found.val_loss_before:.6g} to {found.val_loss_after:.6g}"
    recorded = found.recorded_after
    other = "" if recorded in (None, found.val_loss_after) else f", recorded as {recorded:.6g}"
    return (
        f"validation loss rose from {rose} over steps {found.first_step} to {found.last_step}, "
        f"and passed the middle at step {found.step} "
        f"({len(found.val_losses)} evaluations{other})"
    )


def _table(replay: Replay) -> str:
    return "\n".join(["| fact | recorded | replayed |", "|---|---|---|", *_rows(replay)])


def _rows(replay: Replay) -> Iterator[str]:
    replayed: Any = replay.replayed or {}
    for fact in FACTS:
        if fact in replay.recorded or fact in replayed:
            values = (each.get(fact, "-") for each in (replay.recorded, replayed))
            yield f"| {fact} | " + " | ".join(str(value) for value in values) + " |"
