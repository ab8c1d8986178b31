import os
import subprocess
import sys

import numpy as np

from data.compiled import compiled
from data.hashing import mix, powers


def test_a_compiled_loop_gives_what_python_gives() -> None:
    def count(bytes_N: np.ndarray, wanted: int) -> int:
        found = 0
        for byte in bytes_N:
            found += byte == wanted
        return found

    text = np.frombuffer(b"abracadabra", np.uint8)
    assert compiled(count)(text, ord("a")) == count(text, ord("a")) == 5


def test_a_number_is_mixed_like_an_array_of_it() -> None:
    numbers = powers(5)
    assert mix(numbers).tolist() == [int(mix(number)) for number in numbers]
    # The first output of splitmix64 seeded with 0: its state is then the golden ratio.
    assert int(mix(numbers)[1]) == 0xE220A8397B1DCDAF


def test_where_nothing_can_be_written_code_is_compiled_anew() -> None:
    program = "from data.hashing import mix, powers; print(int(mix(powers(2))[1]))"
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=nowhere, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{0xE220A8397B1DCDAF}\n"), done.stderr
