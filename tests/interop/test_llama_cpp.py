"""What llama.cpp makes of our files: it opens each type and computes what we compute.

Run by `make test-interop`; skipped where llama-cpp-python is not installed.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from data.tokenizer import Tokenizer, train_tokenizer
from data.tokenizer_file import END_OF_TEXT, byte_characters
from model.gguf_file import open_gguf
from model.gguf_model import FileType, read_gguf_model, write_gguf_model
from model.k_quants import BlockKind, decode, encode
from model.llama import Llama, LlamaSettings
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-interop")

from tests.interop import ggml
from tests.interop.engine import Engine, quantised

pytestmark = [
    pytest.mark.interop,
    # The package opens the null device when it is imported, and leaves it to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LLAMA = replace(
    small_settings(),
    hidden_size=256,
    intermediate_size=512,
    num_heads=8,
    max_position_embeddings=256,
)
# Its feed-forward has 288 channels, no multiple of a super-block.
QWEN2 = replace(LLAMA, num_heads=4, intermediate_size=288, attention_bias=True, tie_embeddings=True)
ARCHITECTURES = {
    "llama": LLAMA,
    "tied llama": replace(LLAMA, num_kv_heads=8, tie_embeddings=True),
    "qwen2": QWEN2,
    "untied qwen2": replace(QWEN2, tie_embeddings=False, rope_theta=1e6),
}
NUM_PROMPTS, PROMPT_TOKENS = 100, 24

# Cosine distances that are allowed at any position: to our model in float32, and to our forward
# pass over the values of the file. llama.cpp rounds activations to the type of a matrix.
ALLOWED = {
    FileType.F32: (1e-9, 1e-9),
    FileType.F16: (1e-3, 1e-3),
    FileType.BF16: (1e-3, 1e-3),
    FileType.Q8_0: (0.02, 0.02),
    FileType.Q6_K: (0.05, 0.02),
    FileType.Q4_K: (0.4, 0.02),
}


def tensors_of(settings: LlamaSettings) -> dict[str, Tensor]:
    """Spread as in a trained model, so that scores are neither alike nor all but one negligible."""
    drawn = small_tensors(settings).items()
    return {name: value * 0.08 if value.ndim == 2 else value for name, value in drawn}


def model_of(settings: LlamaSettings, tensors: dict[str, Tensor]) -> Llama:
    model = Llama(settings).eval()
    model.load_state_dict(tensors)
    return model


@torch.inference_mode()
def logits_of(model: Llama, ids: list[int]) -> Tensor:
    found: Tensor = model(torch.tensor(ids)[None])[0]
    return found.double()


def written(path: Path, settings: LlamaSettings, file_type: FileType, tokenizer: str) -> Path:
    write_gguf_model(
        path,
        settings,
        tensors_of(settings),
        tokenizer_json=tokenizer,
        file_type=file_type,
        provenance={"name": "interop"},
    )
    return path


def distance(left: Tensor, right: Tensor) -> float:
    return float((1 - functional.cosine_similarity(left, right, dim=-1)).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("file_type", FileType)
def test_llama_cpp_computes_what_we_compute(tmp_path: Path, name: str, file_type: FileType) -> None:
    settings = ARCHITECTURES[name]
    path = written(tmp_path / "m.gguf", settings, file_type, small_tokenizer().to_str())
    engine = Engine(path, context_length=32)
    ours, stored = model_of(settings, tensors_of(settings)), model_of(*read_gguf_model(path))
    prompts = np.random.default_rng(1).integers(
        0, settings.vocab_size, (NUM_PROMPTS, PROMPT_TOKENS)
    )
    to_ours, to_stored, num_same = [], [], 0
    for prompt in prompts.tolist():
        found, expected = engine.logits(prompt), logits_of(ours, prompt)
        to_ours.append(distance(found, expected))
        to_stored.append(distance(found, logits_of(stored, prompt)))
        num_same += int(found[-1].argmax() == expected[-1].argmax())
    engine.close()

    assert max(to_ours) < ALLOWED[file_type][0]
    assert max(to_stored) < ALLOWED[file_type][1]
    if file_type is FileType.F32:
        assert num_same == NUM_PROMPTS


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_greedy_continuations_are_the_same(tmp_path: Path, name: str) -> None:
    settings = ARCHITECTURES[name]
    path = written(tmp_path / "m.gguf", settings, FileType.F32, small_tokenizer().to_str())
    engine, ours = Engine(path, context_length=64), model_of(settings, tensors_of(settings))
    for start in range(10):
        ids = [start, 7 * start + 1]
        found = engine.continuation(ids, 40)
        for _ in range(40):
            ids.append(int(logits_of(ours, ids)[-1].argmax()))
        assert found == ids[2:]
    engine.close()


def cauchy(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.empty(rows, columns).cauchy_(generator=generator).clamp(-1e4, 1e4)


@pytest.mark.parametrize("kind", list(BlockKind))
@pytest.mark.parametrize(
    "matrix",
    {
        "normal": torch.randn(64, 1024, generator=torch.Generator().manual_seed(1)),
        "cauchy": torch.empty(64, 1024)
        .cauchy_(generator=torch.Generator().manual_seed(2))
        .clamp(-1e4, 1e4),
        "uniform": torch.rand(64, 1024, generator=torch.Generator().manual_seed(3)),
        "constant": torch.full((4, 512), -0.37),
        "zero": torch.zeros(4, 512),
        "two levels": torch.arange(2048).reshape(4, 512).remainder(3).eq(1).float(),
        "embedding": small_tensors(LLAMA)["model.embed_tokens.weight"],
    }.items(),
    ids=lambda case: case[0],
)
def test_we_err_no_more_than_its_quantiser(kind: BlockKind, matrix: tuple[str, Tensor]) -> None:
    values = matrix[1]
    theirs = torch.from_numpy(ggml.quantize(kind, values.numpy()))
    shape = tuple(values.shape)
    errors = [
        (decode(kind, blocks, shape) - values).double().square()
        for blocks in (encode(kind, values), theirs)
    ]
    weights = (torch.ones(()), ggml.judging_weights(kind, values).double())

    for weight in weights:
        ours, others = (float((weight * error).mean()) for error in errors)
        assert ours <= others * (1 + 1e-9)


@pytest.mark.parametrize(
    ("file_type", "is_the_same"),
    [(FileType.Q8_0, True), (FileType.F16, True), (FileType.BF16, True), (FileType.Q6_K, False)],
)
def test_a_file_that_llama_cpp_quantised_is_read(
    tmp_path: Path, file_type: FileType, is_the_same: bool
) -> None:
    tokenizer = small_tokenizer().to_str()
    source = written(tmp_path / "f32.gguf", LLAMA, FileType.F32, tokenizer)
    ours = open_gguf(written(tmp_path / "ours.gguf", LLAMA, file_type, tokenizer))

    theirs = open_gguf(quantised(source, tmp_path / "theirs.gguf", file_type.code))

    assert {name: tensor.type for name, tensor in theirs.tensors.items()} == {
        name: tensor.type for name, tensor in ours.tensors.items()
    }
    if is_the_same:
        assert all(np.array_equal(theirs.content(n), ours.content(n)) for n in ours.tensors)
    settings, tensors = read_gguf_model(theirs.path)
    assert settings == LLAMA
    for name, value in tensors_of(LLAMA).items():
        assert float((tensors[name] - value).norm() / value.norm()) < 0.02


@pytest.fixture(scope="module")
def revealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tokenizer, Engine]]:
    """A tokenizer that merges any two bytes, in random order: the ids show where text is split."""
    directory = tmp_path_factory.mktemp("tokenizer")
    definition = json.loads(train_tokenizer(["a"], vocab_size=257, min_merge_frequency=1))
    characters = byte_characters()
    pairs = np.random.default_rng(0).permutation(
        [(left, right) for left in characters for right in characters]
    )
    pieces = [END_OF_TEXT, *characters, *map("".join, pairs)]
    definition["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    definition["model"]["merges"] = pairs.tolist()
    (directory / "tokenizer.json").write_text(json.dumps(definition))
    settings = replace(small_settings(), vocab_size=len(pieces))
    path = written(
        directory / "m.gguf", settings, FileType.F32, (directory / "tokenizer.json").read_text()
    )
    engine = Engine(path, vocab_only=True)
    yield Tokenizer.load(directory / "tokenizer.json"), engine
    engine.close()


def assert_same_ids(tokenizer: Tokenizer, engine: Engine, text: str) -> None:
    assert engine.encode(text) == tokenizer.encode_batch([text])[0].tolist(), ascii(text)


def test_real_source_becomes_the_same_ids(revealing: tuple[Tokenizer, Engine]) -> None:
    sources = sorted(Path(json.__file__).parent.parent.glob("*.py"))
    texts = [path.read_text("utf-8") for path in sources]
    assert sum(map(len, texts)) > 2_000_000
    for text in texts:
        assert_same_ids(*revealing, text)


@pytest.mark.parametrize(
    "text",
    [
        "it'S 'LL '\u017f 'K",
        "a\r\n\r\n  b \t\n\n",
        "   x\n    y\n\n\n",
        "12345 \u0661\u0662\u0663 \u00b2\u00b3 \u216b 1_000",
        "日本語 e\u0301 👩‍👩‍👧 🇩🇪",
        f"{END_OF_TEXT} x{END_OF_TEXT}",
        "\0\x01\x7f\x85\xa0\u2028\u3000\ufeff",
        "x" * 5000,
        " " * 5000,
        "\n" * 999,
    ],
)
def test_odd_text_becomes_the_same_ids(text: str, revealing: tuple[Tokenizer, Engine]) -> None:
    assert_same_ids(*revealing, text)


def test_random_text_becomes_the_same_ids(revealing: tuple[Tokenizer, Engine]) -> None:
    generator = np.random.default_rng(5)
    characters = np.array(
        [*map(chr, range(0x250)), *"\u0301\u200d\u3000\u2028\u0661\u216b日本👩\u212a"]
    )
    for _ in range(3000):
        drawn = generator.choice(characters, generator.integers(1, 40))
        assert_same_ids(*revealing, "".join(drawn))


# Of all code points, those that Hugging Face splits otherwise: all came with Unicode 15.1 and 16,
# where llama.cpp's tables end before.
NUM_NEWER = 3462


def test_every_code_point_splits_the_same_way_but_for_new_ones(
    revealing: tuple[Tokenizer, Engine],
) -> None:
    tokenizer, engine = revealing
    places = ("a{}b", " {} ", "1{}2", "'{}", "!{}!\n", "{}\n", "\n{} a", "x {}")
    points = [p for p in range(0x110000) if unicodedata.category(chr(p)) not in ("Cs", "Cn", "Co")]
    texts = ["\0".join(place.format(chr(point)) for place in places) for point in points]
    differing = [
        hex(point)
        for point, text, ids in zip(points, texts, tokenizer.encode_batch(texts), strict=True)
        if engine.encode(text) != ids.tolist()
    ]

    knows_newer = unicodedata.unidata_version >= "15.1"
    assert len(differing) <= (NUM_NEWER if knows_newer else 0), differing[:10]
