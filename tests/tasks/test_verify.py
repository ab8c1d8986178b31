import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import digest, pretty
from evidence.chain import Head, append, read_chain
from evidence.records import RUN_RECORD, STAGES
from evidence.refs import TokensRef
from tasks.run_record import Run, finish_run, now
from tasks.verify import verify_ref, verify_run
from tasks.verify_chain import verify_chain
from tests.tasks.tampering import edit_rows, forge, rechain, reseal, reseal_run, set_at
from tests.tasks.test_store import flip
from tests.tasks.tiny import Finished, begin, tiny_settings


def failures(run: Run) -> list[str]:
    return verify_run(run).failures


def test_a_clean_run_has_no_failures(reading: Finished) -> None:
    report = verify_run(reading.run)
    assert report.subject == reading.run.name
    assert report.failures == []
    assert report.num_checks > 200


def test_a_clean_artefact_has_no_failures(reading: Finished) -> None:
    for ref in vars(reading.refs).values():
        report = verify_ref(ref)
        assert (report.subject, report.failures) == (str(ref), [])
        assert report.num_checks == len(reading.store.open(ref).index["files"]) + 1


def test_an_artefact_that_does_not_exist_is_named(reading: Finished) -> None:
    assert verify_ref(TokensRef("0" * 64)).failures == [
        f"{reading.home}/store: no artefact tokens:000000000000, should exist"
    ]


def test_a_run_that_failed_early_has_no_failures(home: Path) -> None:
    run = begin(tiny_settings(home))
    finish_run(run, "failed", "the reason")
    assert failures(run) == []


def test_a_run_that_goes_on_is_not_called_broken(home: Path) -> None:
    report = verify_run(begin(tiny_settings(home)))
    assert report.failures == []
    assert report.state == "goes on"


def test_of_a_run_that_goes_on_what_there_is_is_checked(copied: Finished) -> None:
    (copied.run.directory / "metadata.json").unlink()
    plan = copied.run.directory / "plan.json"
    reseal(plan, lambda record: record.update(process=os.getpid(), started=now()))
    report = verify_run(copied.run)
    assert (report.state, report.failures) == ("goes on", [])
    assert report.notes == [f"checked of what there is: {', '.join(('plan.json', *STAGES))}"]
    reseal(
        copied.run.directory / "shard.metadata.json",
        set_at("measurements", "train_rows", to=1),
    )
    assert [each for each in verify_run(copied.run).failures if "train_rows" in each]


def test_a_run_whose_process_is_gone_was_killed(home: Path) -> None:
    run = begin(tiny_settings(home))
    other = subprocess.Popen(["true"])
    other.wait()
    reseal(run.directory / "plan.json", set_at("process", to=other.pid))
    report = verify_run(run)
    assert report.failures == ["metadata.json: missing: the run was killed before its end"]
    assert report.state == "killed"


def test_a_killed_process_that_nobody_has_collected_is_gone(home: Path) -> None:
    run = begin(tiny_settings(home))
    other = subprocess.Popen(["true"])
    reseal(run.directory / "plan.json", set_at("process", to=other.pid))
    reseal(run.directory / "plan.json", set_at("started", to=now()))
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert verify_run(run).state == "killed"
    other.wait()


def test_a_process_that_only_has_the_same_number_is_not_the_run(home: Path) -> None:
    run = begin(tiny_settings(home))
    reseal(run.directory / "plan.json", set_at("started", to="2026-01-02T00:00:00.000+00:00"))
    assert verify_run(run).state == "killed"


def artefact_files(finished: Finished) -> Iterator[Path]:
    for ref in vars(finished.refs).values():
        directory = finished.home / "store" / ref.kind / ref.digest[:2] / ref.digest
        yield from sorted(path for path in directory.rglob("*") if path.is_file())


def evidence_files(finished: Finished) -> list[Path]:
    return sorted((finished.home / "evidence" / finished.run.name).iterdir())


def test_a_flipped_byte_in_any_file_is_named(copied: Finished) -> None:
    # An empty file has no byte to flip: telemetry samples are seconds apart.
    paths = [*artefact_files(copied), *evidence_files(copied)]
    paths = [path for path in paths if path.stat().st_size]
    assert len(paths) > 50
    missed = []
    for path in paths:
        content = path.read_bytes()
        flip(path)
        if not any(path.name in failure for failure in failures(copied.run)):
            missed.append(path)
        path.write_bytes(content)
    assert missed == []
    assert failures(copied.run) == []


def test_a_deleted_file_is_named(copied: Finished) -> None:
    missed = []
    for path in [*artefact_files(copied), *evidence_files(copied)]:
        content = path.read_bytes()
        path.unlink()
        named = (path.name, path.parent.name[:12])  # an artefact without index is no artefact
        report = verify_run(copied.run)
        # Without its record a run of this very process still goes on.
        is_named = any(name in failure for failure in report.failures for name in named)
        if not is_named and (path.name != RUN_RECORD or report.state != "goes on"):
            missed.append(path)
        path.write_bytes(content)
    assert missed == []


def test_an_added_file_is_named(copied: Finished) -> None:
    directories = {path.parent for path in artefact_files(copied)} | {copied.run.directory}
    for directory in directories:
        (directory / "added.txt").write_text("x")
        assert any("added.txt" in failure for failure in failures(copied.run)), directory
        (directory / "added.txt").unlink()


def test_a_deleted_artefact_is_named(copied: Finished) -> None:
    for ref in vars(copied.refs).values():
        shutil.rmtree(copied.home / "store" / ref.kind)
    assert failures(copied.run) == [
        f"{copied.home}/store: no artefact {ref.short}, should exist"
        for ref in vars(copied.refs).values()
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_every_edited_measurement_is_computed_again(copied: Finished, stage: str) -> None:
    name = f"{stage}.metadata.json"
    measured = copied.run.stage_records()[stage]["measurements"]
    for key, value in measured.items():
        edited = f"{value}x" if isinstance(value, str) else value * 1.001 + 1e-6
        reseal(copied.run.directory / name, set_at("measurements", key, to=edited))
        reseal_run(copied.run)
        assert failures(copied.run) == [f"{name}: {key} is {value}, record says {edited}"]
        reseal(copied.run.directory / name, set_at("measurements", key, to=value))
    reseal_run(copied.run)
    assert failures(copied.run) == []


@pytest.mark.parametrize(
    ("stage", "edit", "expected"),
    [
        (
            "evaluate",
            set_at("gates", 2, "verdict", to="FAIL"),
            "evaluate.metadata.json: gate evaluate.unigram is pass now",
        ),
        (
            "evaluate",
            set_at("gates", 2, "value", to=0.1),
            "evaluate.metadata.json: gate evaluate.unigram is pass now",
        ),
        (
            "evaluate",
            set_at("gates", 3, "threshold_value", to=9.0),
            "evaluate.metadata.json: gate evaluate.bigram is pass now",
        ),
        (
            "train",
            set_at("gates", 3, "threshold", to=100.0),
            "train.metadata.json: gate train.spread is pass now",
        ),
        (
            "bisect",
            set_at("gates", 0, "required", to=False),
            "bisect.metadata.json: gate bisect.agrees is pass now",
        ),
        (
            "train",
            set_at("thresholds", "max_val_loss_growth", to=9.0),
            "train.metadata.json: thresholds are not those of plan.json",
        ),
        (
            "train",
            set_at("recipe", "settings", "train", "seed", to=2),
            "train.metadata.json: recipe_sha256 is not the digest of the recipe",
        ),
        (
            "train",
            set_at("output", to="training:" + "0" * 64),
            "train.metadata.json: recipe_sha256 is not the one in metadata.json",
        ),
        (
            "checkpoint",
            lambda record: record.update(observed={"chain_head": f"7:{'0' * 64}"}),
            "checkpoint.metadata.json: chain_head is None, says 7:000",
        ),
        (
            "shard",
            set_at("measurements", "train_rows", to=None),
            "shard.metadata.json: train_rows is 402, record says None",
        ),
        (
            "shard",
            lambda record: record["gates"].pop(),
            "shard.metadata.json: cannot be checked: ValueError: zip() argument 2 is shorter",
        ),
        (
            "shard",
            lambda record: record.pop("measurements"),
            "shard.metadata.json: cannot be checked: KeyError: 'measurements'",
        ),
        (
            "shard",
            set_at("output", to=7),
            "shard.metadata.json: cannot be checked: AttributeError: 'int' object",
        ),
    ],
)
def test_an_edited_stage_record_is_named(
    copied: Finished, stage: str, edit: Any, expected: str
) -> None:
    reseal(copied.run.directory / f"{stage}.metadata.json", edit)
    if "is not the one" in expected:
        reseal_run(copied.run, set_at("recipes", stage, to="0" * 64))
    else:
        reseal_run(copied.run)
    found = failures(copied.run)
    assert any(failure.startswith(expected) for failure in found), found


def test_settings_other_than_the_planned_ones_are_named(copied: Finished) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["recipe"]["settings"]["train"]["peak_lr"] = 1e-3
        record["recipe_sha256"] = digest(record["recipe"])

    reseal(copied.run.directory / "train.metadata.json", edit)
    reseal_run(copied.run)
    assert failures(copied.run) == [
        "train.metadata.json: settings of train are not those of plan.json"
    ]


def test_an_input_that_the_run_did_not_make_is_named(copied: Finished) -> None:
    other = "training:" + "0" * 64

    def edit(record: dict[str, Any]) -> None:
        record["recipe"]["inputs"]["training"] = other
        record["recipe_sha256"] = digest(record["recipe"])

    reseal(copied.run.directory / "evaluate.metadata.json", edit)
    reseal_run(copied.run)
    assert failures(copied.run) == [
        f"evaluate.metadata.json: input {other} is not what this run made"
    ]


def test_edited_plans_are_named(copied: Finished) -> None:
    path = copied.run.directory / "plan.json"
    reseal(path, set_at("settings", "thresholds", "max_loss_to_unigram", to=2.0))
    reseal_run(copied.run)
    found = failures(copied.run)
    for name in ("plan.json", "metadata.json"):
        expected = f"{name}: settings_sha256 is not the digest of the planned settings"
        assert expected in found
    assert "evaluate.metadata.json: thresholds are not those of plan.json" in found


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            set_at("refs", "shard", to="shards:" + "0" * 64),
            "shard.metadata.json: output is not the ref in metadata.json",
        ),
        (
            set_at("gates", 6, "verdict", to="FAIL"),
            "shard.metadata.json: gates are not those of metadata.json",
        ),
        (
            set_at("files", "trace.txt", to="0" * 64),
            "trace.txt: sha256 is {found}, metadata.json says 000000000000",
        ),
        (
            lambda record: record["files"].pop("trace.txt"),
            "trace.txt: not listed in metadata.json",
        ),
        (
            set_at("settings_sha256", to="0" * 64),
            "metadata.json: settings_sha256 is not the digest of the planned settings",
        ),
        (
            lambda record: record.pop("files"),
            "metadata.json: cannot be checked: KeyError: 'files'",
        ),
    ],
)
def test_an_edited_run_record_is_named(copied: Finished, edit: Any, expected: str) -> None:
    sha256 = json.loads((copied.run.directory / "metadata.json").read_text())["files"]["trace.txt"]
    reseal_run(copied.run, edit)
    assert expected.format(found=sha256[:12]) in failures(copied.run)


def test_a_failed_run_that_calls_itself_completed_is_named(copied: Finished) -> None:
    path = copied.run.directory / "evaluate.metadata.json"
    reseal(path, set_at("gates", 2, "verdict", to="FAIL"))
    reseal_run(copied.run)
    expected = "metadata.json: outcome is completed, but failed: evaluate.unigram"
    assert expected in failures(copied.run)


def test_a_run_forged_without_a_lie_has_no_failures(copied: Finished) -> None:
    """Shows that the forgeries below fail for their lie alone."""
    forge(copied, copied.refs.training, lambda directory: (directory / "note").touch())
    assert failures(copied.run) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", 7),
        ("train_loss", 1.0),
        ("train_ppl", 2.0),
        ("val_ppl", 2.0),
        ("optimizer_state_sha", "0" * 64),
        ("wall_seconds", 1.0),
        ("tokens_seen", 8000),
        ("grad_norm_max", 0.5),
        ("learning_rate", 1e-3),
        ("tokens_per_second", 1e6),
        ("val_loss_standard_error", 0.0),
        ("train_loss_at_end", 1.0),
        ("improvement_nats", 3.0),
        ("improvement_error_nats", 0.0),
        ("val_bits_per_byte", 0.5),
        ("corpus_passes", 9.0),
        ("cursor_rows", 8),
        ("shards", "shards:" + "0" * 64),
        ("files", {"epoch-000.apr": "0" * 64}),
    ],
)
def test_a_forged_number_of_an_epoch_is_computed_again(
    copied: Finished, key: str, value: object
) -> None:
    name = "epoch-001.metadata.json"
    forge(
        copied,
        copied.refs.training,
        lambda directory: reseal(directory / "ckpt" / name, set_at(key, to=value)),
    )
    found = failures(copied.run)
    assert any(failure.startswith(f"{name}: {key} is ") for failure in found)


def test_a_forged_end_of_an_epoch_disagrees_with_its_mean_loss(copied: Finished) -> None:
    name = "epoch-001.metadata.json"
    forge(
        copied,
        copied.refs.training,
        lambda directory: reseal(directory / "ckpt" / name, set_at("step", to=31)),
    )
    assert any(failure.startswith(f"{name}: train_loss is ") for failure in failures(copied.run))


def test_a_forged_validation_loss_disagrees_with_that_of_its_documents(copied: Finished) -> None:
    name = "epoch-001.metadata.json"
    forge(
        copied,
        copied.refs.training,
        lambda directory: reseal(directory / "ckpt" / name, set_at("val_loss", to=1.5)),
    )
    found = failures(copied.run)
    assert any(failure.startswith(f"{name}: val_loss is ") for failure in found)
    assert any(failure.endswith(", says 1.5") for failure in found)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda rows: rows[20].update(train_loss=1.0),
            "epoch-001.metadata.json: train_loss is ",
        ),
        (lambda rows: rows[0].update(train_loss=9.0), "train.metadata.json: first_train_loss is 9"),
        (
            lambda rows: rows[20].update(grad_norm=99.0),
            "train.metadata.json: grad_norm_max is 99.0",
        ),
        (
            lambda rows: rows[20].update(learning_rate=1.0),
            "train.metadata.json: gate train.schedule is FAIL now",
        ),
        (
            lambda rows: rows[20].update(tokens=512),
            "train.metadata.json: tokens_seen is 12544, record says 12288",
        ),
        (lambda rows: rows.pop(20), "train.metadata.json: gate train.budget is FAIL now"),
        (lambda rows: rows.reverse(), "train.metadata.json: gate train.order is FAIL now"),
        (lambda rows: rows.clear(), "train.metadata.json: cannot be measured again: "),
    ],
)
def test_a_forged_step_log_is_found_out(copied: Finished, edit: Any, expected: str) -> None:
    forge(copied, copied.refs.training, edit_rows(edit))
    found = failures(copied.run)
    assert any(failure.startswith(expected) for failure in found), found


def test_epochs_of_shards_that_were_removed_on_purpose_are_verified_as_far_as_it_goes(
    copied: Finished,
) -> None:
    """What the shards alone can tell is then left to the digests, and that is said."""
    shutil.rmtree(copied.home / "store" / "shards")
    report = verify_run(copied.run)
    assert report.failures == [
        f"{copied.home}/store: no artefact {copied.refs.shards.short}, should exist"
    ]
    assert report.notes == [
        f"{copied.refs.shards.short} is gone: an epoch's bits per byte and passes stay as said"
    ]


def test_a_forged_distance_of_a_rounded_file_is_measured_again(copied: Finished) -> None:
    def edit(directory: Path) -> None:
        path = directory / "forward.json"
        forward = json.loads(path.read_text())
        name = next(name for name, kept in forward["files"].items() if kept["relative_l2"] > 0)
        forward["files"][name]["relative_l2"] /= 2
        path.write_bytes(pretty(forward))

    forge(copied, copied.refs.checkpoint, edit)
    found = failures(copied.run)
    assert any("files_unlike_forward is 1, record says 0" in failure for failure in found), found


def another(copied: Finished) -> Run:
    run = begin(tiny_settings(copied.home))
    finish_run(run, "failed", "the reason")
    return run


def test_a_record_that_was_replaced_is_not_the_one_in_the_chain(copied: Finished) -> None:
    reseal(copied.run.directory / "metadata.json", set_at("error", to="nothing"))
    assert failures(copied.run) == [
        f"CHAIN.jsonl: has no line for {copied.run.name}'s metadata.json"
    ]


def test_a_parent_that_the_chain_does_not_give_is_named(copied: Finished) -> None:
    run = another(copied)
    path = run.directory / "metadata.json"
    reseal(path, set_at("parent", to="0" * 64))
    seal = json.loads(path.read_text())["record_sha256"]
    first = read_chain(run.directory.parent).lines[0]
    for name in ("CHAIN.jsonl", "HEAD"):
        (run.directory.parent / name).unlink()
    chain = read_chain(run.directory.parent)
    for name, sha256 in ((first.run, first.record_sha256), (run.name, seal)):
        chain = append(chain, "recorded", name, sha256, first.time)
    found = failures(run)
    assert f"metadata.json: parent is {first.record_sha256}, says {'0' * 64}" in found


def test_a_chain_edited_anywhere_fails_every_run(copied: Finished) -> None:
    run = another(copied)
    path = run.directory.parent / "CHAIN.jsonl"
    path.write_text(path.read_text().replace(copied.run.name, "other", 1))
    for each in (copied.run, run):
        assert any("CHAIN.jsonl: line 2 names" in failure for failure in failures(each))


def test_a_rewritten_chain_contradicts_the_plans_that_noted_its_head(copied: Finished) -> None:
    """E6, and what it takes: without forging the later plans too, it shows without any pin."""
    run = another(copied)
    reseal(copied.run.directory / "metadata.json", set_at("error", to="nothing"))
    rechain(run.directory.parent)
    assert failures(copied.run) == []
    assert any("a pin says" in failure and "plan.json" in failure for failure in failures(run))


def test_a_run_apart_from_its_chain_is_verified_and_that_is_said(copied: Finished) -> None:
    apart = shutil.copytree(copied.run.directory, copied.home / "apart" / copied.run.name)
    report = verify_run(Run(Path(apart)))
    assert report.failures == []
    assert report.notes == ["no CHAIN.jsonl beside the run: its place is not checked"]


def test_a_removed_chain_is_a_failure_in_its_own_directory(copied: Finished) -> None:
    for name in ("CHAIN.jsonl", "HEAD"):
        (copied.run.directory.parent / name).unlink()
    assert failures(copied.run) == [
        f"CHAIN.jsonl: has no line for {copied.run.name}'s metadata.json"
    ]


def test_a_link_is_no_file_of_a_run(copied: Finished) -> None:
    path = copied.run.directory / "trace.txt"
    path.rename(copied.home / "trace.txt")
    path.symlink_to(copied.home / "trace.txt")
    assert any("trace.txt: sha256 is a link" in failure for failure in failures(copied.run))


def test_a_listed_name_that_leads_out_of_the_run_is_named(copied: Finished) -> None:
    (copied.run.directory.parent / "out.txt").write_text("x")

    def edit(record: dict[str, Any]) -> None:
        record["files"]["../out.txt"] = record["files"].pop("trace.txt")

    reseal_run(copied.run, edit)
    assert "../out.txt: leads out of the run's directory" in failures(copied.run)


def test_the_whole_chain_is_verified_with_every_record_and_every_pin(copied: Finished) -> None:
    run = another(copied)
    directory = run.directory.parent
    chain = read_chain(directory)
    pins = {"here": chain.lines[0].head, "there": Head(2, "0" * 64)}
    found = verify_chain(directory, pins).failures
    assert found == [f"{chain.contradiction(pins['there'])} (there)"]
    shutil.rmtree(copied.run.directory)
    assert verify_chain(directory, {}).failures == [
        f"{copied.run.name}: the record of line 1 is missing or was edited"
    ]
