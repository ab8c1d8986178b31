"""Signatures with a key of one's own, by sigstore's model-signing where it is installed."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flows.cli import run as assay
from tasks.errors import FeatureError, NotFoundError
from tasks.ledger_errors import SignatureError
from tasks.signing import sign, signature_path, verify_signature
from tests.tasks.tiny import Finished

IS_INSTALLED = bool(importlib.util.find_spec("model_signing"))
installed = pytest.mark.skipif(not IS_INSTALLED, reason="model-signing is not installed")


def keys(directory: Path, name: str = "key") -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    secret, public = directory / f"{name}.pem", directory / f"{name}.pub"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return secret, public


@pytest.fixture
def signed(home: Path) -> Path:
    directory = home / "run"
    directory.mkdir()
    (directory / "metadata.json").write_text("{}")
    return directory


@installed
def test_what_was_signed_is_accepted_and_stays_as_it_was(signed: Path, home: Path) -> None:
    secret, public = keys(home)
    path = sign(signed, "run", secret)
    assert path == signature_path("run") == home / "evidence" / "signatures" / "run.sig.json"
    assert [each.name for each in signed.iterdir()] == ["metadata.json"]
    verify_signature(signed, "run", public)


@installed
@pytest.mark.parametrize("tamper", ["change", "add", "rename", "remove"])
def test_what_was_changed_since_is_refused(signed: Path, home: Path, tamper: str) -> None:
    secret, public = keys(home)
    (signed / "other.txt").write_text("x")
    sign(signed, "run", secret)
    if tamper == "change":
        (signed / "metadata.json").write_text("[]")
    elif tamper == "add":
        (signed / "more.txt").write_text("")
    elif tamper == "rename":
        (signed / "other.txt").rename(signed / "another.txt")
    else:
        (signed / "other.txt").unlink()
    with pytest.raises(SignatureError):
        verify_signature(signed, "run", public)


@installed
def test_another_key_is_refused(signed: Path, home: Path) -> None:
    sign(signed, "run", keys(home)[0])
    with pytest.raises(SignatureError):
        verify_signature(signed, "run", keys(home, "other")[1])


@installed
def test_a_key_that_is_none_is_refused(signed: Path, home: Path) -> None:
    (home / "key.pem").write_text("no key")
    with pytest.raises(SignatureError):
        sign(signed, "run", home / "key.pem")


@installed
def test_a_run_is_signed_and_verified_from_the_command_line(
    copied: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, public = keys(copied.home)
    name = copied.run.name
    assert assay(["sign", name, "--key", str(secret)]) == 0
    assert assay(["verify", name, "--key", str(public)]) == 0
    shutil.copyfile(signature_path(name), signature_path("other"))
    assert assay(["verify", name, "--key", str(keys(copied.home, "other")[1])]) == 5
    assert "should be signed with this key" in capsys.readouterr().err


def test_a_signature_or_a_key_that_is_absent_is_named(signed: Path, home: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no key gone\.pem"):
        sign(signed, "run", home / "gone.pem")
    with pytest.raises(NotFoundError, match="no signature of run"):
        verify_signature(signed, "run", keys(home)[1])


@pytest.mark.skipif(IS_INSTALLED, reason="model-signing is installed")
def test_without_the_package_its_name_is_said(signed: Path, home: Path) -> None:
    with pytest.raises(FeatureError) as caught:
        sign(signed, "run", keys(home)[0])
    assert caught.value.hint == "pip install model-signing pyOpenSSL"
