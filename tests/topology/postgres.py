"""A PostgreSQL of this machine for the length of a test, by Debian's programs."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Postgres:
    """One cluster with one superuser and password, on loopback."""

    def __init__(self, port: int, user: str, password: str) -> None:
        if not BINARIES:
            pytest.skip("no PostgreSQL is installed (apt-get install postgresql)")
        self.port = port
        # Not pytest's directory: PostgreSQL runs as another user, who may not look in there.
        self._directory = Path(tempfile.mkdtemp(prefix="assay-postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            os.chown(self._directory, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid}
        words = self._directory / "password"
        words.write_text(password)
        words.chmod(0o644)
        auth = ("--auth=scram-sha-256", f"--pwfile={words}", f"--username={user}", "--no-sync")
        self._run("initdb", *auth, "-D", str(self._data))
        words.unlink()
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l",
                  str(self._directory / "log"), "start")  # fmt: skip

    def kill(self) -> None:
        """End it as a power cut does."""
        pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        while (self._data / "postmaster.pid").exists():
            time.sleep(0.05)

    def remove(self) -> None:
        subprocess.run(
            [BINARIES[-1] / "pg_ctl", "-D", self._data, "-m", "immediate", "stop"],
            check=False,
            capture_output=True,
            **self._as,
        )
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [BINARIES[-1] / program, *arguments],
            check=True,
            capture_output=True,
            cwd=self._directory,
            **self._as,
        )
