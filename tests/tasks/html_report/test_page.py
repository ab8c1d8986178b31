"""The page of a run: what it says, where it has it from, and that it hides nothing."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import file_sha256
from evidence.errors import BrokenSealError
from evidence.records import read_record, write_record
from model.bisection import NO_FAULT
from tasks import bisection, loss_tables, model_bisection, training_start
from tasks.html_report import bisect_section, environment_section, evaluation_section
from tasks.html_report.facts import read_facts
from tasks.html_report.page import POLICY, report_page
from tasks.html_report.plan_section import judged_plan
from tasks.run_record import Run, finish_run
from tasks.run_report import report_path, write_report
from tasks.syntax_benchmark import CONTINUATIONS
from tests.tasks.html_report.reading import Page, read_page
from tests.tasks.tampering import reseal, set_at
from tests.tasks.tiny import STEPS, Finished, begin

SECTIONS = ["plan", "training", "data", "evaluation", "gates", "lineage", "bisect", "environment"]


def page_of(run: Run) -> Page:
    return read_page(report_page(run))


def verdict(page: Page) -> str:
    (found,) = [each for each in page.elements if each.attributes.get("role") == "status"]
    return found.text


def without_record(run: Run) -> None:
    (run.directory / "metadata.json").unlink()


def test_a_finished_run_has_all_sections_in_the_order_of_the_contents(reading: Finished) -> None:
    page = page_of(reading.run)
    sections = [each.attributes["id"] for each in page.all("section")]
    assert sections == [*SECTIONS, "records"]
    links = [each.attributes["href"] for each in page.all("a") if "nav" in each.ancestors]
    assert links == [f"#{name}" for name in sections]
    assert page.all("h1")[0].text == reading.run.name
    assert "Completed" in verdict(page)
    assert "Not to be shipped" in verdict(page)


def test_every_number_is_that_of_the_record_that_it_names(reading: Finished) -> None:
    run = reading.run
    known: dict[str, Any] = {
        f"{stage}.{name}": value
        for stage, record in run.stage_records().items()
        for name, value in record["measurements"].items()
    }
    for path in run.directory.glob("epoch-*.metadata.json"):
        for name, value in read_record(path).items():
            known[f"{path.name.split('.')[0]}.{name}"] = value
    cited = [each.attributes for each in page_of(run).all("data")]
    places = {each["data-from"] for each in cited}
    assert {"evaluate.val_loss", "train.tokens_seen", "epoch-002.val_loss"} <= places
    # What follows from several records is computed by `assay status` too.
    derived = {"train.days", "run.failed_gates", "run.epoch_records"}
    for each in cited:
        if each["data-from"] not in derived:
            value = known[each["data-from"]]
            # A gate has every number as a float.
            exact = value if isinstance(value, str) else float(value)
            assert each["value"] in (str(value), str(exact)), each["data-from"]


def test_the_page_needs_nothing_and_links_only_to_itself(reading: Finished) -> None:
    text = report_page(reading.run)
    page = read_page(text)
    assert {"script", "link", "img", "iframe"} & {each.name for each in page.elements} == set()
    assert re.findall(r"https?://|url\(|@import", text) == []
    targets = {each.attributes["id"] for each in page.elements if "id" in each.attributes}
    links = {each.attributes["href"] for each in page.all("a")}
    assert {link.removeprefix("#") for link in links} <= targets
    assert POLICY.startswith("default-src 'none'")
    assert POLICY in text.replace("&#x27;", "'")


def test_identities_are_unique_and_pictures_say_what_they_show(reading: Finished) -> None:
    page = page_of(reading.run)
    identities = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(identities) == len(set(identities))
    pictures = page.all("svg")
    assert len(pictures) >= 5
    for picture in pictures:
        assert picture.attributes["role"] == "img"
        assert set(picture.attributes["aria-labelledby"].split()) <= set(identities)
    assert all(each.text.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for each in page.all("h2"))


def test_the_loss_is_drawn_with_baselines_target_and_every_epoch(reading: Finished) -> None:
    page = page_of(reading.run)
    loss = next(each for each in page.all("figure") if each.attributes.get("id") == "loss")
    for name in ("uniform", "unigram", "bigram", "5-gram", "target"):
        assert name in loss.text
    words = [each.text for each in page.all("title") if each.text.startswith("epoch ")]
    assert [word.split(":")[0] for word in words] == [
        "epoch 0, step 16",
        "epoch 1, step 32",
        "epoch 2, step 48",
    ]
    assert all(" ± " in word for word in words)
    curve = next(each for each in page.all("path") if each.attributes["class"] == "curve train")
    assert curve.attributes["d"].count("L") == STEPS - 1


def test_the_same_records_give_the_same_page_and_the_evidence_stays_as_it_is(
    copied: Finished,
) -> None:
    before = {path.name: file_sha256(path) for path in copied.run.directory.iterdir()}
    first = write_report(copied.run)
    assert first == report_path(copied.run)
    assert first.parent == copied.home / "reports"
    text = first.read_bytes()
    assert write_report(copied.run).read_bytes() == text
    assert {path.name: file_sha256(path) for path in copied.run.directory.iterdir()} == before
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_page_goes_where_it_is_asked_to(copied: Finished, tmp_path: Path) -> None:
    named = tmp_path / "new" / "mine.html"
    assert write_report(copied.run, named) == named
    assert write_report(copied.run, tmp_path) == tmp_path / f"{copied.run.name}.html"


def test_an_unfinished_run_says_so(copied: Finished) -> None:
    without_record(copied.run)
    for name in ("bisect", "checkpoint", "evaluate"):
        (copied.run.directory / f"{name}.metadata.json").unlink()
    page = page_of(copied.run)
    assert "Unfinished" in verdict(page)
    assert "no record of evaluate, checkpoint, bisect" in verdict(page)
    assert "training" in [each.attributes["id"] for each in page.all("section")]


def test_a_run_that_has_only_a_plan_has_a_page(copied: Finished) -> None:
    run = begin(copied.settings, "bare")
    assert "no stage has ended" in verdict(page_of(run))


def test_a_failed_run_gives_its_reason_first(copied: Finished) -> None:
    run = begin(copied.settings, "bad")
    finish_run(run, "failed", "a gate <b>failed</b>")
    page = page_of(run)
    assert "Failed" in verdict(page)
    assert "a gate <b>failed</b>" in verdict(page)
    assert page.all("b") == []


def test_a_verdict_that_the_numbers_do_not_give_is_a_damage(copied: Finished) -> None:
    path = copied.run.directory / "evaluate.metadata.json"
    reseal(path, set_at("gates", 0, "verdict", to="FAIL"))
    said = verdict(page_of(copied.run))
    assert "Damaged" in said
    assert "the record says FAIL" in said
    assert "evaluate.metadata.json: sha256 is" in said


def test_a_record_with_a_broken_seal_is_named_and_the_rest_is_shown(copied: Finished) -> None:
    path = copied.run.directory / "shard.metadata.json"
    path.write_text(path.read_text().replace('"train_rows": ', '"train_rows": 1'))
    page = page_of(copied.run)
    assert "Damaged" in verdict(page)
    assert "shard.metadata.json" in verdict(page)
    assert "evaluation" in [each.attributes["id"] for each in page.all("section")]


def test_a_damaged_plan_has_no_page(copied: Finished) -> None:
    path = copied.run.directory / "plan.json"
    path.write_text(path.read_text().replace('"started": "2', '"started": "3'))
    with pytest.raises(BrokenSealError):
        report_page(copied.run)


def test_without_the_store_epochs_are_shown_and_what_is_missing_is_said(copied: Finished) -> None:
    shutil.rmtree(copied.home / "store")
    page = page_of(copied.run)
    said = " ".join(each.text for each in page.all("p"))
    assert f"The steps of {copied.refs.training.short} are not shown" in said
    assert f"The operations of {copied.refs.trace.short} are not shown" in said
    assert [each for each in page.all("title") if each.text.startswith("epoch 2, step 48")]
    assert "Completed" in verdict(page)


def test_a_log_of_steps_that_is_not_the_sealed_one_is_not_drawn(copied: Finished) -> None:
    path = copied.store.directory(copied.refs.training) / "train.jsonl"
    path.write_text(path.read_text().replace('"train_loss": 5', '"train_loss": 4'))
    page = page_of(copied.run)
    said = " ".join(each.text for each in page.all("p"))
    assert "train.jsonl: sha256 " in said
    assert "learning-rate" not in [each.attributes.get("id") for each in page.all("figure")]


def test_a_long_run_has_a_small_page_that_says_what_it_left_out(copied: Finished) -> None:
    run = begin(copied.settings, "long")
    log = copied.home / "tmp-training" / "train.jsonl"
    log.parent.mkdir()
    row = {"grad_norm": 1.0, "learning_rate": 1e-3, "tokens_per_second": 5e4}
    with log.open("w") as file:
        for step in range(1, 100_001):
            loss = 3.0 + 4.0 / step + (step * 7919 % 997) / 997
            file.write(json.dumps({"step": step, "train_loss": loss, **row}) + "\n")
    epoch = read_record(copied.run.directory / "epoch-002.metadata.json")
    for number in range(300):
        found = {**epoch, "epoch": number, "step": 100 * (number + 1), "val_loss": 5 - number / 150}
        found.pop("record_sha256")
        write_record(run.directory / f"epoch-{number:03d}.metadata.json", found)
    live = copied.home / "live"
    live.mkdir(exist_ok=True)
    (live / f"{run.name}.json").write_text(json.dumps({"training": str(log.parent)}))
    begun = time.process_time()
    text = report_page(run)
    assert time.process_time() - begun < 5
    assert len(text) < 1_000_000
    assert "100,000 steps are drawn as 600 spans" in text
    assert "did not end" in text
    drawn = [each.text for each in read_page(text).all("title") if each.text.startswith("epoch ")]
    assert 100 <= len(drawn) <= 201
    assert {"epoch 0", "epoch 299"} <= {each.split(",")[0] for each in drawn}


def test_the_environment_says_on_what_every_start_of_the_training_ran(reading: Finished) -> None:
    page = page_of(reading.run)
    (found,) = [each for each in page.all("table") if "Starts of the training" in each.text]
    assert "cpu" in found.text


def test_files_have_the_names_that_the_stages_give_them() -> None:
    assert environment_section.STARTS == training_start.STARTS
    assert (bisect_section.TRACE, bisect_section.NO_FAULT) == (bisection.RESULT, NO_FAULT)
    assert bisect_section.BISECTION == model_bisection.RESULT
    assert bisect_section.TEXT == model_bisection.TEXT
    assert evaluation_section.POSITIONS == loss_tables.POSITIONS_TABLE
    assert evaluation_section.SOURCES == loss_tables.SOURCES_TABLE
    assert Path(CONTINUATIONS).stem in evaluation_section.CONTINUATIONS


def test_the_account_of_the_data_says_where_it_does_not_add_up(copied: Finished) -> None:
    path = copied.run.directory / "pretokenize.metadata.json"
    reseal(path, set_at("measurements", "rejected", to=7))
    said = " ".join(each.text for each in page_of(copied.run).all("p"))
    assert "The account does not add up: 0 files dropped by a filter, not 7." in said


def test_criteria_that_failed_come_first_and_their_conditions_stay_together(
    reading: Finished,
) -> None:
    judged = judged_plan(read_facts(reading.run))
    names = [each.id for each in judged]
    assert sorted(names, key=names.index) == names
    assert judged[0].verdict == "not met" or judged[1].verdict == "not met"
    assert {each.verdict for each in judged if each.id == names[-1]} == {"met"}
    assert len(judged) == 35
