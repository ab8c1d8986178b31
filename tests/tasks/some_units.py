"""Units small enough for a test, which leave a mark outside whenever they are made."""

import json
import os
import signal
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from data.units import Given, Unit
from tasks.runtime import RuntimeSettings

INLINE = RuntimeSettings(
    num_threads=1,
    device="cpu",
    num_ranks=1,
    num_nodes=1,
    rendezvous="",
    parallelism="ddp",
    deterministic=False,
    compile="off",
    start_timeout_seconds=60.0,
    step_timeout_seconds=60.0,
    state_digest_steps=1,
    task_runner="inline",
    scheduler="",
    num_workers=2,
    fetch_requests=4,
    fetch_retries=2,
    fetch_patience_seconds=10.0,
)


def mark(marks: Path, name: str) -> None:
    """Say that a unit is being made."""
    marks.mkdir(parents=True, exist_ok=True)
    said = {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}
    (marks / f"{name}-{uuid.uuid4().hex}").write_text(json.dumps(said))


def said(marks: Path, key: str) -> set[Any]:
    """Return what the makers said of themselves."""
    return {json.loads(path.read_text())[key] for path in marks.glob("*")}


def marked(marks: Path) -> list[str]:
    """List what was made, once for each time."""
    return sorted(path.name.partition("-")[0] for path in marks.glob("*"))


def write(text: str, marks: Path, out: Path, *inputs: Path) -> None:
    """Write a text and what the inputs hold."""
    mark(marks, text)
    (out / "deep").mkdir()
    (out / "text").write_text(text + "".join((each / "text").read_text() for each in inputs))
    (out / "deep" / "bytes").write_bytes(text.encode() * 1000)


def letters(out: Path) -> int:
    """Count the letters of the text, as if they were tokens."""
    return len((out / "text").read_text())


def unit(
    text: str, marks: Path, *inputs: Unit | Given, aside: tuple[Unit | Given, ...] = ()
) -> Unit:
    """Return a unit that writes a text."""
    recipe = {"kind": "write", "version": 1, "text": text}
    return Unit(
        recipe=recipe,
        label=f"write {text}",
        make=partial(write, text, marks),
        inputs=inputs,
        aside=aside,
        count_tokens=letters,
    )


def die_once(text: str, marks: Path, out: Path) -> None:
    """Be killed without a word the first time."""
    first = text not in marked(marks)
    mark(marks, text)
    (out / "text").write_text(text)
    if first:
        # The others have begun, so that there is something to lose.
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)


def die(text: str, marks: Path, out: Path) -> None:
    """Be killed without a word."""
    mark(marks, text)
    os.kill(os.getpid(), signal.SIGKILL)


def linger(text: str, marks: Path, out: Path) -> None:
    """Take a while."""
    mark(marks, text)
    (out / "text").write_text(text)
    time.sleep(0.5)
    (marks.parent / f"{text}.done").touch()


def fail(error: Exception, out: Path) -> None:
    """Raise an error."""
    (out / "half").write_text("written")
    raise error


def of(make: partial[None], text: str) -> Unit:
    """Return a unit that does something."""
    return Unit(recipe={"kind": make.func.__name__, "text": text}, label=f"do {text}", make=make)
