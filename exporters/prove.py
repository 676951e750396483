"""Checks 3 and 4 as findings and rows: start the runtimes, survey the data, judge, and time what passed."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from exporters.outputs import LIMIT, MARGIN, Survey, Tally, survey
from exporters.rounding import Reference
from exporters.runtimes import start
from exporters.runtimes.session import AbsentError, KernelError, Network, Session, milliseconds
from exporters.samples import Batch
from exporters.standard import Standard
from exporters.verdict import Check, RuntimeRow

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples to prove it on. batches: None where there are none, and then why; origin: "" or "random inputs"."""

    batches: Iterable[Batch] | None
    why: str
    origin: str
    referenced: int | None


def prove(
    names: Sequence[str], network: Network, outputs: Sequence[str], samples: Samples
) -> tuple[list[Check], tuple[RuntimeRow, ...]]:
    """Return the findings of checks 3 and 4 and one row per runtime, in the order of `names`.

    outputs: the names of the graph's outputs.
    """
    found, rows, sessions = _started(names, network)
    if samples.batches is None:
        found.append(Check("outputs", "", "", True, None, LIMIT, f"not run: {samples.why}", ran=False))
        idle = [RuntimeRow(s.runtime, reason=samples.why, version=s.version) for s in sessions]
        return found, _ordered(names, [*rows, *idle])
    if not sessions:
        found.append(Check("outputs", "", "", False, None, LIMIT, f"none of {', '.join(names)} ran"))
        return found, _ordered(names, rows)
    standard = _standard(network, sessions)
    seen = survey(sessions, samples.batches, standard, samples.referenced)
    found += [_output(s, seen, outputs, standard, sessions[0].runtime, samples.origin) for s in sessions]
    agreed = all(check.passed for check in found)
    if agreed:
        found += _decisions(sessions, seen, standard is not None)
    rows += [_row(session, seen, standard is not None, agreed) for session in sessions]
    return found, _ordered(names, rows)


def _started(names: Sequence[str], network: Network) -> tuple[list[Check], list[RuntimeRow], list[Session]]:
    found: list[Check] = []
    rows: list[RuntimeRow] = []
    sessions: list[Session] = []
    for name in names:
        try:
            sessions.append(start(name, network))
        except AbsentError as error:
            rows.append(RuntimeRow(name, reason=str(error)))
        except Exception as error:  # whatever a runtime raises is the finding; a ProviderError of ours too
            text = f"does not start: {str(error).strip()}"
            rows.append(RuntimeRow(name, reason=text))
            if isinstance(error, KernelError) and network.bfloat16:
                found.append(Check("outputs", name, "", True, None, LIMIT, f"not run: {error}", ran=False))
                continue
            found.append(Check("outputs", name, "", False, None, LIMIT, text))
    _log.info("runtimes: %s", ", ".join(session.runtime for session in sessions))
    return found, rows, sessions


def _standard(network: Network, sessions: Sequence[Session]) -> Standard | None:
    if network.module is None:
        return None
    single = next((s for s in sessions if s.runtime == "torch_cpu"), None) or start("torch_cpu", network)
    return Standard(Reference(network.module), single.run)


def _output(
    session: Session, seen: Survey, outputs: Sequence[str], standard: Standard | None, first: str, origin: str
) -> Check:
    tally = seen.tallies[session.runtime]
    count = f"{seen.samples} samples" + (f" ({origin})" if origin else "")
    if standard is None:
        text = tally.failure or f"no reference; differs from {first} by at most {tally.error:.3g} on {count}"
        return Check("outputs", session.runtime, "", not tally.failure, None, None, text)
    if tally.failure:
        name = outputs[tally.output] if tally.output < len(outputs) else ""
        return Check("outputs", session.runtime, name, False, tally.ratio, LIMIT, tally.failure)
    text = f"largest error {tally.error:.3g}, {tally.ratio:.2f} sigma, on {count}: {seen.referenced} against float64"
    text += (
        f", {seen.samples - seen.referenced} against torch float32" if seen.samples > seen.referenced else ""
    )
    return Check("outputs", session.runtime, "", True, tally.ratio, LIMIT, text)


def _decisions(sessions: Sequence[Session], seen: Survey, judged: bool) -> list[Check]:
    if seen.undecided:
        return [Check("decisions", "", "", True, None, MARGIN, f"not run: {seen.undecided}", ran=False)]
    return [
        _decision(session.runtime, seen.tallies[session.runtime], seen.samples, judged)
        for session in sessions
    ]


def _decision(runtime: str, tally: Tally, samples: int, judged: bool) -> Check:
    text = f"{samples - len(tally.disagreements)} of {samples} decided alike"
    if not judged:
        return Check("decisions", runtime, "", True, None, None, f"{text}; no reference")
    margins = [(_over(one.margin, one.sigma), one) for one in tally.disagreements]
    worst = max((ratio for ratio, _ in margins), default=0.0)
    wrong = [(ratio, one) for ratio, one in margins if ratio > MARGIN]
    shown = [
        f"sample {one.sample} ({one.expected} -> {one.got}) by {ratio:.3g} sigma" for ratio, one in wrong[:10]
    ]
    if wrong:
        text += f"; {len(wrong)} not by rounding, limit {MARGIN:g} sigma: {', '.join(shown)}"
    elif margins:
        text += f"; the others within rounding, {worst:.3g} sigma at most"
    return Check("decisions", runtime, "", not wrong, worst, MARGIN, text)


def _over(margin: float, sigma: float) -> float:
    if margin == 0:
        return 0.0
    return margin / sigma if sigma else math.inf


def _row(session: Session, seen: Survey, judged: bool, timed: bool) -> RuntimeRow:
    tally = seen.tallies[session.runtime]
    row = RuntimeRow(
        runtime=session.runtime,
        ran=True,
        version=session.version,
        provider=session.provider,
        device=session.device,
        threads=session.threads,
        settings=session.settings(),
        samples=seen.samples,
        referenced=seen.referenced,
        max_error=tally.error,
        sigma=tally.sigma if judged else None,
        ratio=tally.ratio if judged else None,
    )
    if tally.failure:
        return replace(row, reason=tally.failure)
    if not seen.undecided:
        agreement = 1 - len(tally.disagreements) / seen.samples
        accuracy = tally.correct / tally.labelled if tally.labelled else None
        row = replace(row, agreement=agreement, accuracy=accuracy, disagreements=tuple(tally.disagreements))
    if timed:
        this, dense = milliseconds(session, seen.first)
        row = replace(row, milliseconds=this, milliseconds_dense=dense)
    return row


def _ordered(names: Sequence[str], rows: Sequence[RuntimeRow]) -> tuple[RuntimeRow, ...]:
    return tuple(sorted(rows, key=lambda row: names.index(row.runtime)))
