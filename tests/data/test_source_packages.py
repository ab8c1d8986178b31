"""Installed packages as a source: whose each file is, and under which licence."""

import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from data.errors import ChangedSourceError, MissingSourceError
from data.source import open_source
from data.source_packages import licences_of
from tests.data.sources import fetching_in, rows_of, settings_of


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python with a standard library and two packages."""
    library, site = tmp_path / "lib", tmp_path / "lib" / "site-packages"
    monkeypatch.setattr(
        sysconfig, "get_path", {"stdlib": str(library), "purelib": str(site)}.__getitem__
    )
    monkeypatch.setattr(sysconfig, "get_python_version", lambda: "3.99")
    write(library / "json" / "decoder.py", "import re\n")
    install(site, "Apple", "1.0", "License-Expression: MIT", {"apple/core.py": "x = 1\n"})
    install(site, "pear", "2.1", "", {"pear/a.py": "y = 2\n", "../../bin/pear.py": "no\n"})
    write(site / "loose.py", "nobody names me\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def install(site: Path, name: str, version: str, headers: str, files: dict[str, str]) -> None:
    for path, text in files.items():
        write(site / path, text)
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{headers}\n"
    info = site / f"{name}-{version}.dist-info"
    write(info / "METADATA", metadata)
    write(info / "RECORD", "".join(f"{path},,\n" for path in [*files, "gone/never_written.py"]))


def rows(directory: Path) -> list[dict[str, object]]:
    settings = settings_of("python-packages", "", include=("**/*.py",), licence="BSD")
    return rows_of(open_source(settings, fetching=fetching_in(directory)), directory)


def test_every_file_has_the_name_version_and_licence_of_its_package(installation: Path) -> None:
    keys = ("path", "repository", "revision", "licences", "content")
    assert [tuple(row[key] for key in keys) for row in rows(installation)] == [
        ("Apple/apple/core.py", "Apple", "1.0", ["MIT"], b"x = 1\n"),
        ("pear/pear/a.py", "pear", "2.1", ["BSD"], b"y = 2\n"),
        ("python/json/decoder.py", "python", "3.99", ["PSF-2.0"], b"import re\n"),
    ]


def test_a_file_that_changed_after_it_was_pinned_is_refused(installation: Path) -> None:
    settings = settings_of("python-packages", "", include=("**/*.py",))
    source = open_source(settings, fetching=fetching_in(installation))
    changed = installation / "lib" / "site-packages" / "pear" / "a.py"
    changed.write_text("z = 3\n")
    with pytest.raises(ChangedSourceError) as caught:
        rows_of(source, installation)
    assert caught.value.path == changed


def test_a_python_without_packages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path / "absent"))
    with pytest.raises(MissingSourceError) as caught:
        rows(tmp_path)
    assert caught.value.path == tmp_path / "absent"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("License-Expression: MIT", ("MIT",)),
        ("License-Expression: (Apache-2.0 OR BSD-2-Clause) AND MIT",
         ("Apache-2.0", "BSD-2-Clause", "MIT")),
        ("Classifier: License :: OSI Approved :: Apache Software License", ("Apache-2.0",)),
        ("Classifier: License :: OSI Approved\nLicense: BSD 3-Clause", ("BSD-3-Clause",)),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
         ("GNU General Public License v3 (GPLv3)",)),
        ("License: mit", ("MIT",)),
        ("License: " + "Permission is hereby granted, free of charge, to any person " * 2, ()),
        ("", ()),
    ],
)  # fmt: skip
def test_licences_are_what_the_metadata_says(
    tmp_path: Path, headers: str, expected: tuple[str, ...]
) -> None:
    install(tmp_path, "x", "1", headers, {})
    assert licences_of(PathDistribution(tmp_path / "x-1.dist-info")) == expected


def test_the_real_installation_can_be_listed() -> None:
    settings = settings_of("python-packages", "", include=("**/typer/*.py", "python/json/*.py"))
    source = open_source(settings, fetching=fetching_in(Path("nowhere")))
    found = {file.path for unit in source.units for file in unit.files}
    assert {"typer/typer/main.py", "python/json/decoder.py"} <= found
