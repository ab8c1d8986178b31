"""The packages installed beside the running Python as a source, its standard library one of them.

A path begins with the name of its package, which is also its repository: a split by repository
keeps whole packages apart.
"""

import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import IO

from data.errors import MissingSourceError
from data.globs import matcher
from data.source_places import Listed, Origin, walk

STANDARD_LIBRARY = "python"
OF_PYTHON = ("PSF-2.0",)
INSTALLED = ("site-packages/**", "dist-packages/**")
"""Where other packages may be within the standard library."""
SPDX_OF = {
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd license": "BSD",
    "bsd": "BSD",
    "3-clause bsd": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "isc license (iscl)": "ISC",
    "isc": "ISC",
    "mit license": "MIT",
    "mit": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "psf": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
"""Identifiers of what package metadata says otherwise; BSD where it does not say which."""
IDENTIFIER = re.compile(r"[A-Za-z0-9.+-]+")
OPERATORS = frozenset({"AND", "OR", "WITH"})
LONGEST_NAME = 60
"""Of a licence; what is longer is its text."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package, or the standard library."""

    root: Path
    origin: Origin


@dataclass(frozen=True, slots=True)
class PackagesPlace:
    """The files of all packages."""

    site: Path
    packages: Mapping[str, Package]

    @property
    def name(self) -> str:
        """The directory of the packages."""
        return str(self.site)

    @property
    def is_local(self) -> bool:
        """True."""
        return True

    def where(self, path: str) -> str:
        """The path of the file."""
        return str(self.local(path, Path()))

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        """Yield the standard library's files, and those that packages name as theirs."""
        excluded = matcher(exclude)
        library = self.packages[STANDARD_LIBRARY].root
        owned = [(STANDARD_LIBRARY, path) for path in walk(library, INSTALLED)]
        for name, distribution in _installed(self.site).items():
            owned += [(name, path) for path in _files(distribution)]
        for name, path in owned:
            if not excluded(f"{name}/{path}") and (self.packages[name].root / path).is_file():
                yield Listed(f"{name}/{path}", 0, "")

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        return self.local(path, Path()).open("rb")

    def local(self, path: str, directory: Path) -> Path:
        """Return the file's own path."""
        del directory
        name, _, inside = path.partition("/")
        return self.packages[name].root / inside

    def origin(self, path: str) -> Origin:
        """Return what the package of a file says of itself."""
        return self.packages[path.partition("/")[0]].origin


def packages_place() -> PackagesPlace:
    """Return the place of what this Python can import from its own installation.

    Raises: MissingSourceError.
    """
    site, library = (Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib"))
    for root in (site, library):
        if not root.is_dir():
            raise MissingSourceError(root)
    version = sysconfig.get_python_version()
    packages = {
        STANDARD_LIBRARY: Package(library, Origin(STANDARD_LIBRARY, version, OF_PYTHON)),
        **{
            name: Package(site, Origin(name, found.version, licences_of(found)))
            for name, found in _installed(site).items()
        },
    }
    return PackagesPlace(site, packages)


def licences_of(distribution: Distribution) -> tuple[str, ...]:
    """Return SPDX identifiers of what a package says of its licence, none where it says nothing.

    An alternative counts as if both applied.

    Source: Python's core metadata specification 2.4.
    """
    said = distribution.metadata
    if "License-Expression" in said:
        expression = said["License-Expression"]
        return tuple(sorted(set(IDENTIFIER.findall(expression)) - OPERATORS))
    classifiers = said.get_all("Classifier") or ()
    names = [each.split(" :: ")[-1] for each in classifiers if each.startswith("License :: ")]
    names = [name for name in names if name != "OSI Approved"] or said.get_all("License") or []
    return tuple(sorted({_identifier(name) for name in names if 0 < len(name) <= LONGEST_NAME}))


def _identifier(name: str) -> str:
    return SPDX_OF.get(name.strip().lower(), name.strip())


def _installed(site: Path) -> dict[str, Distribution]:
    """Name every package; one that is the standard library's namesake is left out."""
    found = {each.metadata["Name"]: each for each in distributions(path=[str(site)])}
    return {name: found[name] for name in sorted(found) if name and name != STANDARD_LIBRARY}


def _files(distribution: Distribution) -> Iterator[str]:
    for path in distribution.files or ():
        if ".." not in path.parts and not path.is_absolute():
            yield path.as_posix()
