"""`assay plan`: write down what will be done and by what it is judged, before it is done."""

from dataclasses import asdict

import typer

from flows.run_commands import DEMO, Json, Name, Preset, Set
from flows.screen import out, show_json


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    preset: Preset = DEMO,
    set_: Set = None,
    name: Name = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Register settings and thresholds before a run; `assay run --plan` carries them out."""
    from evidence.records import SEAL, read_record
    from flows.settings import load_settings, possible_here
    from tasks.preregistration import write_plan
    from tasks.verify import STAGE_OF

    overrides = tuple(set_ or ())
    settings = possible_here(load_settings(preset, overrides))
    called = preset.rpartition("/")[2].removesuffix(".toml") if name is None else name
    request = {
        "preset": preset,
        "overrides": list(overrides),
        "runtime": asdict(settings.runtime),
    }
    versions = {stage: each.version for stage, each in STAGE_OF.items()}
    path = write_plan(called, settings.as_record(), request, versions)
    sha256 = str(read_record(path)[SEAL])
    if json:
        show_json({"plan": str(path), "sha256": sha256})
        return
    out.print(f"plan   {path}\nsha256 {sha256}\nrun    assay run --plan {sha256[:12]}")
