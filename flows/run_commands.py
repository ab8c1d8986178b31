"""Commands that make something: the pipeline, and each stage as a flow of its own."""

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flows.errors import WrongUseError, WrongValueError
from flows.screen import err, out, show_json, show_table

Preset = Annotated[str, typer.Option(help="A preset that comes with assay, or a TOML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
Name = Annotated[str | None, typer.Option(help="First part of the run's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


DEMO = "demo"
TRAINING_FLOWS = ("pipeline", "train")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (run, fetch, pretokenize, shard, train, evaluate, checkpoint):
        app.command()(command)


def run(
    preset: Preset = DEMO,
    set_: Set = None,
    name: Name = None,
    plan: Annotated[
        str | None, typer.Option(help="Carry out a plan of `assay plan`: its path or digest.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Run the whole pipeline."""
    if plan is not None:
        preset, name = _by_plan(plan, preset, set_, name)
    run_recorded("flows.pipeline", "pipeline", preset, set_, name, json=json)


def _by_plan(
    plan: str, preset: str, set_: Sequence[str] | None, name: str | None
) -> tuple[str, str]:
    """Return the registered plan as a preset, and the run's name.

    Raises: WrongUseError, NotFoundError, OtherVersionError.
    """
    from tasks.preregistration import find_plan, read_plan
    from tasks.verify import STAGE_OF

    if preset != DEMO or set_:
        raise WrongUseError("assay run", "--plan without --preset and --set")
    path = find_plan(plan)
    found = read_plan(path, {stage: each.version for stage, each in STAGE_OF.items()})
    return str(path.absolute()), name or str(found["name"])


def fetch(
    preset: Preset = "demo",
    set_: Set = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Fetch the contents that the preset's source only lists; others are read in place."""
    account = _flow("flows.stages", "fetch_flow", preset, set_)
    if json:
        show_json(account)
        return
    show_table([account])


def pretokenize(
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Make token files of the preset's source."""
    run_recorded("flows.stages", "pretokenize_flow", preset, set_, name, json=json)


def shard(
    tokens: Annotated[str, typer.Option(help="Ref of token files.")],
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Make shuffled rows of token files."""
    run_recorded("flows.stages", "shard_flow", preset, set_, name, json=json, tokens=tokens)


def train(
    shards: Annotated[str, typer.Option(help="Ref of shards.")],
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Train a model, or go on training it."""
    run_recorded("flows.stages", "train_flow", preset, set_, name, json=json, shards=shards)


def evaluate(
    shards: Annotated[str, typer.Option(help="Ref of the shards to score.")],
    training: Annotated[
        str | None, typer.Option(help="Ref of a training: its best epoch is scored.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="checkpoint:DIGEST, an .apr or .gguf file, a Hugging Face directory."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help="As --set evaluate.rows; 0 scores all.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="As --set evaluate.precision: float32 or bfloat16.")
    ] = None,
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Score a training, a checkpoint or model files on validation rows."""
    if (training is None) == (checkpoint is None):
        raise WrongValueError("evaluate", "the model", "none or two", "--training or --checkpoint")
    short = {"rows": rows, "precision": precision}
    shorthand = [f"evaluate.{key}={value}" for key, value in short.items() if value is not None]
    run_recorded(
        "flows.stages",
        "evaluate_flow",
        preset,
        [*(set_ or ()), *shorthand],
        name,
        json=json,
        model=training or checkpoint or "",
        shards=shards,
    )


def checkpoint(
    evaluation: Annotated[str, typer.Option(help="Ref of an evaluation.")],
    preset: Preset = "demo",
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Seal the snapshot that an evaluation scored."""
    run_recorded(
        "flows.stages", "checkpoint_flow", preset, set_, name, json=json, evaluation=evaluation
    )


def run_recorded(
    module: str,
    flow_name: str,
    preset: str,
    set_: Sequence[str] | None,
    name: str | None,
    *,
    json: bool,
    **refs: str,
) -> None:
    """Run a flow and show what it left; a failure is raised as the error that it was."""
    name = preset.rpartition("/")[2].removesuffix(".toml") if name is None else name
    from tasks.run_record import check_name

    check_name(name)
    if refs:
        from flows.refs import require

        require(refs)
    _show(_flow(module, flow_name, preset, set_, name=name, **refs), json=json)


def _flow(
    module: str, flow_name: str, preset: str, set_: Sequence[str] | None, **arguments: str
) -> Any:
    """Run a flow; return its result, or raise its failure as the error that it was."""
    from flows.embedded import prefect_answering, prefect_server
    from flows.environment import prepare

    prepare()
    overrides = tuple(set_ or ())
    with prefect_server() as server:
        from flows.settings import load_settings

        settings = load_settings(preset, overrides)
        from prefect import tags

        from flows.automations import TAG

        flow = getattr(importlib.import_module(module), flow_name)
        err.print(f"{flow.name}, preset {preset}; Prefect is starting")
        if flow.name in TRAINING_FLOWS:
            from model.budget import budget_sentence

            length = settings.shard.context_length
            err.print(f"planned {budget_sentence(settings.model, settings.train, length)}")
        server.wait()
        with prefect_answering(), tags(TAG):
            state = flow(preset=preset, overrides=overrides, **arguments, return_state=True)
            result = state.result(raise_on_failure=False)
            if isinstance(result, Exception):
                raise result
    return result


def _show(finished: Any, *, json: bool) -> None:  # flows.run.Finished, deferred
    from flows.report import stage_rows
    from tasks.run_record import find_run

    found = find_run(finished.evidence)
    rows = stage_rows(found)
    if json:
        show_json({"run": found.name, "evidence": finished.evidence, "output": finished.output,
                   "mlflow_complete": finished.mlflow_complete, "stages": rows})  # fmt: skip
        return
    show_table(rows)
    if not finished.mlflow_complete:
        err.print(f"MLflow is behind; `assay mirror {found.name}` sends the rest")
    out.print(f"\noutput    {finished.output}")
    if finished.output.startswith("checkpoint:"):
        short = finished.output[:23]
        out.print(f"complete  assay generate --checkpoint {short} --prompt 'def main('")
    out.print(f"watch     assay up        check  assay verify {found.name}")
    out.print(f"evidence  {finished.evidence}")
