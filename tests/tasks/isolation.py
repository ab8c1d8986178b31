"""Tests that run code in a sandbox need a machine that has one."""

import functools

import pytest

from tasks.errors import IsolationUnavailableError
from tasks.sandbox import Sandbox, SandboxSettings

SETTINGS = SandboxSettings(
    isolation="namespaces", cpu_seconds=1, wall_seconds=2.5, memory_bytes=256_000_000
)


@functools.cache
def what_is_missing() -> str:
    try:
        with Sandbox.opened(SETTINGS):
            return ""
    except IsolationUnavailableError as error:
        return str(error)


needs_isolation = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())
