import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks import telemetry
from tasks.telemetry import sampling

KEYS = {
    "time",
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "process_cpu_percentage",
    "process_memory_megabytes",
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SAMPLE_SECONDS", 0.02)


def test_the_machine_is_sampled_while_the_block_runs(tmp_path: Path) -> None:
    begin = time.time()
    with sampling(tmp_path, os.getpid()):
        time.sleep(0.2)
    text = (tmp_path / "telemetry.jsonl").read_text()
    samples = [json.loads(line) for line in text.splitlines()]
    assert samples
    for sample in samples:
        assert sample.keys() == KEYS
        assert begin <= sample["time"] <= time.time()
        assert sample["process_memory_megabytes"] > 1
        assert sample["system_memory_usage_megabytes"] > sample["process_memory_megabytes"]
    time.sleep(0.05)
    assert (tmp_path / "telemetry.jsonl").read_text() == text


def test_a_process_that_is_gone_ends_the_samples_without_an_error(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with sampling(tmp_path, process.pid):
        time.sleep(0.05)


def test_a_process_that_has_ended_is_not_sampled(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with sampling(tmp_path, process.pid):
            time.sleep(0.1)
    assert (tmp_path / "telemetry.jsonl").read_text() == ""


def test_a_directory_that_is_gone_ends_the_samples_without_an_error(tmp_path: Path) -> None:
    with sampling(tmp_path / "nowhere", os.getpid()):
        time.sleep(0.05)
