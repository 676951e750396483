"""What makes a run folder resumable: a lock, and a record per finished stage, written last (DESIGN §6).

A record holds the digests of the settings and inputs that a stage had and of the files that it wrote. A stage
whose record fits is not run again; a file that merely exists proves nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compressor import files
from compressor.errors import CompressorError, HostError

VERSION: Final = 2
CHECKPOINT: Final = "checkpoint.pt"
_LOCK: Final = ".lock"
_RUNNING: Final = "running"
REPORT: Final = "report"

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A stage as it would run now. inputs: SHA-256 by name; outputs: files relative to the run folder."""

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]

    @property
    def key(self) -> str:
        """The digest of everything that decides what the stage writes."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if need be, and sweep out what a killed process left half-written.

    Raises HostError if another process holds it or it cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise HostError(
            f"{folder}: another process is running in this folder; wait for it or give another --out"
        ) from None
    except OSError as error:
        raise HostError(f"{folder}: cannot be written ({error.strerror or error})") from error
    try:
        for half in [*folder.glob(".*.part"), *folder.glob("stages/.*.part")]:
            half.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def finished(folder: Path, step: Step) -> Result | None:
    """Return the result of a stage if its record fits and its files are still what it wrote, else None."""
    record = read(folder, step.name)
    if record.get("key") != step.key:
        return None
    outputs = record["outputs"]
    intact = all(
        (folder / path).is_file() and files.sha256(folder / path) == outputs[path] for path in outputs
    )
    return dict(record["result"]) if intact else None


def finish(folder: Path, step: Step, result: Result) -> None:
    """Write the record of a stage, the last thing it does. Raises HostError."""
    outputs = {path: files.sha256(folder / path) for path in step.outputs}
    record = {"version": VERSION, "key": step.key, **asdict(step), "outputs": outputs, "result": result}
    files.write_bytes(_path(folder, step.name), (json.dumps(record, indent=1) + "\n").encode())
    (folder / CHECKPOINT).unlink(missing_ok=True)
    _path(folder, _RUNNING).unlink(missing_ok=True)


def begin(folder: Path, step: Step) -> None:
    """Make way for a stage: the files of another version of it go, and a checkpoint that is not its own."""
    forget(folder, step.name)
    if read(folder, _RUNNING).get("key") != step.key:
        (folder / CHECKPOINT).unlink(missing_ok=True)
        files.write_bytes(_path(folder, _RUNNING), json.dumps({"stage": step.name, "key": step.key}).encode())


def forget(folder: Path, name: str) -> None:
    """Remove the record of a stage, then the files that it wrote."""
    record = read(folder, name)
    _path(folder, name).unlink(missing_ok=True)
    for path in record.get("outputs", ()):
        (folder / path).unlink(missing_ok=True)


def forget_others(folder: Path, names: Iterable[str]) -> None:
    """Forget the stages that are not among the names: rounds that an earlier recipe had."""
    known = {*names, REPORT, _RUNNING}
    for record in sorted((folder / "stages").glob("*.json")):
        if record.stem not in known:
            forget(folder, record.stem)


def adopt(folder: Path, step: Step, siblings: Iterable[Path]) -> Result | None:
    """Take over a stage that another member of a sweep has finished with the same settings and inputs."""
    for sibling in siblings:
        result = finished(sibling, step) if sibling != folder else None
        if result is None:
            continue
        for path in step.outputs:
            with files.writing(folder / path) as beside:
                shutil.copyfile(sibling / path, beside)
        finish(folder, step, result)
        return result
    return None


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return a record as it stands, {} if there is none or it cannot be read."""
    try:
        record = json.loads(files.read_bytes(_path(folder, name)))
    except (CompressorError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("version", VERSION) == VERSION else {}


def _path(folder: Path, name: str) -> Path:
    return folder / "stages" / f"{name}.json"
