"""Judge somebody's evidence by nothing but what is in its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from evidence import audit_account, audit_epochs, audit_hashes, audit_losses
from evidence.audit_evidence import Evidence
from evidence.audit_rule import Rule

RULES: tuple[Rule, ...] = (
    *audit_epochs.RULES,
    *audit_hashes.RULES,
    *audit_losses.RULES,
    *audit_account.RULES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    rule: str
    file: str
    field: str
    found: str
    should: str
    resembles: str

    def __str__(self) -> str:
        what = f"{self.field} is {self.found}, should be {self.should}"
        return f"{self.rule}: {self.file}: {what} ({self.resembles})"

    def as_record(self) -> dict[str, str]:
        """Write the finding as plain values."""
        return asdict(self)


def audit(evidence: Evidence, peaks: Mapping[str, float] | None = None) -> list[Finding]:
    """Apply every rule.

    Units: peaks in operations a second by device name.
    """
    rules = (*RULES, audit_account.impossible_speeds(peaks or {}))
    return [
        Finding(
            rule=rule.id,
            file=seen.file,
            field=_encodable(seen.field),
            found=_encodable(seen.found),
            should=_encodable(seen.should),
            resembles=rule.resembles,
        )
        for rule in rules
        for seen in rule.look(evidence)
    ]


def _encodable(text: str) -> str:
    """Spell out what is no Unicode: JSON can hold halves of characters."""
    return text.encode(errors="backslashreplace").decode()
