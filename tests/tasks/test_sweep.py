"""What killed builds leave behind is removed by the next build, and nothing else is."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tasks.store import UNSEEN_SECONDS, Store
from tests.test_architecture import PROJECT

BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tasks.store import Store
with Store(Path(sys.argv[1])).building("tokens") as directory:
    (directory / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_in(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "tmp").iterdir())


def test_a_killed_build_is_swept_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD_AND_DIE, str(tmp_path)]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == -9
    assert len(left_in(tmp_path)) == 2
    with Store(tmp_path).building("tokens"):
        assert len(left_in(tmp_path)) == 2
    assert left_in(tmp_path) == []


def test_a_build_that_goes_on_is_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.building("one") as one, store.building("two") as two:
        assert one.is_dir()
        assert two.is_dir()


def test_an_unfinished_training_is_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.resuming("train-abc") as training:
        (training / "half").write_text("written")
    with store.building("tokens"):
        assert (training / "half").is_file()


DIE_BEFORE_IT_IS_SEEN = """
import os, signal, sys
from pathlib import Path
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from tasks.store import Store
with Store(Path(sys.argv[1])).building("tokens"):
    pass
"""


def test_a_lock_that_was_never_seen_is_swept_once_it_is_old(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIE_BEFORE_IT_IS_SEEN, str(tmp_path)]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == -9
    (unseen,) = (tmp_path / "tmp").iterdir()
    with Store(tmp_path).building("tokens"):
        assert unseen.exists()
    then = time.time() - UNSEEN_SECONDS - 1
    os.utime(unseen, (then, then))
    with Store(tmp_path).building("tokens"):
        assert not unseen.exists()
    assert left_in(tmp_path) == []
