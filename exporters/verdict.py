"""What `verify` found: plain values, and the section `verification` of report.json."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

CHECKS: Final = ("structure", "bits", "outputs", "decisions")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. runtime and tensor are "" where it concerns all of them.

    value, limit: counts for structure and bits, sigmas for outputs and decisions; None where there is none.
    ran: False where the check could not be made; it has then not failed, and the message says why.
    """

    check: str
    runtime: str
    tensor: str
    passed: bool
    value: float | None
    limit: float | None
    message: str
    ran: bool = True


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A sample that a runtime decides otherwise. margin: between the two classes in the float64 reference."""

    sample: int
    expected: int
    got: int
    margin: float
    sigma: float


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    """What really ran. reason: why it did not; settings: what was asked of it, and which layers ran sparse.

    samples: all that it was run on, `referenced` of them against float64 and the others against torch float32.
    max_error, sigma: of the worst sample, in the unit of the outputs; ratio: the one in units of the other.
    agreement, accuracy: fractions; milliseconds: medians for one sample, this and the dense network in turn.
    """

    runtime: str
    ran: bool = False
    reason: str = ""
    version: str = ""
    provider: str = ""
    device: str = ""
    threads: int | None = None
    settings: str = ""
    samples: int = 0
    referenced: int = 0
    max_error: float | None = None
    sigma: float | None = None
    ratio: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    milliseconds: float | None = None
    milliseconds_dense: float | None = None
    disagreements: tuple[Disagreement, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, in the order of the checks, and one row per runtime."""

    checks: tuple[Check, ...]
    runtimes: tuple[RuntimeRow, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed for check in self.checks)

    def failures(self) -> list[str]:
        """Return one sentence per failed check, with check, runtime and tensor named."""
        return [
            " ".join(part for part in (f.check, f.runtime, f.tensor) if part) + f": {f.message}"
            for f in self.checks
            if not f.passed
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the section `verification` of report.json; JSON has no infinity, so None stands for it."""
        found: dict[str, Any] = _finite({"passed": self.passed} | asdict(self))
        return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
