"""Validate a model: structure, checksums, content gates, and what its bundle promises."""

from pathlib import Path

from evidence.refs import REF_TYPES, CheckpointRef
from flows.inspection import artefact_at
from model.data_quality import faults
from model.errors import ModelError, UnsupportedFeatureError
from model.model_file import ModelFile, open_model_file
from tasks import first_forward
from tasks.bundle import measure_files
from tasks.directories import differences
from tasks.errors import NotAModelError, NotFoundError
from tasks.publish_bundle import listed_files, publish_faults
from tasks.store import INDEX, Artefact, open_store
from tasks.verify_report import Report


def validate(subject: str) -> Report:
    """Check a file, a Hugging Face directory or a checkpoint, and keep everything that fails.

    Raises: NotFoundError, and ModelFormatError (also Corrupt-, Unsupported-) if there is nothing
    whose content could be judged.
    """
    if subject.partition(":")[0] in REF_TYPES:
        store = open_store()
        artefact = store.peek(store.resolve(subject))
    else:
        path = Path(subject)
        if not path.exists():
            raise NotFoundError(f"file {path.name}", str(path.parent))
        found = artefact_at(path)
        if found is None:
            report = Report(subject, 0, [])
            _validate_model(report, open_model_file(path))
            return report
        artefact = found
    if not isinstance(artefact.ref, CheckpointRef):
        raise NotAModelError(str(artefact.ref))
    return _validate_checkpoint(artefact)


def _validate_model(report: Report, opened: ModelFile) -> None:
    """Judge the content of every tensor, then read the whole as the model it claims to be."""
    holder = opened.paths[0] if len(opened.paths) == 1 else opened.paths[0].parent
    report.check(holds=bool(opened.tensors), failure=f"{holder.name}: no tensors, should be some")
    for tensor in opened.tensors:
        failed = [str(fault) for fault in faults(tensor.name, opened.values(tensor.name))]
        report.num_checks += 1
        report.failures.extend(f"{holder.name}: {failure}" for failure in failed)
    if opened.read is None:
        return
    report.num_checks += 1
    try:
        opened.checksums()
        if not report.failures:
            opened.read()
    except UnsupportedFeatureError:
        raise
    except ModelError as error:
        report.failures.append(str(error))


def _validate_checkpoint(artefact: Artefact) -> Report:
    """Check bytes first: what was damaged is not worth a second complaint."""
    report = Report(str(artefact.ref), 0, [])
    listed = artefact.index["files"]
    report.failures.extend(
        str(each) for each in differences(artefact.directory, listed, index=INDEX)
    )
    report.num_checks += len(listed)
    if report.failures:
        return report
    content = artefact.index["content"]
    if not isinstance(content.get("lossless"), list):
        old = (
            "sealed before files were held to a forward pass: seal it again with `assay checkpoint`"
        )
        report.check(holds=False, failure=f"{artefact.ref.short}: {old}")
        return report
    measured = measure_files(artefact.directory, content["lossless"])
    for key in ("differing_tensors", "settings_differ", "files_unlike_forward"):
        report.check(holds=measured[key] == 0, failure=f"{key} is {measured[key]}, should be 0")
    for name in first_forward.read_record(artefact.directory)["files"]:
        _validate_model(report, open_model_file(artefact.directory / name))
    report.num_checks += 1
    report.failures.extend(publish_faults(artefact.directory, listed_files(artefact)))
    return report
