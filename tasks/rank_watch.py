"""Watch the ranks of a training from outside: who is gone, who is silent, what they said last."""

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tasks.errors import TaskError
from tasks.pulse import HOST, Pulse, read_pulse
from tasks.rank import Words, read_statuses, read_words
from tasks.train_errors import StoppedError, WorkerDiedError, WorkerFailedError, WorkerHungError
from tasks.train_job import Job

GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
GONE_SECONDS = 0.01
"How often it is looked whether a rank that was ended is gone."
TELL_SECONDS = 5.0
"Within which other nodes tell why a rank of theirs is gone."


@dataclass(slots=True)
class RankWatch:
    """Looks at all ranks of one job, as often as it is asked."""

    control: Path
    job: Job
    begin: float = field(default_factory=time.monotonic)
    _asked: set[int] = field(default_factory=set)
    _suspect: int | None = None
    _seen: dict[int, tuple[Pulse, float]] = field(default_factory=dict)
    "Of ranks of other nodes: what each said last, and when that was first seen here."
    _crash: float | None = None

    @property
    def ranks(self) -> range:
        """The ranks by number."""
        return range(self.job.num_ranks)

    def pulses(self) -> dict[int, Pulse]:
        """Read the last sign of life of every rank that has given one."""
        found = {rank: read_pulse(self.control, rank) for rank in self.ranks}
        return {rank: self._timed(pulse) for rank, pulse in found.items() if pulse is not None}

    def words(self) -> dict[int, Words]:
        """Read the last words of every rank that has said any."""
        found = {rank: read_words(self.control, rank) for rank in self.ranks}
        return {rank: words for rank, words in found.items() if words is not None}

    def look(self) -> int | None:
        """Return the rank whose end is the end of all, if there is one.

        Who gave a reason comes first; then a rank that is gone without a word, because those that
        it leaves behind fail too; then the one that failed first.

        Raises: WorkerHungError.
        """
        pulses = self.pulses()
        dead = [rank for rank, pulse in pulses.items() if is_here(pulse) and not _lives(pulse.pid)]
        dead += [rank for rank in read_statuses(self.control) if rank not in dead]
        # Read after that: who is dead by now has left its words before.
        words = self.words()
        failed = [rank for rank in words if words[rank].kind == "failed"]
        gone = [rank for rank in dead if rank not in words]
        crashed = [rank for rank in words if words[rank].kind == "crashed"]
        crashed.sort(key=lambda rank: words[rank].seconds)
        if culprits := (*failed, *gone, *crashed):
            if self._must_wait(culprits[0] in crashed):
                return None
            return culprits[0]
        self._require_signs({rank: pulses.get(rank) for rank in self.ranks if rank not in words})
        return None

    def has_heard_all(self, over: float) -> bool:
        """Say whether nothing more is to be heard since the launcher here has ended.

        What other machines write takes a while to be seen.
        """
        if self.job.num_nodes == 1 or len(self.words()) == self.job.num_ranks:
            return True
        return time.monotonic() - over > TELL_SECONDS + 1

    def ask_to_stop(self) -> None:
        """Ask every rank of this machine that can be asked by now, once; they tell the others."""
        for rank, pulse in self.pulses().items():
            if is_here(pulse) and rank not in self._asked:
                _send(pulse.pid, signal.SIGTERM)
                self._asked.add(rank)

    def end(self) -> None:
        """End every rank that still runs here, at once, and wait until it is gone."""
        for pulse in filter(is_here, self.pulses().values()):
            _send(pulse.pid, signal.SIGKILL)
            while _lives(pulse.pid):
                time.sleep(GONE_SECONDS)

    def cause(self, rank: int | None, status: int, output: str) -> TaskError:
        """Say why the ranks ended: what one said, or that it said nothing.

        `status` and `output` are those of the process that was started.
        """
        words = self.words().get(rank or 0)
        if words is not None and words.kind == "failed":
            return WorkerFailedError(words.error, words.message, words.hint, words.outcome)
        if words is not None and words.kind == "stopped":
            return StoppedError(words.step, self.job.train.num_steps)
        pulse = self.pulses().get(rank or 0)
        if words is not None:
            output = words.message
        elif pulse is not None and self.job.num_ranks > 1:
            output = ""
        return WorkerDiedError(
            rank=rank or 0,
            num_ranks=self.job.num_ranks,
            step=pulse.step if pulse else 0,
            silent_seconds=time.monotonic() - pulse.seconds if pulse else None,
            status=status
            if self.job.num_ranks == 1
            else read_statuses(self.control).get(rank or 0),
            output=output,
        )

    def _timed(self, pulse: Pulse) -> Pulse:
        """Return a pulse with its time by the clock of this machine."""
        if is_here(pulse):
            return pulse
        last, seconds = self._seen.get(pulse.rank, (None, 0.0))
        if last != pulse:
            seconds = time.monotonic()
            self._seen[pulse.rank] = pulse, seconds
        return replace(pulse, seconds=seconds)

    def _must_wait(self, is_crash: bool) -> bool:  # noqa: FBT001
        """Say whether a crash here may follow from one elsewhere that is not told of yet."""
        if not is_crash or self.job.num_nodes == 1:
            return False
        self._crash = self._crash or time.monotonic()
        return time.monotonic() - self._crash < TELL_SECONDS

    def _require_signs(self, pulses: dict[int, Pulse | None]) -> None:
        late = [rank for rank, pulse in pulses.items() if self._overdue(pulse) > 0]
        if not late:
            self._suspect = None
            return
        rank = min(late, key=lambda each: _most_suspect(pulses.get(each)))
        if self._suspect is None:
            # A pulse may have been read while it was written: look once more.
            self._suspect = rank
            return
        raise self._hung(rank, pulses.get(rank))

    def _overdue(self, pulse: Pulse | None) -> float:
        since = pulse.seconds if pulse else self.begin
        return time.monotonic() - since - self._limit(pulse)[1]

    def _limit(self, pulse: Pulse | None) -> tuple[str, float]:
        if pulse is None or pulse.doing == "starting":
            return "runtime.start_timeout_seconds", self.job.start_timeout_seconds
        return "runtime.step_timeout_seconds", self.job.step_timeout_seconds

    def _hung(self, rank: int, pulse: Pulse | None) -> WorkerHungError:
        setting, seconds = self._limit(pulse)
        return WorkerHungError(
            rank=rank,
            num_ranks=self.job.num_ranks,
            step=pulse.step if pulse else 0,
            silent_seconds=time.monotonic() - pulse.seconds if pulse else None,
            doing=pulse.doing if pulse else "starting",
            setting=setting,
            limit_seconds=seconds,
        )


def is_here(pulse: Pulse) -> bool:
    """Return whether a rank is a process of this machine."""
    return pulse.host == HOST


def _most_suspect(pulse: Pulse | None) -> tuple[bool, bool, float]:
    """Order by suspicion: stopped by somebody, then not waiting for others, then longest silent."""
    if pulse is None:
        return False, False, 0.0
    stopped = is_here(pulse) and _stopped(pulse.pid)
    return not stopped, pulse.doing == "waiting for other ranks", pulse.seconds


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).send_signal(number)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in GONE
    except psutil.NoSuchProcess:
        return False


def _stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return True
