"""Whatever the bytes: FormatError for what is wrong, in less than 0.1 s of the processor and in bounded memory."""

import hashlib
import re
import time
import tracemalloc

import pytest
from forge import file
from lies import CONTAINER, DIGEST, HONEST, W, dense, task
from lies_base import BASE_LIES, MASK_LIES
from lies_header import CODES, NAMES, SIZES
from lies_old import OLD
from lies_positions import POSITIONS
from lies_streams import STREAMS
from lies_values import VALUES

from compressor.errors import FormatError
from compressor.packed import reader, sizes

LIES = {
    f"{lie} ({reason})": (reason, data)
    for lies in (CONTAINER, NAMES, CODES, SIZES, POSITIONS, STREAMS, VALUES, OLD, MASK_LIES)
    for reason, each in lies.items()
    for lie, data in each.items()
}
OF_A_BASE = {lie: (reason, data) for reason, each in BASE_LIES.items() for lie, data in each.items()}
SECONDS, BYTES = 0.1, 12 << 20
TRIES = 3


@pytest.fixture
def base(base_slot):
    return base_slot.put(HONEST)


def refused(path, base, reason, call=reader.parse):
    """Refused for this reason, in the time and memory that there is."""
    about = rf"w\.safetensors: .*{re.escape(reason)}"
    times = []
    for _ in range(TRIES):  # the machine may be busy with something else once
        before = time.process_time()
        with pytest.raises(FormatError, match=about):
            call(path, base)
        times.append(time.process_time() - before)
        if times[-1] < SECONDS:
            break
    assert min(times) < SECONDS
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=about):
            call(path, base)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


def test_the_files_that_all_lies_start_from_are_read(slot, base):
    assert reader.parse(base).tensors["w"].data.tolist() == [1, 0, 0, 0]
    path = slot.put(task(dense(values=4)))
    assert reader.parse(path, base).tensors["w"].data.tobytes() == W


def test_every_lie_is_told_once():
    every = [data for _, data in (LIES | OF_A_BASE).values()]
    assert len({hashlib.sha256(data).digest() for data in every}) == len(every)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_for_what_it_is_quickly_and_in_bounded_memory(lie, slot, base, coder):
    reason, data = LIES[lie]
    refused(slot.put(data), base if DIGEST in data else None, reason)


@pytest.mark.parametrize("lie", OF_A_BASE)
def test_a_lie_about_a_base_is_refused_so_too_and_is_no_lie_without_it(lie, slot, base, coder):
    reason, data = OF_A_BASE[lie]
    path = slot.put(data)
    refused(path, base, reason)
    tracemalloc.start()
    try:
        reader.look(path)
        sizes(path)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reason", MASK_LIES)
def test_a_lie_about_a_mask_over_a_base_is_refused_without_the_base_too(reason, slot, base, coder):
    for data in MASK_LIES[reason].values():
        path = slot.put(data)
        for call in (reader.look, sizes, lambda path: list(reader.each(path, partly=True))):
            refused(path, None, reason, lambda path, _, call=call: call(path))
        assert reader.main([str(path)]) == 3


def test_a_base_that_is_no_whole_network_is_a_lie_of_the_task_file(slot, base_slot):
    chained = task(dense(values=4))
    for false in (chained, file(dense(), sections=W, flags=1)):
        base = base_slot.put(false)
        path = slot.put(task(dense(values=4), base=hashlib.sha256(false).digest()))
        with pytest.raises(FormatError, match=r"w\.safetensors: has a base that is no whole network"):
            reader.parse(path, base)


@pytest.mark.parametrize(
    "read", [reader.parse, reader.look, reader.head, sizes, lambda path: next(reader.each(path))]
)
def test_a_wrong_digest_is_refused_by_every_way_to_read(read, slot):
    reason, data = LIES["digest of another file (does not match its SHA-256)"]
    with pytest.raises(FormatError, match=reason):
        read(slot.put(data))
