"""What can go wrong in the flows package.

FlowError
+-- UsageError             a preset, a key, a value or an option that cannot be used
|   +-- UnknownPresetError
|   +-- UnknownSettingError
|   +-- WrongValueError
|   +-- WrongUseError      options that do not go together
|   +-- OpenServerError    servers that others could reach without a login
+-- ServerRefusedError     the Prefect server does not let us in
+-- ServerLostError        the Prefect server went away, or failed, under a run
+-- PortBusyError          another program listens where a service should
+-- ServiceFailedError     a service did not come up
+-- PrefectUnreachableError  the server of PREFECT_API_URL does not answer
+-- NotApprovedError       nobody agreed to what waits for a person
+-- RunGoesOnError         a run that has not ended yet cannot be verified as a whole
+-- VerificationError      evidence that does not hold; lists what fails
    +-- RunKilledError     a run whose process ended before it did
    +-- InvalidModelError  a model whose content, or whose bundle, fails checks
"""

import difflib
from dataclasses import dataclass


class FlowError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""


class UsageError(FlowError):
    """Something that was asked for and cannot be meant."""


@dataclass(eq=False)
class UnknownPresetError(UsageError):
    """A preset that does not exist."""

    preset: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"preset {self.preset} does not exist, should be one of {', '.join(self.known)}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on what was written
        """Name the preset that was probably meant, or say where they are."""
        closest = difflib.get_close_matches(self.preset, self.known, n=1)
        return f"did you mean {closest[0]}?" if closest else "they are in flows/presets"


@dataclass(eq=False)
class UnknownSettingError(UsageError):
    """A key that no setting has."""

    where: str
    key: str
    closest: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key} is not a setting, should be one of the preset's keys"

    @property
    def hint(self) -> str:  # type: ignore[override]  # depends on what was written
        """Name the closest key."""
        return f"did you mean {self.closest}?" if self.closest else "see flows/presets/"


@dataclass(eq=False)
class WrongValueError(UsageError):
    """A value of the wrong type, or one that is missing."""

    where: str
    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key} is {self.found}, should be {self.expected}"


@dataclass(eq=False)
class WrongUseError(UsageError):
    """Options that do not go together."""

    command: str
    expected: str

    def __str__(self) -> str:
        return f"{self.command}: the options do not go together, should be {self.expected}"

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the command
        """Name the command's help."""
        return f"see {self.command} --help"


@dataclass(eq=False)
class OpenServerError(UsageError):
    """Servers that others could reach without a login."""

    host: str
    variable: str
    hint = "set it to a secret of your own (docker/README.md), or leave out --host"

    def __str__(self) -> str:
        return f"--host {self.host}: {self.variable} is not set, should be: others would get in"


@dataclass(eq=False)
class ServerRefusedError(FlowError):
    """The Prefect server does not let us in."""

    url: str
    status: int
    hint = "set PREFECT_API_AUTH_STRING to the server's USER:PASSWORD"

    def __str__(self) -> str:
        return f"PREFECT_API_URL: {self.url} answers {self.status} to our login, should be 200"


@dataclass(eq=False)
class ServerLostError(FlowError):
    """The Prefect server went away, or failed, under a run."""

    url: str
    reason: str
    hint = "what is finished is kept: run the same command when the server answers"

    def __str__(self) -> str:
        return f"PREFECT_API_URL: {self.url}: {self.reason}, should answer until the run has ended"


@dataclass(eq=False)
class PortBusyError(FlowError):
    """Another program listens where a service should."""

    service: str
    host: str
    port: int
    option: str

    def __str__(self) -> str:
        return f"{self.service}: {self.host}:{self.port} is in use, should be free"

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the option
        """Name the option that chooses another port."""
        return f"choose another with {self.option}, or stop the program that listens there"


@dataclass(eq=False)
class ServiceFailedError(FlowError):
    """A service did not come up."""

    service: str
    log: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.service}: not answering after {self.seconds:.0f} s, should be up"

    @property
    def hint(self) -> str:  # type: ignore[override]  # names the log
        """Name the log."""
        return f"read {self.log}"


@dataclass(eq=False)
class PrefectUnreachableError(FlowError):
    """The server that the environment names does not answer."""

    url: str
    reason: str
    hint = "start it, or unset PREFECT_API_URL: assay then starts a server of its own"

    def __str__(self) -> str:
        return f"PREFECT_API_URL is {self.url}: {self.reason}, should answer"


@dataclass(eq=False)
class NotApprovedError(FlowError):
    """Nobody agreed in time to a run that waits for a person."""

    seconds: float
    hint = "resume the paused run in the Prefect UI, or start it without ask_first"

    def __str__(self) -> str:
        return f"approval: nobody resumed the run in {self.seconds:.0f} s, should be one person"


@dataclass(eq=False)
class VerificationError(FlowError):
    """Evidence that does not hold."""

    subject: str
    num_checks: int
    failures: tuple[str, ...]
    hint = "what is named above is not what the record says; restore it, or run again"

    def __str__(self) -> str:
        listed = "\n".join(f"  {failure}" for failure in self.failures)
        failed = f"{len(self.failures)} of {self.num_checks} checks failed"
        return f"{self.subject}: {failed}, should be none\n{listed}"


@dataclass(eq=False)
class RunGoesOnError(FlowError):
    """A run that has not ended yet, of which all holds that there is."""

    subject: str
    num_checks: int
    hint = "verify it again when it has ended; `assay status` shows how far it is"

    def __str__(self) -> str:
        return f"{self.subject}: the run goes on ({self.num_checks} checks hold so far), should end"


@dataclass(eq=False)
class RunKilledError(VerificationError):
    """A run whose process ended before it did."""

    hint = "run the same command again: what is finished is kept, and a new record written"


@dataclass(eq=False)
class InvalidModelError(VerificationError):
    """A model whose content, or whose bundle, fails checks."""

    hint = "gates F-DATA-QUALITY look for weights that were never trained, or were lost on the way"
