"""What can go wrong with plans, withdrawals and signatures.

TaskError
+-- WithdrawnError     a run whose claims were withdrawn before
+-- OtherVersionError  a plan that this version of a stage does not carry out
+-- SignatureError     a signature that does not hold, or a key that cannot be used
"""

from dataclasses import dataclass

from tasks.errors import TaskError


@dataclass(eq=False)
class WithdrawnError(TaskError):
    """A run whose claims were withdrawn before."""

    run: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.run}: withdrawn in line {self.line} ({self.reason}), should be a claim still"


@dataclass(eq=False)
class OtherVersionError(TaskError):
    """A plan that was written for another version of a stage."""

    path: str
    stage: str
    planned: int | None
    found: int
    hint = "check out the commit that the plan names, or write a new plan with `assay plan`"

    def __str__(self) -> str:
        return f"{self.path}: {self.stage} has version {self.planned}, should have {self.found}"


@dataclass(eq=False)
class SignatureError(TaskError):
    """A signature that does not hold, or a key that cannot be used."""

    name: str
    reason: str
    hint = "keys are P-256 in PEM: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}, should be signed with this key"
