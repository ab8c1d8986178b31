"""The `assay` command. It imports Prefect, MLflow and torch only in the commands that need them."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from flows import (
    audit_command,
    bisect_command,
    export_command,
    gc_command,
    keep_commands,
    ledger_commands,
    look_commands,
    plan_command,
    report_command,
    run_commands,
    use_commands,
)
from flows.errors import FlowError
from flows.screen import complain, err, out
from tasks.errors import storage_error
from tasks.known_errors import KNOWN_ERRORS

app = typer.Typer(
    name="assay",
    help="Pretrain code models and prove what you say about them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,  # noqa: FBT002
) -> None:
    """Pretrain code models and prove what you say about them."""
    if show:
        import importlib.metadata

        out.print(importlib.metadata.version("assay"))
        raise typer.Exit


for commands in (
    run_commands,
    plan_command,
    bisect_command,
    look_commands,
    report_command,
    ledger_commands,
    audit_command,
    keep_commands,
    export_command,
    gc_command,
    use_commands,
):
    commands.add_to(app)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code. A known error is a sentence, not a traceback."""
    from flows.exit_codes import INTERRUPTED, UNEXPECTED, exit_code

    try:
        code = app(list(arguments), standalone_mode=True)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else UNEXPECTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (FlowError, *KNOWN_ERRORS) as error:
        complain(error)
        return exit_code(error)
    except OSError as error:
        refusal = storage_error(error)
        if refusal is None:
            raise
        complain(refusal)
        return exit_code(refusal)
    if code == INTERRUPTED:
        err.print("interrupted: what is finished is kept, and the same command goes on from there")
    return int(code or 0)
