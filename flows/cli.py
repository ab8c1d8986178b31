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
from flows.screen import complain, err, hush, is_unread, out
from flows.stopping import Terminated, stoppable, what_stopped
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
    from flows.exit_codes import BROKEN_PIPE

    code = 0
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_unread():
            raise
        hush()
        return code or BROKEN_PIPE
    return code


def _run(arguments: Sequence[str]) -> int:
    from flows.exit_codes import INTERRUPTED, STOPPED, UNEXPECTED, exit_code

    try:
        with stoppable():
            code = app(list(arguments), standalone_mode=True)
    except SystemExit as leaving:
        # typer hides it.
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        code = leaving.code if isinstance(leaving.code, int) else UNEXPECTED
        if code == INTERRUPTED:
            _say_what_stays("interrupted", arguments, leaving)
    except KeyboardInterrupt as interrupt:
        code = INTERRUPTED
        _say_what_stays("interrupted", arguments, interrupt)
    except Terminated as stop:
        code = STOPPED
        _say_what_stays("stopped", arguments, stop)
    except (FlowError, *KNOWN_ERRORS) as error:
        complain(error)
        return exit_code(error)
    except OSError as error:
        refusal = storage_error(error)
        if refusal is None:
            raise
        complain(refusal)
        return exit_code(refusal)
    return int(code or 0)


def _say_what_stays(how: str, arguments: Sequence[str], error: BaseException) -> None:
    what = what_stopped(error) or " ".join(("assay", *arguments[:1]))
    err.print(f"{how}: {what}; what is finished is kept, and the same command goes on from there")
