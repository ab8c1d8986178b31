"""What somebody could do to a run's evidence who knows how it is sealed."""

import contextlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from evidence.canonical import digest, file_sha256
from evidence.chain import append, read_chain
from evidence.records import write_record
from evidence.refs import Ref
from tasks.run_record import Run, write_statements
from tasks.store import Store
from tests.tasks.tiny import Finished

Edit = Callable[[dict[str, Any]], object]


def set_at(*keys: Any, to: Any) -> Edit:
    """Return an edit that sets the value behind a path of keys."""

    def edit(record: dict[str, Any]) -> None:
        place: Any = record
        for key in keys[:-1]:
            place = place[key]
        assert place[keys[-1]] != to
        place[keys[-1]] = to

    return edit


def reseal(path: Path, edit: Edit) -> None:
    """Edit a record and seal it again."""
    record = json.loads(path.read_text())
    edit(record)
    del record["record_sha256"]
    write_record(path, record)


def reseal_run(run: Run, edit: Edit = lambda _: None) -> None:
    """Make the run's record agree with the stage records and files as they are now."""

    def renew(record: dict[str, Any]) -> None:
        stages = run.stage_records()
        with contextlib.suppress(KeyError, AttributeError):  # as far as there is a record
            write_statements(run)
        record["recipes"] = {stage: each["recipe_sha256"] for stage, each in stages.items()}
        record["refs"] = {stage: each["output"] for stage, each in stages.items()}
        record["gates"] = run.gates()
        record["files"] = {name: file_sha256(run.directory / name) for name in record["files"]}
        edit(record)

    reseal(run.directory / "metadata.json", renew)
    rechain(run.directory.parent)


def rechain(directory: Path) -> None:
    """Write the whole chain anew from the records as they are now: only a pin can show it."""
    runs = [line.run for line in read_chain(directory).recorded]
    (directory / "CHAIN.jsonl").unlink()
    (directory / "HEAD").unlink()
    chain = read_chain(directory)
    for run in runs:
        parent = chain.recorded[-1].record_sha256 if chain.recorded else None
        path = directory / run / "metadata.json"
        reseal(path, partial(dict.update, parent=parent))
        record = json.loads(path.read_text())
        chain = append(chain, "recorded", run, record["record_sha256"], record["finished"])


def forge(finished: Finished, ref: Ref, edit: Callable[[Path], object]) -> None:
    """Replace an artefact by an edited one under its new name, and every mention of it."""
    store = Store(finished.home / "store")
    old = store.directory(ref)
    with store.building("forged") as directory:
        shutil.copytree(old, directory, dirs_exist_ok=True)
        content = json.loads((directory / "index.json").read_text())["content"]
        (directory / "index.json").unlink()
        edit(directory)
        new = store.commit(directory, type(ref), content)
    shutil.rmtree(old)
    for path in finished.run.directory.glob("*.metadata.json"):
        path.write_text(path.read_text().replace(ref.digest, new.digest))
        reseal(path, _renew_recipe)
    for path in store.directory(new).glob("ckpt/epoch-*.metadata.json"):
        shutil.copyfile(path, finished.run.directory / path.name)
    reseal_run(finished.run)


def _renew_recipe(record: dict[str, Any]) -> None:
    if "recipe" in record:
        record["recipe_sha256"] = digest(record["recipe"])


def edit_rows(edit: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    """Return an edit of a training's step log."""

    def change(directory: Path) -> None:
        path = directory / "train.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edit(rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change
