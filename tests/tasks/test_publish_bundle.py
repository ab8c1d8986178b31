"""What keeps a bundle from being published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.directories import digests
from tasks.publish_bundle import publish_faults, published_files
from tests.tasks.test_stage_versions import bundle_of_fixed_tensors


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of_fixed_tensors(tmp_path_factory.mktemp("sealed"))


@pytest.fixture
def bundle(sealed: Path, tmp_path: Path) -> Path:
    for path in sealed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def faults_of(bundle: Path) -> list[str]:
    return list(publish_faults(bundle, digests(bundle)))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = yaml.safe_load((bundle / "manifest.yaml").read_text())
    change(manifest)
    (bundle / "manifest.yaml").write_text(yaml.safe_dump(manifest))


def test_a_sealed_bundle_has_the_twelve_files_and_no_fault(bundle: Path) -> None:
    assert len(published_files("assay-smoke")) == 12
    assert all((bundle / name).is_file() for name in published_files("assay-smoke"))
    assert faults_of(bundle) == []


def test_a_second_name_costs_no_second_copy(sealed: Path) -> None:
    for name in ("model.apr", "model.safetensors"):
        assert (sealed / name).samefile(sealed / f"assay-smoke.{name.partition('.')[2]}")
    assert len(digests(sealed)) == 18


@pytest.mark.parametrize("name", published_files("assay-smoke"))
def test_each_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name}: missing from the publish bundle" in faults_of(bundle)


def test_a_changed_file_is_named(bundle: Path) -> None:
    path = bundle / "merges.txt"
    path.write_bytes(path.read_bytes().swapcase())
    (fault,) = faults_of(bundle)
    assert fault.startswith("merges.txt: sha256 ")
    assert fault.endswith(", manifest.yaml says 448642aa4b0a")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda m: m.update(license="unknown"), "license is 'unknown', should be an SPDX id"),
        (lambda m: m.pop("license"), "license is None, should be an SPDX id"),
        (lambda m: m.update(architecture=""), "architecture is '', should be a text"),
        (lambda m: m.pop("version"), "version is None, should be a text"),
        (lambda m: m["provenance"].pop("parent"), "provenance.parent is missing"),
        (lambda m: m.update(provenance="none"), "provenance.pipeline is missing"),
        (
            lambda m: m["provenance"].update(recipe="../recipe.json"),
            "names '../recipe.json', which is not there",
        ),
        (lambda m: m.update(files=m["files"][1:]), "files lacks 'LICENSE'"),
        (lambda m: m.pop("files"), "files lacks 'vocab.json'"),
        (
            lambda m: m["files"].append({"name": "gone.bin"}),
            "names 'gone.bin', which is not there",
        ),
        (
            lambda m: m.update(quantization="float16"),
            "quantization is 'float16', config.json says torch.float32",
        ),
    ],
)
def test_each_fault_of_the_manifest_is_named(
    bundle: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    edit(bundle, change)
    assert f"manifest.yaml: {fault}" in faults_of(bundle)


@pytest.mark.parametrize(
    "text", [b"", b"- a", b"a: [", b"\xff\xfe", b"!!python/object/apply:os.system [id]"]
)
def test_a_manifest_that_is_none_is_named(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.yaml").write_bytes(text)
    assert faults_of(bundle) == ["manifest.yaml: not there, or no YAML mapping"]


def test_a_directory_without_a_manifest_is_no_publish_bundle(tmp_path: Path) -> None:
    assert faults_of(tmp_path) == ["manifest.yaml: not there, or no YAML mapping"]
