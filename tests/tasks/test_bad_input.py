"""Sources that cannot be read: a sentence with its hint and an exit code, and no work is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import WrongSettingError
from flows.exit_codes import exit_code
from flows.settings import PipelineSettings, load_settings
from tasks.known_errors import KNOWN_ERRORS
from tests.data.hub_server import COMMIT, REPOSITORY, HubServer
from tests.data.sources import FILE_ROWS, write_table
from tests.data.stack_server import StackServer
from tests.tasks.scale_run import inline, kinds_of, made_at
from tests.tasks.stack_corpus import OVERRIDES, put_stack, stack_settings
from tests.tasks.tiny import tiny_settings, write_corpus

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StackServer]:
    with StackServer() as server:
        server.point_to(monkeypatch)
        yield server


def refusal(settings: Callable[[], PipelineSettings]) -> tuple[int, str]:
    """Return exit code and words of the known error that something ends with."""
    with pytest.raises(KNOWN_ERRORS) as caught:
        inline(settings())
    assert getattr(caught.value, "hint", "")
    assert "\n" not in str(caught.value)
    return exit_code(caught.value), str(caught.value)


def table_settings(path: Path, *changes: str) -> PipelineSettings:
    overrides = ('source.kind="parquet"', 'source.text_column="content"', f'source.path="{path}"')
    some = ("source.unit_bytes=0", 'source.include=["**"]', "source.exclude=[]", *changes)
    return load_settings("smoke", (*overrides, *some))


def write_texts(path: Path, num: int = 400) -> bytes:
    texts = [f"def f{n}(x):\n    return x + {n}\n" * 3 for n in range(num)]
    pq.write_table(pa.table({"content": texts, "lang": ["Python"] * num}), path)
    return path.read_bytes()


def test_a_table_that_is_cut_off_is_named_and_what_is_finished_stays(
    home: Path, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "texts")
    root = tmp_path / "tables"
    root.mkdir()
    texts = [path.read_text() for path in sorted((tmp_path / "texts").iterdir())]
    for name, part in (("a", texts[:20]), ("b", texts[20:])):
        pq.write_table(pa.table({"content": part}), root / f"{name}.parquet")
    changes = (
        'tokenizer.engine="tokenizers"',
        "pretokenize.min_distinct_ids=20",
        "pretokenize.validation_fraction=0.3",
        "tokenizer.vocab_size=300",
        "model.vocab_size=300",
    )
    inline(table_settings(root, *changes))
    finished = made_at(home)
    # One more table makes another tokenizer; nothing that exists is touched.
    whole = write_texts(root / "c.parquet")
    (root / "c.parquet").write_bytes(whole[: len(whole) // 2])
    code, said = refusal(lambda: table_settings(root, *changes))
    assert code == 4
    assert said.startswith(f"{root / 'c.parquet'}: ")
    assert "should be a whole parquet file" in said
    assert made_at(home) == finished
    assert list((home / "store" / "tmp").iterdir()) == []
    (root / "c.parquet").unlink()
    inline(table_settings(root, *changes))
    assert made_at(home) == finished


def test_a_column_that_is_missing_is_named_with_those_that_there_are(
    home: Path, tmp_path: Path
) -> None:
    write_texts(tmp_path / "x.parquet")
    column = 'source.text_column="source"'
    assert refusal(lambda: table_settings(tmp_path / "x.parquet", column)) == (
        4,
        f"{tmp_path / 'x.parquet'}: no column 'source', should be one of content, lang",
    )


def test_a_language_that_nothing_is_in_is_named_with_those_that_there_are(
    home: Path, tmp_path: Path
) -> None:
    rows = [{"path": "a", "blob_id": "0" * 40, "language": "C", "length_bytes": 1}]
    write_table(tmp_path / "x.parquet", rows, FILE_ROWS, 10)
    assert refusal(lambda: stack_settings(tmp_path)) == (
        3,
        f"{tmp_path}: no file in 'Python', should be one of C",
    )


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_hub_that_refuses_a_token_says_where_to_get_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    with HubServer({"data/x.parquet": b"x" * 200}) as hub:
        hub.point_to(monkeypatch)
        monkeypatch.setenv("HF_TOKEN", token)
        path = f'source.path="hf://datasets/{REPOSITORY}/data"'
        revision = f'source.revision="{COMMIT}"'
        changes = [each for each in OVERRIDES if "source.path" not in each]
        code, said = refusal(lambda: load_settings("smoke", (*changes, path, revision)))
    assert code == 10
    assert REPOSITORY in said


def test_a_bucket_that_is_closed_is_named_and_what_was_fetched_stays(
    home: Path, tmp_path: Path, server: StackServer
) -> None:
    put_stack(tmp_path / "index", server, num_per_layout=350)
    settings = stack_settings(tmp_path / "index")

    def closes(key: str, _number: int) -> str | None:
        return "403 Forbidden" if server.requests.total() > 300 else None

    server.fault = closes
    code, said = refusal(lambda: settings)
    assert code == 10
    assert "s3://archive/content" in said
    finished = made_at(home)
    assert set(kinds_of(home)) == {"fetch"}
    asked = server.requests.total()
    server.reset()
    inline(settings)
    assert finished.items() <= made_at(home).items()
    assert server.requests.total() <= 700 - 300 + 50 < asked + 400


def test_a_removal_list_that_is_no_text_is_refused(home: Path, tmp_path: Path) -> None:
    write_corpus(home / "corpus")
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00")
    change = f'pretokenize.removal_list="{tmp_path / "list"}"'
    with pytest.raises(WrongSettingError) as caught:
        inline(tiny_settings(home, [change]))
    assert exit_code(caught.value) == 2
    assert str(caught.value) == (
        f"pretokenize.removal_list is '{tmp_path / 'list'}', should be a text in UTF-8"
    )
