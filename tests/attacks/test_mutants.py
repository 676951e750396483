"""Mutants whose CRC-32, digests and streams were made to fit: a FormatError or tensors within the budget, no more."""

import time
import tracemalloc

import pytest
from mutants import mutants, with_crcs

from compressor.errors import FormatError, InputError
from compressor.packed import reader, sizes

SECONDS, BYTES = 1.0, 64 << 20
# Bytes of tensors; plain Python takes a hundred times as long for each.
MOST = {"core": 16 << 20, "plain": 1 << 16}


def files(seed, count, slot, base_slot):
    """Path and base of each mutant; every second one has the CRC-32 of what it decodes to."""
    for at, (_, draft) in enumerate(mutants(seed, count)):
        base = base_slot.put(draft.base) if draft.base else None
        yield slot.put(with_crcs(draft, slot, base) if at % 2 else draft.seal()), base


def survive(seed, count, coder, slot, base_slot):
    """At least a quarter has to get through, or the mutants are too rough to find anything."""
    refused = 0
    for at, (path, base) in enumerate(files(seed, count, slot, base_slot)):
        traced = at // 2 % 2 == 1  # of memory; that takes several times as long, so that the others are timed
        before = time.process_time()
        if traced:
            tracemalloc.start()
        try:
            reader.parse(path, base, max_bytes=MOST[coder])
        except FormatError:
            refused += 1
        except InputError:  # the mutant names another base, or none
            assert base
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert traced or time.process_time() - before < SECONDS
        assert peak < BYTES
    assert count / 2 < refused < count * 3 / 4


def said(read, path, *base, **more):
    """What a reader gives or says, to be compared."""
    try:
        found = read(path, *base, **more)
        tensors = found.tensors.items() if isinstance(found, reader.Packed) else found
        return [
            (name, one.dtype, one.shape, one.role, one.kept, one.levels, one.alias_of, one.data.tobytes())
            for name, one in tensors
        ]
    except (FormatError, InputError) as error:
        return str(error)


def test_mutants_are_refused_or_read_within_the_budget(coder, slot, base_slot):
    survive(0, 2_000 if coder == "core" else 1_000, coder, slot, base_slot)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_mutants_are_refused_or_read_within_the_budget(seed, coder, slot, base_slot):
    survive(seed, 20_000, coder, slot, base_slot)


def test_both_coders_and_every_way_to_read_say_the_same_of_a_mutant(slot, base_slot, monkeypatch):
    most = {"max_bytes": MOST["plain"]}
    for path, base in files(3, 500, slot, base_slot):
        found = said(reader.parse, path, base, **most)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "core", None)
            assert said(reader.parse, path, base, **most) == found
        assert said(reader.each, path, base, **most) == found
        if base is None and not isinstance(found, str):
            assert said(reader.look, path) == found
            assert sizes(path).file == path.stat().st_size
