import importlib.metadata
import os
import platform
import subprocess

import psutil
import torch

from evidence.canonical import dumps, file_sha256
from tasks.places import PROJECT
from tasks.provenance import PACKAGES, provenance


def test_provenance_is_what_this_process_and_this_machine_say() -> None:
    found = provenance()
    assert found["python"] == platform.python_version()
    assert found["packages"] == {name: importlib.metadata.version(name) for name in PACKAGES}
    assert found["lock_sha256"] == file_sha256(PROJECT / "requirements.lock")
    assert found["num_cpus"] == os.cpu_count()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["cpu"]
    assert (found["gpus"] != []) == torch.cuda.is_available()


def test_provenance_names_the_commit_where_there_is_one() -> None:
    said = subprocess.run(
        ["git", "-C", str(PROJECT), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    expected = said.stdout.strip() if said.returncode == 0 else None
    assert provenance()["git_commit"] == expected


def test_provenance_is_plain() -> None:
    dumps(provenance())
