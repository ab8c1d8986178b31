import hashlib
import random
import string
import unicodedata
from typing import Any

import pytest

from data.errors import WrongSettingError
from data.screen import REJECTIONS, SCREENED, screen
from tests.data.candidates import CODE, candidates, filter_settings

SECRETS = {
    "aws_access_key": "AKIA" + "IOSFODNN7EXAMPLE",
    "github_token": "ghp_" + "a1B2" * 9,
    "slack_token": "xoxb-" + "123456789012-abcdef",
    "google_api_key": "AIza" + "Sy-_012345678901234567890123456789x",
    "private_key": "-----BEGIN " + "RSA PRIVATE KEY-----",
}


def objection(content: bytes | None, *, columns: Any = None, **settings: Any) -> Any:
    """Screen one candidate between two that pass; return its filter and detail, or None."""
    batch = candidates([CODE, content, CODE], **(columns or {}))
    documents, rejections = screen(batch, filter_settings(**settings))
    assert len(documents) + len(rejections) == 3
    found = rejections.to_pylist()
    assert [row["path"] for row in found] in ([], ["1.py"])
    return (found[0]["filter"], found[0]["detail"]) if found else None


def _one(content: bytes, settings: Any) -> Any:
    """Screen one candidate alone; return its filter and detail, or None."""
    _, rejections = screen(candidates([content]), filter_settings(**settings))
    return next(((row["filter"], row["detail"]) for row in rejections.to_pylist()), None)


def passed(content: bytes, encoding: str = "utf-8", **settings: Any) -> str:
    """Screen one candidate that passes; return its text."""
    documents, rejections = screen(
        candidates([content], encoding=[encoding]), filter_settings(**settings)
    )
    assert rejections.to_pylist() == []
    text: str = documents.column("text")[0].as_py()
    assert documents.column("sha256")[0].as_py() == hashlib.sha256(text.encode()).hexdigest()
    assert documents.column("num_bytes")[0].as_py() == len(text.encode())
    return text


def test_a_document_carries_on_what_its_candidate_said() -> None:
    documents, rejections = screen(candidates([CODE]), filter_settings())
    assert documents.schema == SCREENED
    assert rejections.schema == REJECTIONS
    assert documents.to_pylist() == [
        {
            "row": 100,
            "path": "0.py",
            "repository": "someone/something",
            "revision": "main",
            "blob_id": "blob 0",
            "content_id": "content 0",
            "licences": ["MIT"],
            "sha256": "f0418ae2118b7f89dcc8662e3b92813ac43cde1667b646d311f42f26981211ad",
            "num_bytes": 51,
            "text": CODE.decode(),
        }
    ]


def test_a_rejection_names_the_candidate_the_filter_and_what_was_measured() -> None:
    _, rejections = screen(candidates([CODE, b"\0" * 9]), filter_settings())
    assert rejections.to_pylist() == [
        {
            "row": 101,
            "path": "1.py",
            "repository": "someone/something",
            "blob_id": "blob 1",
            "num_bytes": 9,
            "filter": "binary",
            "detail": "NUL at byte 0",
        }
    ]


def test_an_empty_batch_has_no_documents_and_no_rejections() -> None:
    documents, rejections = screen(
        candidates([]), filter_settings(personal_data="redact", decontaminate=("HumanEval",))
    )
    assert (len(documents), len(rejections)) == (0, 0)


def test_the_first_filter_that_objects_wins() -> None:
    assert objection(b"\0" + b"x" * 5000) == ("binary", "NUL at byte 0")
    assert objection(b"\0", max_file_bytes=60) == ("binary", "NUL at byte 0")
    assert objection(b"\0" * 61, max_file_bytes=60) == ("too_large", "61 bytes, at most 60")


def test_what_the_source_could_not_give_is_rejected_with_its_words() -> None:
    columns = {"absence": ["", "404 from the bucket", ""]}
    assert objection(None, columns=columns) == ("no_content", "404 from the bucket")
    assert objection(None) == ("no_content", "the source gave no content and no reason")


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT"], None),
        (["mit", "apache-2.0"], None),
        (["GPL-3.0-only"], ("licence", "GPL-3.0-only: not all allowed")),
        (["MIT", "GPL-3.0-only"], ("licence", "MIT, GPL-3.0-only: not all allowed")),
        ([], ("licence", "no licence known")),
    ],
)
def test_every_licence_must_be_allowed_in_whatever_case(licences: Any, expected: Any) -> None:
    columns = {"licences": [["MIT"], licences, ["MIT"]]}
    assert objection(CODE, columns=columns, allowed_licences=("MIT", "Apache-2.0")) == expected


def test_no_licence_passes_only_by_its_own_entry_or_when_all_may() -> None:
    columns = {"licences": [["MIT"], [], ["MIT"]]}
    assert objection(CODE, columns=columns, allowed_licences=("MIT", "no_license")) is None
    assert objection(CODE, columns=columns, allowed_licences=()) is None


def test_of_a_thousand_files_rejected_for_their_licence_none_is_permissive() -> None:
    drawn = random.Random(7)
    allowed = ("MIT", "Apache-2.0", "BSD-3-Clause")
    names = [*allowed, "GPL-2.0-only", "MPL-2.0", "LicenseRef-scancode-unknown"]
    licences = [drawn.sample(names, drawn.randint(0, 3)) for _ in range(1400)]
    batch = candidates([CODE] * 1400, licences=licences)
    documents, rejections = screen(batch, filter_settings(allowed_licences=allowed))
    rejected = [licences[row - 100] for row in rejections.column("row").to_pylist()]
    assert len(rejected) > 1000
    assert [found for found in rejected if found and set(found) <= set(allowed)] == []
    kept = documents.column("licences").to_pylist()
    assert [found for found in kept if not found or not set(found) <= set(allowed)] == []


@pytest.mark.parametrize("column", ["is_vendored", "is_generated"])
def test_what_the_source_marks_is_rejected_if_asked_for(column: str) -> None:
    columns = {column: [False, True, False]}
    name = column.removeprefix("is_")
    assert objection(CODE, columns=columns) == (name, f"{column} in the source")
    assert objection(CODE, columns=columns, **{f"drop_{name}": False}) is None


@pytest.mark.parametrize(
    ("encoding", "content", "detail"),
    [
        ("utf-8", b"caf\xe9 = 1\n", "utf-8: invalid continuation byte at byte 3"),
        ("ascii", b"caf\xc3\xa9", "ascii: ordinal not in range(128) at byte 3"),
        ("no-such-codec", b"x = 1\n", "unknown encoding: no-such-codec"),
        ("utf-16", b"x", "utf-16-le: truncated data at byte 0"),
    ],
)
def test_what_its_encoding_does_not_decode_is_rejected(
    encoding: str, content: bytes, detail: str
) -> None:
    columns = {"encoding": ["utf-8", encoding, "utf-8"]}
    assert objection(content, columns=columns) == ("undecodable", detail)


def test_a_declared_encoding_is_used() -> None:
    assert passed("größe = 1\n".encode("latin-1"), "iso8859-1") == "größe = 1\n"
    assert passed("größe = 1\n".encode("utf-16"), "utf-16") == "größe = 1\n"


def test_a_byte_order_mark_is_left_out_and_no_other_such_character() -> None:
    assert passed(b"\xef\xbb\xbfname = '\xef\xbb\xbf'\n") == "name = '\ufeff'\n"
    assert objection(b"\xef\xbb\xbf") == ("too_small", "0 bytes, at least 1")


def test_sizes_are_bounded_on_both_sides() -> None:
    assert objection(b"", min_document_bytes=5) == ("empty", "0 bytes")
    assert objection(b"name", min_document_bytes=5) == ("too_small", "4 bytes, at least 5")
    assert objection(b"names", min_document_bytes=5) is None
    assert objection(CODE, max_file_bytes=51) is None


@pytest.mark.parametrize("phrase", ["Autogenerated", "THIS FILE IS GENERATED", "auto-generated"])
def test_a_text_that_calls_itself_generated_in_five_lines_is_rejected(phrase: str) -> None:
    near = b"#\n" * 4 + f"# {phrase} by a tool\n".encode() + CODE
    detail = f'says "{phrase.lower()}" in its first 5 lines'
    assert objection(near) == ("generated", detail)
    assert objection(near, drop_generated=False) is None
    assert objection(b"#\n" + near) is None
    long = b"# words that go on and on\n" + b"# word" * 150 + b"\n#\n#\n" + near[8:]
    assert objection(long) == ("generated", detail)


def test_lines_are_counted_with_a_last_one_that_does_not_end() -> None:
    assert objection(b"name\n" * 3, max_lines=3) is None
    assert objection(b"name\n" * 3 + b"x", max_lines=3) == ("lines", "4 lines, at most 3")


def test_the_mean_length_of_lines_is_in_characters_without_their_ends() -> None:
    assert _one("é".encode() * 60 + b"\n", {"max_mean_line_length": 60.0}) is None
    found = _one("é".encode() * 60 + b"\nabc", {"max_mean_line_length": 31.0})
    assert found == ("mean_line_length", "31.5 characters a line, at most 31")


@pytest.mark.parametrize("most", [1, 60, 64, 100, 1000])
def test_the_longest_line_is_in_characters_wherever_it_stands(most: int) -> None:
    for before in (0, 1, most // 2, most):
        head = b"-\n" * before
        line = "ü".encode() * most
        settings = {"max_line_length": most, "max_mean_line_length": 10.0**6}
        assert _one(head + line, settings) is None
        for content in (head + line + b"u\n", head + b"u" + line):
            detail = f"longest line {most + 1:,} characters, at most {most:,}"
            assert _one(content, settings) == ("line_length", detail)


def test_letters_are_letters_of_any_script() -> None:
    assert objection(b"12345678Ab", min_alphabetic_share=0.2) is None
    assert objection("1234é".encode(), min_alphabetic_share=0.2) is None
    assert objection("12345é".encode(), min_alphabetic_share=0.2) == (
        "alphabetic_share",
        "0.167 of the characters are letters, at least 0.2",
    )


@pytest.mark.parametrize("offset", [0, 1, 13, 23, 24, 63])
def test_a_long_run_of_encoded_data_is_found_at_any_place(offset: int) -> None:
    base64 = b"# " + b"!" * offset + b"QUJD" * 50 + b" " + CODE * 20
    assert objection(base64, max_encoded_run=199) == (
        "encoded_data",
        "base64 run of 200 characters, at most 199",
    )
    assert objection(base64, max_encoded_run=200) is None
    hexadecimal = b"# " + b"!" * offset + rb"\x1f" * 50 + b"!" + CODE * 20
    assert objection(hexadecimal, max_encoded_run=199) == (
        "encoded_data",
        "hexadecimal run of 200 characters, at most 199",
    )
    escaped = b"# " + b"!" * offset + rb"\u00e9" * 34 + b" " + CODE * 20
    assert objection(escaped, max_encoded_run=203) == (
        "encoded_data",
        "escaped run of 204 characters, at most 203",
    )


def test_the_share_of_encoded_data_is_bounded() -> None:
    lines = b"!\n".join([b"A1" * 40] * 10)
    assert objection(lines + b"! ", max_encoded_share=0.9) == (
        "encoded_data",
        "0.987 of it base64, at most 0.9",
    )
    assert objection(lines, max_encoded_share=0.99) is None


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_a_planted_secret_never_passes(kind: str, secret: str) -> None:
    for before in range(4):
        content = b"#" * before + CODE + f'key = "{secret}"\n'.encode()
        place = before + len(CODE) + 7
        assert objection(content) == ("secret", f"{kind} at byte {place}")
        assert objection(content, drop_secrets=False) is None
    assert objection(secret.encode()) == ("secret", f"{kind} at byte 0")


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_what_only_begins_like_a_secret_passes(kind: str, secret: str) -> None:
    assert objection(CODE + f'key = "{secret[:12]}"\n'.encode()) is None


def test_a_secret_does_not_reach_across_documents() -> None:
    secret = SECRETS["aws_access_key"].encode()
    batch = candidates([CODE + secret[:10], secret[10:] + CODE])
    assert screen(batch, filter_settings())[1].to_pylist() == []


def test_no_detail_repeats_the_secret() -> None:
    for secret in SECRETS.values():
        _, detail = objection(CODE + secret.encode())
        assert secret[4:] not in detail


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# write to Jane.Doe+x@mail.example.org!\n", "# write to <EMAIL>!\n"),
        ("host = '8.8.8.8'\n", "host = '<IP_ADDRESS>'\n"),
        ("host = '2a00:1450:4001:81b::200e'\n", "host = '<IP_ADDRESS>'\n"),
        ("a = 'b@c.de', '1.1.1.1'\n", "a = '<EMAIL>', '<IP_ADDRESS>'\n"),
        ("host = '127.0.0.1', '192.168.1.1', '::1', 'fe80::1:2:3'\n", None),
        ("x = a @ b.de\n@app.route\ny = left@right.weight\n", None),
        ("x = values[1::2], values[::-1], '12:30:45', 1.5\n", None),
        ("version = '300.1.2.3'\n", None),
    ],
)
def test_redaction_replaces_addresses_and_nothing_else(text: str, expected: str | None) -> None:
    assert passed(text.encode(), personal_data="redact") == (expected or text)
    assert passed(text.encode()) == text


def test_normalisation_comes_before_the_digest() -> None:
    composed, apart = "é = 1\n", unicodedata.normalize("NFD", "é = 1\n")
    assert composed != apart
    assert passed(apart.encode(), normalization="nfc") == composed
    assert passed(apart.encode()) == apart


def test_what_does_not_parse_is_rejected_if_asked_for() -> None:
    assert objection(b"print 'old'\n") is None
    name, detail = objection(b"x = 1\nprint 'old'\n", must_parse=True)
    assert name == "unparsable"
    assert detail.startswith("line 2: Missing parentheses")
    assert objection(rb"name = '\d'" + b"\n", must_parse=True) is None


def test_the_outcome_does_not_depend_on_the_batch() -> None:
    drawn = random.Random(3)
    letters = string.printable + "éß漢"
    contents: list[bytes | None] = [
        "".join(drawn.choices(letters, k=drawn.randint(1, 3000))).encode() for _ in range(60)
    ]
    contents += [CODE + secret.encode() for secret in SECRETS.values()]
    settings = filter_settings(max_line_length=150, personal_data="redact", max_encoded_run=64)
    batch = candidates(contents)
    documents, rejections = screen(batch, settings)
    alone = [screen(batch.slice(place, 1), settings) for place in range(len(contents))]
    assert documents.to_pylist() == [row for pair in alone for row in pair[0].to_pylist()]
    assert rejections.to_pylist() == [row for pair in alone for row in pair[1].to_pylist()]
    assert {"line_length", "mean_line_length", "secret"} <= set(
        rejections.column("filter").to_pylist()
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_document_bytes", 0),
        ("max_file_bytes", 0),
        ("allowed_licences", ("",)),
        ("max_lines", 0),
        ("max_mean_line_length", 0.0),
        ("max_line_length", 0),
        ("min_alphabetic_share", 1.1),
        ("max_encoded_run", 63),
        ("max_encoded_share", -0.1),
        ("normalization", "nfkc"),
        ("personal_data", "sell"),
        ("decontaminate", ("NoSuchBenchmark",)),
        ("decontamination_ngram", 0),
        ("near_duplicates", "keep"),
        ("near_duplicate_jaccard", 1.0),
        ("minhash_seed", -1),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(WrongSettingError, match=f"filters.{name} is"):
        filter_settings(**{name: value})
