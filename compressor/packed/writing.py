"""From tensors that are given to the packed file: tensor by tensor, several at once if they are small."""

import math
import os
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

import numpy as np

from compressor.errors import HostError, InputError, unknown
from compressor.files import is_folder
from compressor.packed import asni2, base, container, reader, sizing
from compressor.packed.item import Given, Item, Plan, lower, make
from compressor.packed.reader import Array, Entry, Packed
from compressor.packed.sizing import FORMATS, Done, Sizes

VALUES: Final = {"float16": "F16", "bfloat16": "BF16", "int8": "int8"}
BIASES: Final = {"float16": "F16", "bfloat16": "BF16"}
IN_MEMORY: Final = 1 << 26  # bytes of sections that are kept there until the header is known


class Settings:
    """What `write` was asked for, checked."""

    def __init__(self, format: str, values: str | None, biases: str | None, based: Packed | None) -> None:  # noqa: A002
        if format != "auto" and format not in FORMATS:
            raise unknown("format", format, ["auto", *FORMATS])
        if values is not None and values not in VALUES:
            raise unknown("values", values, VALUES)
        if biases is not None and biases not in BIASES:
            raise unknown("biases", biases, BIASES)
        self.format, self.based = format, based
        self.values = "" if values is None else VALUES[values]
        self.biases = "" if biases is None else BIASES[biases]

    def item(self, given: Given) -> Item:
        """Return a tensor as it will be decoded, at the precision that was asked for."""
        try:
            item = make(given.name, given.dtype, given.shape, *given.load())
        except OSError as error:
            why = error.strerror or error
            raise InputError(f'tensor "{given.name}": cannot be read ({why})') from error
        if self.based is not None:
            item = base.in_base(item, self.based)
        if item.values == "base":
            return item
        if item.mask is None:
            values = self.biases or (self.values if self.values != "int8" else "")
        else:
            exact = self.format in ("auto", "asni2") and not isinstance(asni2.levels(item), str)
            values = "" if exact else self.values
        return lower(item, values) if values else item


def write(
    path: Path | str,
    given: Sequence[Given],
    *,
    format: str = "auto",  # noqa: A002
    values: str | None = None,
    biases: str | None = None,
    kind: str = "network",
    base: Path | str | None = None,
    threads: int | None = None,
    compare: bool = True,
) -> Sizes:
    """Write tensors as a packed file and return what it weighs; the same bytes for any number of threads.

    Several are in memory at once only while they take less than 64 MiB together. threads: default one per core.
    compare: measure gzip of the dense file too. All else, and errors: as for `pack`.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads: {threads}; at least one has to work")
    for one in given:
        container.check_name(one.name)
    folder = Path(path).absolute().parent
    if not is_folder(folder):
        raise HostError(f"{path}: cannot be written (there is no folder {folder})")
    based = _based(Path(path), kind, base)
    settings = Settings(format, values, biases, based)
    try:
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder)) as spool:
            done = _sections(given, settings, threads, spool)
            if based is not None and not any(_from_base(one) for one in done):
                wanted = "give the network it was masked from"
                raise InputError(f"{base}: no masked tensor has this file's weights, bit for bit; {wanted}")
            entries = _entries(given, done)
            sizes = sizing.measure(done, entries, kind, _gzip(given, settings, done) if compare else None)
            container.check_limits(entries, sizes.file)
            sha256 = "" if based is None else based.sha256
            spool.seek(0)
            container.write(
                path, container.head(entries, kind, sizes.max_error, bytes.fromhex(sha256)), spool
            )
    except OSError as error:
        raise HostError(f"{path}: cannot be written ({error.strerror or error})") from error
    except MemoryError:
        raise HostError(f"{path}: cannot be written (its tensors do not fit into memory)") from None
    return replace(sizes, base=sha256)


def _based(path: Path, kind: str, base: Path | str | None) -> Packed | None:
    """Return the base of a file of this kind, if there is one and it can be."""
    if kind not in reader.KINDS:
        raise unknown("kind", kind, reader.KINDS)
    if base is None:
        return None
    if path.exists() and path.samefile(base):
        raise InputError(
            f"{path}: is the base, without which the task file cannot be read; give another name"
        )
    found = reader.parse(base)
    if "start" in (kind, found.kind):
        raise InputError(f"{base}: a base and what is made from it are networks, not starts of a training")
    return found


def _from_base(done: Done) -> bool:
    return done.entry.values == "base" and done.entry.role == "sparse" and done.entry.kept > 0


def _sections(
    given: Sequence[Given], settings: Settings, threads: int | None, spool: IO[bytes]
) -> list[Done]:
    """Write the sections, in order, and return what became of each tensor that is no alias."""
    done: list[Done] = []
    fans: dict[str, Future[Array | None]] = {}
    waiting: deque[tuple[int, Future[tuple[Done, Plan]]]] = deque()
    ahead = 0

    def finish() -> None:
        found, plan = waiting.popleft()[1].result()
        for part in plan.parts():
            spool.write(part)
        done.append(found)

    producers = {} if settings.based is not None else _producers(given)
    wanted = set(producers.values())
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        try:
            for one in given:
                if one.alias_of:
                    continue
                size = math.prod(one.shape) * np.dtype(reader.DTYPES[one.dtype]).itemsize
                while waiting and ahead + size > reader.WINDOW:
                    ahead -= waiting[0][0]
                    finish()
                told = fans.setdefault(one.name, Future()) if one.name in wanted else None
                producer = producers.get(one.name, "")
                job = pool.submit(_job, one, settings, producer, fans.get(producer), told)
                waiting.append((size, job))
                ahead += size
            while waiting:
                finish()
        finally:
            for _, job in waiting:
                job.cancel()
            for fan in fans.values():  # what is running must not wait for what is cancelled
                fan.cancel()
    return done


def _job(
    given: Given,
    settings: Settings,
    producer: str,
    fan: "Future[Array | None] | None",
    told: "Future[Array | None] | None",
) -> tuple[Done, Plan]:
    """Load, lower and code one tensor; tell its survivors by row before the coding, for those that wait."""
    try:
        item = settings.item(given)
        if told is not None:
            told.set_result(None if item.mask is None else _by_row(item))
    except BaseException as error:
        if told is not None and not told.cancelled():
            told.set_exception(error)
        raise
    known = None if fan is None else fan.result()
    plan = sizing.choose(
        item, settings.format, (producer, known) if known is not None and known.any() else None
    )
    return sizing.done(item, plan.entry), plan


def _by_row(item: Item) -> Array | None:
    rows = item.entry("all").rows
    assert item.mask is not None
    return item.mask.reshape(rows, -1).sum(1) if 1 < rows <= reader.MAX_COLUMNS else None


def _producers(given: Sequence[Given]) -> dict[str, str]:
    """Return for each masked tensor the last one before it whose rows may be its columns (or groups of them)."""
    found: dict[str, str] = {}
    masked: list[Given] = []
    for one in given:
        if one.alias_of or not one.sparse:
            continue
        if len(one.shape) > 1 and one.shape[1]:
            fitting = [
                other.name
                for other in reversed(masked)
                if len(other.shape) > 1 and other.shape[0] > 1 and one.shape[1] % other.shape[0] == 0
            ]
            found |= {one.name: fitting[0]} if fitting else {}
        masked.append(one)
    return found


def _entries(given: Sequence[Given], done: Sequence[Done]) -> list[Entry]:
    by_name = {one.entry.name: one.entry for one in done}
    return [
        replace(by_name[one.alias_of], name=one.name, role="alias", alias_of=one.alias_of)
        if one.alias_of
        else by_name[one.name]
        for one in given
    ]


def _gzip(given: Sequence[Given], settings: Settings, done: Sequence[Done]) -> int | None:
    entries = [one.entry for one in done]
    if not sizing.squeezable(entries):
        return None
    by_name = {one.name: one for one in given}
    return sizing.gzip(entries, lambda name: settings.item(by_name[name]).blocks())
