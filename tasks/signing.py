"""Signatures of runs and artefacts, by sigstore's `model-signing` with a key of one's own.

A signature covers every file of a directory and lies outside it, in `signatures/` of the evidence
directory: what is signed stays as it was sealed. Nothing is asked of the network.
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tasks import places
from tasks.errors import FeatureError, NotFoundError
from tasks.ledger_errors import SignatureError

SIGNATURES = "signatures"
ENDING = ".sig.json"
PACKAGE = "model-signing pyOpenSSL"


def signature_path(name: str) -> Path:
    """Name the signature of a run, or of an artefact by its ref."""
    return places.evidence() / SIGNATURES / f"{name.replace(':', '-')}{ENDING}"


def sign(directory: Path, name: str, private_key: Path) -> Path:
    """Sign a directory with a P-256 key; return where the signature is.

    Raises: FeatureError, NotFoundError, SignatureError.
    """
    _require_key(private_key)
    path = signature_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    config = _library("signing", "assay sign").Config()
    signer = partial(config.use_elliptic_key_signer, private_key=private_key)
    _attempt(name, lambda: signer().sign(directory, path))
    return path


def verify_signature(directory: Path, name: str, public_key: Path) -> None:
    """Hold a directory to its signature.

    Raises: FeatureError, NotFoundError, SignatureError.
    """
    _require_key(public_key)
    path = signature_path(name)
    if not path.is_file():
        raise NotFoundError(f"signature of {name}", str(path.parent))
    config = _library("verifying", "assay verify --key").Config()
    verifier = partial(config.use_elliptic_key_verifier, public_key=public_key)
    _attempt(name, lambda: verifier().verify(directory, path))


def _require_key(path: Path) -> None:
    if not path.is_file():
        raise NotFoundError(f"key {path.name}", str(path.parent.absolute()))


def _attempt(name: str, work: Callable[[], object]) -> None:
    """Turn whatever the library raises about a key or a signature into one error."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  # it raises ValueError, its own, and cryptography's
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise SignatureError(name, said[0]) from None


def _library(name: str, asked: str) -> Any:
    """Import a module of the optional package.

    Raises: FeatureError.
    """
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError:
        raise FeatureError(asked, "asked for", PACKAGE) from None
