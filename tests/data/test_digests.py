import hashlib

import numpy as np
import pyarrow as pa

from data.digests import digests_of, shared_digests


def digests(*names: str) -> np.ndarray:
    return digests_of(pa.array([hashlib.sha256(name.encode()).hexdigest() for name in names]))


def test_what_is_in_any_piece_and_among_the_few_is_shared() -> None:
    pieces = [digests("a", "b"), digests(), digests("c", "d", "d")]
    found = shared_digests(digests("d", "x", "a"), pieces)
    assert found == {hashlib.sha256(name).digest() for name in (b"a", b"d")}
    assert shared_digests(digests("x"), pieces) == set()
    assert shared_digests(digests(), pieces) == set()


def test_digests_that_only_begin_alike_are_not_shared() -> None:
    one, other = digests("one"), digests("other").copy()
    other[:, :8] = one[:, :8]
    assert shared_digests(one, [other]) == set()
    assert shared_digests(one, [other, one]) == {one.tobytes()}
