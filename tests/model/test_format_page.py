import re
from pathlib import Path

import torch

import model.apr_model
from model.apr_dtypes import BLOCKS, AprDtype
from model.apr_file import open_apr, write_apr
from model.apr_layout import INFORMATIVE_FLAGS, AprFlag
from model.apr_model import write_model
from tests.model.small_llama import small_qwen2, small_tensors, small_tokenizer

PAGE = (Path(model.apr_model.__file__).parent / "FORMAT.md").read_text()


def test_the_example_on_the_page_gives_the_bytes_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "example.apr"
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {"write_apr": write_apr, "torch": torch, "path": path})
    rows = re.findall(r"^\| 0x([0-9a-f]{3}) \| `([0-9a-f ]+)` \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == 15
    expected = bytearray(path.stat().st_size)
    for offset, text in rows:
        content = bytes.fromhex(text)
        expected[int(offset, 16) : int(offset, 16) + len(content)] = content
    assert path.read_bytes() == expected


def test_the_page_names_the_keys_of_a_model_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    provenance = dict.fromkeys(model.apr_model.PROVENANCE_KEYS, "given")
    write_model(
        path,
        small_qwen2(),
        small_tensors(small_qwen2()),
        tokenizer_json=small_tokenizer().to_str(),
        provenance=provenance,
        quantization=AprDtype.AprQ8,
    )
    (paragraph,) = re.findall(r"in this order: (.*?)\n\n", PAGE, flags=re.DOTALL)
    quantization = re.findall(r"`([a-z_]+)`", re.findall(r"`quantization` \((.*?);", paragraph)[0])
    found = open_apr(path).metadata
    assert quantization == list(found["quantization"])  # type: ignore[call-overload]
    named = re.findall(r"`([a-z_.0-9]+)`", paragraph.replace("`tokenizer.json`", ""))
    assert [name for name in named if name not in quantization] == list(found)


def test_the_page_names_the_flags_and_dtypes_of_the_code() -> None:
    flags = {int(digits, 16) for digits in re.findall(r"\b0x0([0-9a-f]{3})\b", PAGE[:2600])}
    assert flags == {flag.value for flag in INFORMATIVE_FLAGS | AprFlag.ROW_MAJOR}
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\d+)", PAGE, flags=re.MULTILINE)
    dtypes = [(int(code), name) for code, name, _ in rows if name in AprDtype.__members__]
    assert dtypes == [(dtype.value, dtype.name) for dtype in AprDtype]
    blocks = re.findall(r"\| (\w+) \| (\d+) for (\d+) \|", PAGE)
    assert {name: (int(values), int(size)) for name, size, values in blocks} == {
        dtype.name: block for dtype, block in BLOCKS.items()
    }
