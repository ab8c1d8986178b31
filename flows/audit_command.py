"""`assay audit`: somebody's evidence, judged by what is in its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import VALIDATION_FAILED
from flows.run_commands import Json
from flows.screen import out, show_json
from tasks.saying import printable


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    directory: Annotated[Path, typer.Argument(help="Evidence in the reference's layout.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Judge somebody's evidence by what is in its files; exit 5 with findings."""
    from evidence.audit import RULES
    from evidence.audit import audit as judge
    from evidence.audit_evidence import read_evidence

    evidence = read_evidence(directory)
    findings = judge(evidence, _peaks())
    num_epochs = sum(len(run.epochs) for run in evidence.runs)
    counts = {"files": evidence.num_files, "runs": len(evidence.runs), "epochs": num_epochs,
              "rules": len(RULES) + 1}  # fmt: skip
    if json:
        malformed = [str(error) for error in evidence.malformed]
        records = [finding.as_record() for finding in findings]
        show_json({"subject": str(directory), **counts, "findings": records,
                   "malformed": malformed})  # fmt: skip
    else:
        for finding in findings:
            out.print(printable(str(finding)))
        looked = ", ".join(_counted(number, name) for name, number in counts.items())
        verdict = _counted(len(findings), "findings") if findings else "no findings"
        out.print(printable(f"{directory}: {looked}: {verdict}"))
    for error in evidence.malformed:
        raise error
    if findings:
        raise typer.Exit(VALIDATION_FAILED)


def _counted(number: int, things: str) -> str:
    return f"{number} {things if number != 1 else things[:-1]}"


def _peaks() -> Mapping[str, float]:
    """Look up what each known device could do at most, in whatever format."""
    from model.flops import PEAK_TFLOPS

    return {device: max(rates.values()) * 1e12 for device, rates in PEAK_TFLOPS.items()}
