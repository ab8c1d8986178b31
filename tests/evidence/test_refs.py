import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.errors import WrongRefError
from evidence.refs import REF_TYPES, CheckpointRef, Ref, ShardsRef, TokensRef, parse_ref

DIGEST = "0123456789abcdef" * 4


def test_a_ref_is_written_as_kind_and_digest() -> None:
    ref = ShardsRef(DIGEST)
    assert str(ref) == f"shards:{DIGEST}"
    assert ref.short == "shards:0123456789ab"


def test_the_six_kinds_are_these() -> None:
    assert list(REF_TYPES) == [
        "tokens",
        "shards",
        "training",
        "evaluation",
        "checkpoint",
        "trace",
    ]


@given(st.sampled_from(sorted(REF_TYPES)), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_written_ref_is_read_back_as_its_own_type(kind: str, digest: str) -> None:
    ref = parse_ref(f"{kind}:{digest}")
    assert type(ref) is REF_TYPES[kind]
    assert str(ref) == f"{kind}:{digest}"


def test_refs_of_different_kinds_are_different() -> None:
    left: Ref = TokensRef(DIGEST)
    right: Ref = CheckpointRef(DIGEST)
    assert left != right
    assert TokensRef(DIGEST) == TokensRef(DIGEST)


@pytest.mark.parametrize(
    "digest",
    ["", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "g" * 64, DIGEST[:-1] + "\n", DIGEST + "\n"],
)
def test_a_digest_that_is_not_64_lower_case_hex_digits_is_refused(digest: str) -> None:
    with pytest.raises(WrongRefError) as caught:
        TokensRef(digest)
    assert caught.value.text == digest
    assert caught.value.expected == "64 lower-case hex digits"


@pytest.mark.parametrize("text", ["", DIGEST, f"corpus:{DIGEST}", f"Tokens:{DIGEST}", f":{DIGEST}"])
def test_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(WrongRefError) as caught:
        parse_ref(text)
    assert caught.value.text == text
    assert caught.value.expected == (
        "KIND:DIGEST with KIND one of tokens, shards, training, evaluation, checkpoint, trace"
    )


def test_a_known_kind_with_a_wrong_digest_is_refused() -> None:
    with pytest.raises(WrongRefError) as caught:
        parse_ref("tokens:12:34")
    assert caught.value.text == "12:34"
