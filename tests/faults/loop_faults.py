"""Failures of the loop and of what it says: F01 to F22."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from data.rows import open_rows
from data.shard import ShardsIndex
from evidence.canonical import digest
from flows.settings import PRESETS, load_settings
from model.reports import EpochReport, Report, StepReport
from model.schedule import learning_rate
from tasks.device import choose_device
from tasks.preflight import check_fits
from tasks.run_record import Run, finish_run
from tests.faults.lab import AT_ONCE, AT_START, AT_THE_END, Fault, Lab, Stopped
from tests.tasks.tampering import reseal, reseal_run, set_at
from tests.tasks.tiny import (
    Finished,
    at_home,
    begin,
    evaluated,
    sharded,
    tiny_settings,
    train_again,
)

FAULTS: list[Fault] = []


Do = Callable[[Lab], None]


def fault(
    number: str, failure: str, seen: str, by: str, where: str, *, needs_isolation: bool = False
) -> Callable[[Do], Do]:
    """Enter a function as a fault."""

    def enter(do: Do) -> Do:
        entry = Fault(
            number=number,
            failure=failure,
            seen=seen,
            stopped=Stopped(by, where),
            do=do,
            needs_isolation=needs_isolation,
        )
        FAULTS.append(entry)
        return do

    return enter


def constant(state: Any, **claimed: Any) -> StepReport:
    """Claim a step that was not made."""
    report = {
        "step": state.step,
        "updates": state.optimizer.num_updates(),
        "train_loss": 1.0,
        "grad_norm": 1.0,
        "update_norm": 0.0,
        "learning_rate": 1e-3,
        "tokens": 256,
        "cursor_rows": state.cursor_rows,
        "batch_digest": "0" * 16,
        "state_digest": "0" * 16,
    }
    return StepReport(**{**report, **claimed})


def claim_all(state: Any, settings: Any) -> StepReport:
    """Claim a step with everything that can be made up."""
    rate = learning_rate(state.step, settings)
    return constant(state, updates=state.step, update_norm=1.0, learning_rate=rate)


def dry_after(lab: Lab, last: int, claim: Any, **settings: Any) -> None:
    """Let steps after one do nothing but claim something."""

    def passed(state: Any, *arguments: Any) -> Any:
        if state.step < last:
            return real["_pass"](state, *arguments)
        return SimpleNamespace(ids_BS=next(arguments[-1]))

    def updated(state: Any, settings: Any, ranks: Any, passed: Any, **named: Any) -> Any:
        if state.step < last:
            return real["_update_or_skip"](state, settings, ranks, passed, **named)
        state.step += 1
        state.tokens_seen += 256
        state.cursor_rows += len(passed.ids_BS)
        return claim(state, settings)

    def report(state: Any, made: Any, ranks: Any) -> Any:
        return made if isinstance(made, StepReport) else real["_report"](state, made, ranks)

    planted = {"_pass": passed, "_update_or_skip": updated, "_report": report}
    real = {name: lab.replace(f"model.train.{name}", put) for name, put in planted.items()}
    lab.train(lab.job(thresholds={"min_val_batches": 0.0}, **settings))


@fault(
    "F01",
    "the iterator runs dry and every further step returns a constant",
    "train loss 1.000 and an epoch of 0.4 s",
    "train.updates",
    "step 21",
)
def _(lab: Lab) -> None:
    dry_after(lab, 20, lambda state, _: constant(state))


@fault(
    "F01b",
    "the same, with counters, rates and norms made up as well",
    "-",
    "train.wall",
    "step 18",
)
def _(lab: Lab) -> None:
    # Steps of more work than it is to write a line: those of the reference took 262 ms.
    dry_after(lab, 17, claim_all, batch_rows=192, num_steps=20)


@fault(
    "F01c",
    "the same before there are times to compare with",
    "-",
    "train.constant",
    "step 6",
)
def _(lab: Lab) -> None:
    dry_after(lab, 3, claim_all)


@fault(
    "F01d",
    "the iterator runs dry, and nothing covers it up",
    "-",
    "StreamExhaustedError",
    "step 10",
)
def _(lab: Lab) -> None:
    def ten(*arguments: Any, **named: Any) -> Iterator[np.ndarray]:
        return (batch for batch, _ in zip(real(*arguments, **named), range(10), strict=False))

    real = lab.replace("tasks.train_worker.batches", ten)
    lab.train()


@fault(
    "F02",
    "early stopping on a validation set of two batches",
    "stop at epoch 5 of 24 on noise of 0.04 nats",
    "train.validation",
    AT_START,
)
def _(lab: Lab) -> None:
    lab.train(lab.job(thresholds={"min_val_batches": lab.either(16.0, 1.0)}))


@fault(
    "F03",
    "a corpus far too small for the step budget",
    "validation rose from epoch 3 on, after the corpus had wrapped",
    "PreflightError",
    AT_ONCE,
)
def _(lab: Lab) -> None:
    shards = lab.finished.store.open(lab.finished.refs.shards)
    job = lab.job(max_passes=lab.either(1, 1000), num_steps=500)
    check_fits(shards.read_index(ShardsIndex), job.model, job.train, num_ranks=1)


@fault(
    "F04",
    "the stream wraps around into the validation rows",
    "validation loss 0.56 nats below training loss",
    "train.leak",
    "step 7",
)
def _(lab: Lab) -> None:
    def wrapping(rows: Any, **named: Any) -> Iterator[np.ndarray]:
        shards = lab.finished.store.open(lab.finished.refs.shards)
        held_out = open_rows(shards.directory, shards.read_index(ShardsIndex), "val")
        for number, batch in enumerate(real(rows, **named), start=1):
            yield held_out.take(np.arange(len(batch))) if number == 7 else batch

    real = lab.replace("tasks.train_worker.batches", wrapping)
    lab.train()


@fault(
    "F04b",
    "the validation set is a part of the training set",
    "-",
    "train.held-out",
    AT_START,
)
def _(lab: Lab) -> None:
    index = lab.job().shards_index
    held_out = lab.either(index["train"], index["val"])
    lab.train(lab.job(shards_index={**index, "val": held_out}))


@fault(
    "F05",
    "the schedule never reaches the optimizer",
    "two budgets gave the same losses to four digits",
    "train.schedule",
    "step 1",
)
def _(lab: Lab) -> None:
    lab.replace("model.train.set_learning_rate", lambda _optimizer, _rate: None)
    lab.train()


@fault(
    "F06",
    "the optimizer steps once a sequence",
    "a batch of 16 was 16 updates",
    "train.updates",
    "step 1",
)
def _(lab: Lab) -> None:
    def once_a_row(optimizer: Any) -> None:
        for _ in range(8):
            real(optimizer)

    real = lab.replace("model.optimizer.TrainOptimizer.step", once_a_row)
    lab.train()


@fault(
    "F07",
    "the optimizer's digest is one of seed, epoch and tokens",
    "all 12 recorded digests followed from three counters",
    "train.digests",
    AT_THE_END,
)
def _(lab: Lab) -> None:
    def from_counters(**named: Any) -> Any:
        counters = {"seed": 42, "epoch": named["epoch"], "tokens_seen": named["tokens_seen"]}
        return real(**{**named, "optimizer_state_sha": digest(counters)})

    real = lab.replace("tasks.epoch_end.epoch_fields", from_counters)
    lab.train(judged=True)


@fault(
    "F08",
    "GPU utilisation is drawn at random",
    "45 to 55 per cent, whatever the GPU did",
    "train.complete",
    "step 1",
)
def _(lab: Lab) -> None:
    drawn = np.random.default_rng(42)
    made_up = {"gpu_utilization_percentage": drawn.uniform(45, 55), "gpu_memory_megabytes": 1.0}
    lab.replace("tasks.train_judge.gpu_meter", lambda _device: lambda: made_up)
    lab.train()


@fault(
    "F08b",
    "the gradient norm is a constant",
    "1.0 on the CPU in every step",
    "train.constant",
    "step 3",
)
def _(lab: Lab) -> None:
    lab.replace("model.train.get_total_norm", lambda _gradients: torch.tensor(1.0))
    lab.train()


@fault(
    "F09",
    "the model learns less than a table of token frequencies knows",
    "best loss 9.38 nats where the table has 8.32",
    "train.unigram",
    "epoch 1",
)
def _(lab: Lab) -> None:
    lab.train(lab.job(peak_lr=lab.either(1e-7, 1e-2)))


@fault(
    "F10",
    "a used-up budget is called success",
    "OK CONVERGED at 9.81 nats with a target of 3.0",
    "assay verify",
    "train.metadata.json: outcome is BUDGET_EXHAUSTED, record says CONVERGED",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    finished = copied(lab, home)
    run = finished.run
    with at_home(home):
        if lab.planted:
            settings = tiny_settings(home, ["train.target_val_loss=0.5"])
            run = begin(settings, "short")
            train_again(run, finished.refs.shards, settings)
            record = run.directory / "train.metadata.json"
            reseal(record, set_at("measurements", "outcome", to="CONVERGED"))
            finish_run(run, "completed", None)
        lab.verify(run)


def copied(lab: Lab, home: Path) -> Finished:
    """Copy the finished run, so that it may be damaged."""
    shutil.copytree(lab.finished.home, home)
    run = Run(home / "evidence" / lab.finished.run.name)
    return replace(lab.finished, home=home, run=run)


@fault(
    "F11",
    "a setting that was not given is that of another regime",
    "a from-scratch run under the bounds of fine-tuning",
    "WrongValueError",
    AT_ONCE,
)
def _(lab: Lab) -> None:
    text = (PRESETS / "smoke.toml").read_text()
    text = lab.either(text.replace("target_val_loss = 5.0\n", ""), text)
    preset = lab.directory.with_suffix(".toml")
    preset.write_text(text)
    load_settings(str(preset))


@fault(
    "F12",
    "the step budget is rounded up to whole epochs",
    "50 steps asked for, 100 executed",
    "train.schedule",
    "step 6",
)
def _(lab: Lab) -> None:
    def rounded_up(state: Any, stream: Any, settings: Any, *arguments: Any, **named: Any) -> Any:
        whole = -(-settings.num_steps // settings.steps_per_epoch) * settings.steps_per_epoch
        return real(state, stream, replace(settings, num_steps=whole), *arguments, **named)

    real = lab.replace("tasks.train_worker.train", rounded_up)
    lab.train(lab.job(num_steps=40))


@fault(
    "F13",
    "scripted losses in place of a training",
    "a straight line to the target, from three tasks",
    "train.unigram",
    "epoch 1",
)
def _(lab: Lab) -> None:
    def scripted(
        state: Any, stream: Any, settings: Any, *_: Any, step_queued: Any, **__: Any
    ) -> Iterator[Report]:
        for number, ids_BS in enumerate(stream, start=1):
            step_queued()
            state.step, state.tokens_seen = number, 256 * number
            state.cursor_rows += len(ids_BS)
            yield constant(
                state,
                updates=number,
                train_loss=5.7 - 0.05 * number,
                grad_norm=2.0 - 0.01 * number,
                update_norm=1.0,
                learning_rate=learning_rate(number, settings),
            )
            if number % settings.steps_per_epoch == 0:
                epoch = number // settings.steps_per_epoch - 1
                yield EpochReport(epoch=epoch, step=number, num_steps=settings.steps_per_epoch)

    lab.replace("tasks.train_worker.train", scripted)
    lab.train()


@fault(
    "F14",
    "a GPU run that is silently one on the CPU",
    "14 minutes at 114 per cent of a CPU, 0 MiB on the GPU",
    "train.device",
    AT_START,
)
def _(lab: Lab) -> None:
    def on_meta(state: Any, _device: Any) -> Any:
        return real(state, torch.device("meta"))

    # As if a GPU had been asked for: the weights are on the CPU.
    real = lab.replace("tasks.training_start._num_misplaced", on_meta)
    lab.train()


@fault(
    "F15",
    "a program that was built without CUDA",
    "a run on the CPU until somebody looked",
    "DeviceUnavailableError",
    AT_ONCE,
)
def _(lab: Lab) -> None:
    # What a machine with a GPU says to a program that was, or was not, built for it.
    lab.patch.setattr("torch.cuda.device_count", lambda: 1)
    lab.patch.setattr("torch.cuda.is_available", lambda: not lab.planted)
    choose_device(replace(lab.finished.settings.runtime, device="cuda"))


@fault(
    "F16",
    "a divergence that nobody stops",
    "train loss 15.4, validation loss 32.0",
    "train.ceiling",
    "step 2",
)
def _(lab: Lab) -> None:
    lab.train(lab.job(peak_lr=lab.either(30.0, 1e-2)))


@fault(
    "F16b",
    "the same, where no step shows it",
    "-",
    "train.stable",
    "epoch 0",
)
def _(lab: Lab) -> None:
    bounds = {"max_loss_to_uniform": 1e9, "max_val_loss_growth": 1.0}
    lab.train(lab.job(peak_lr=lab.either(30.0, 1e-2), thresholds=lab.either(bounds, {})))


@fault(
    "F17",
    "a checkpoint that cannot be written is only a message",
    "-",
    "StorageError",
    "epoch 0",
)
def _(lab: Lab) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lab.replace("tasks.snapshots.write_model", full)
    lab.train()


@fault(
    "F18",
    "losses on different validation sets are compared",
    "+0.20 nats, part of them the other set",
    "assay compare",
    "same documents, other tokens: bits alone",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    settings = tiny_settings(home, lab.either(["shard.seed=2"], ()))
    finished = copied(lab, home)
    with at_home(home):
        run = begin(settings, "other")
        others = sharded(run, finished.refs.tokens, settings)
        lab.compare(
            finished.refs.evaluation,
            evaluated(run, finished.refs.training, others, settings),
        )


@fault(
    "F19",
    "losses in bits where nats are meant",
    "17.21 taken for the loss of a uniform guess",
    "train.gradient",
    AT_START,
)
def _(lab: Lab) -> None:
    def in_bits(*arguments: Any) -> Any:
        return real(*arguments) / np.log(2)

    real = lab.replace("model.fast_llama.FastLlama.forward", in_bits)
    lab.train()


@fault(
    "F20",
    "four diagnoses of one plateau, and no second implementation to ask",
    "9.75 nats, blamed on data, capacity, size and settings in turn",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    def without_residual(_module: Any, stream_BTD: Any, branch_BTD: Any) -> Any:
        return branch_BTD if stream_BTD.shape[1] > 1 else stream_BTD

    lab.replace("model.llama.Add.forward", without_residual)
    lab.train()


@fault(
    "F21",
    "tokens counted as planned, not as read",
    "32,200 tokens a second where the card allows fewer",
    "train.tokens",
    "step 1",
)
def _(lab: Lab) -> None:
    def nominal(*arguments: Any, **named: Any) -> Iterator[Report]:
        for report in real(*arguments, **named):
            yield replace(report, tokens=8 * 512) if isinstance(report, StepReport) else report

    real = lab.replace("tasks.train_worker.train", nominal)
    lab.train()


@fault(
    "F22",
    "a status from notes, not from what is there",
    "a corpus complete for ten days, unnoticed",
    "assay verify",
    "metadata.json: outcome is completed, but failed: train.learned",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    run = copied(lab, home).run
    with at_home(home):
        gates = run.stage_records()["train"]["gates"]
        number = next(n for n, gate in enumerate(gates) if gate["id"] == "train.learned")
        record = run.directory / "train.metadata.json"
        if lab.planted:
            reseal(record, set_at("gates", number, "verdict", to="FAIL"))
            reseal_run(run)
        lab.verify(run)
