"""Turn a stage's function into a Prefect task, and its record into artifacts.

Only a worker that died without a word is tried again: no other failure would go away.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import prefect
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.runtime import flow_run, task_run
from prefect.states import Completed

from tasks.prefect_view import shown
from tasks.progress import say_done
from tasks.reuse import is_reused, say_reused
from tasks.run_record import Run
from tasks.stage import Stage
from tasks.train_errors import WorkerDiedError

NUM_RETRIES = 2
RETRY_SECONDS = 2.0

P = ParamSpec("P")
R = TypeVar("R")


class StageTask(prefect.Task[P, R]):
    """A task that returns what it made, also where Prefect was given the state around it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        """Perform the stage."""
        made: Any = super().__call__(*args, **kwargs)
        return cast("R", made.result() if isinstance(made, State) else made)


def stage_task(name: str, task_run_name: str) -> Callable[[Callable[P, R]], StageTask[P, R]]:
    """Make a Prefect task of a function that performs a stage."""

    def make(function: Callable[P, R]) -> StageTask[P, R]:
        return StageTask(
            _saying_whether_reused(function),
            name=name,
            task_run_name=task_run_name,
            # The store decides what has been done; Prefect's cache does not look at the data.
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=NUM_RETRIES,
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=_is_retryable,
        )

    return make


def _saying_whether_reused(function: Callable[P, R]) -> Callable[P, R]:
    """Have Prefect call a stage that was served from the store Reused, where it shows states."""

    @functools.wraps(function)
    def performed(*args: P.args, **kwargs: P.kwargs) -> R:
        say_reused(is_reused=False)
        result = function(*args, **kwargs)
        if is_reused() and TaskRunContext.get() is not None:
            reused: State[Any] = Completed(name="Reused", data=result)
            return reused  # type: ignore[return-value]  # Prefect takes a state for the task's
        return result

    return performed


def _is_retryable(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, WorkerDiedError)


def tracking() -> dict[str, str | None]:
    """Return the ids by which Prefect knows the current work; None outside of a run."""
    return {
        "prefect_flow_run_id": flow_run.id,
        "prefect_task_run_id": task_run.id,
    }


def publish(run: Run, stage: Stage, record: Mapping[str, Any]) -> None:
    """Say on the terminal and show in the Prefect UI what a stage did."""
    name, summary = stage.name, stage.summary(record["measurements"])
    say_done(name, summary, record)
    say_reused(is_reused=record["reused_from"] is not None)
    if TaskRunContext.get() is None:
        return
    source = f" (reused from {record['reused_from']})" if record["reused_from"] else ""
    get_run_logger().info("%s: %s%s", name, summary, source)
    text, rows = _markdown(run, record, summary), gate_rows(record["gates"])
    shown(
        lambda: create_markdown_artifact(
            text, key=f"{name}-summary", description=f"What {name} measured"
        )
    )
    shown(lambda: create_table_artifact(rows, key=f"{name}-gates", description=f"Gates of {name}"))


def gate_rows(gates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out verdicts as a table."""
    return [
        {
            "gate": gate["id"],
            "holds when": gate["sentence"],
            "measured": gate["value"],
            "should be": f"{gate['operator']} {gate['threshold_value']}",
            "verdict": gate["verdict"],
        }
        for gate in gates
    ]


def _markdown(run: Run, record: Mapping[str, Any], summary: str) -> str:
    source = (
        f", reused from `{record['reused_from']}`, whose recipe `{record['recipe_sha256'][:12]}` "
        "is the same"
        if record["reused_from"]
        else ""
    )
    lines = [f"**{record['stage']}**: {summary}{source}", "", "| measured | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in record["measurements"].items()]
    lines += ["", f"`{record['output']}`, recorded in `{run.directory}`"]
    return "\n".join(lines)
