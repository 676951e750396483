"""What a file may take: `max_bytes` is held against what it declares before anything is taken; long walks end."""

import math
import time

import numpy as np
import pytest
import torch
from drafts import Draft
from forge import (
    ALL,
    BASE,
    BITMASK,
    DENSE,
    DTYPE,
    GAPS,
    INT8,
    LEVELS,
    MIXED,
    RICE,
    SPARSE,
    STATIC,
    alias,
    entry,
    file,
)
from honest import DRAFTS
from lies import ONE
from memory import peak
from sections import stream

from compressor.errors import FormatError, InputError
from compressor.packed import container, pack, reader
from compressor.packed.reader import Entry

ITEM = {DTYPE["F32"]: 4, DTYPE["F64"]: 8, DTYPE["C64"]: 8, DTYPE["I64"]: 8, DTYPE["U8"]: 1, DTYPE["BOOL"]: 1}


def need(draft: Draft) -> int:
    """What docs/formats.md says that the tensors of a file take, an alias like a masked tensor."""
    total = 0
    for own, _ in draft.tensors:
        fields = draft.tensors[own["target"]][0] if "target" in own else own
        masked = "target" in own or fields["role"] or fields["positions"] != ALL
        size = math.prod(fields["shape"])
        streamed = fields["positions"] in (STATIC, MIXED)
        total += size * (streamed if fields["values"] == BASE else ITEM[fields["dtype"]] + bool(masked))
    return total


def refused(path, most, **more):
    with pytest.raises(FormatError, match="claims more memory than a file of this size may"):
        reader.parse(path, max_bytes=most, **more)


@pytest.mark.parametrize("name", [name for name, draft in DRAFTS.items() if not draft.base and need(draft)])
def test_a_file_is_read_within_what_it_needs_and_not_within_a_byte_less(name, slot):
    path, most = slot.put(DRAFTS[name].seal()), need(DRAFTS[name])
    for enough in (most, most + 1, 1 << 60):
        found = reader.parse(path, max_bytes=enough)
        assert [each for each, _ in reader.each(path, max_bytes=enough)] == list(found.tensors)
    for little in (most - 1, most // 2, 0, -1):
        refused(path, little)
        with pytest.raises(FormatError, match="claims more memory"):
            list(reader.each(path, max_bytes=little))


@pytest.mark.parametrize("name", [name for name, draft in DRAFTS.items() if draft.base])
def test_the_base_is_held_against_the_limit_too(name, slot, base_slot):
    draft = DRAFTS[name]
    path, base = slot.put(draft.seal()), base_slot.put(draft.base)
    of_base = sum(entry.decoded for entry in reader.head(base).entries)
    most = max(need(draft), of_base)
    assert reader.parse(path, base, max_bytes=most)
    with pytest.raises(FormatError, match=r"base\.safetensors: .*claims more memory"):
        reader.parse(path, base, max_bytes=of_base - 1)
    refused(path, need(draft) - 1, base=base)


@pytest.mark.parametrize(
    "own",
    [
        entry(positions=GAPS, kept=0, width=1, shape=(1 << 24,)),
        entry(positions=RICE, kept=0, shape=(1 << 12, 1 << 12)),
        entry(positions=RICE, kept=0, role=DENSE, shape=(1 << 24,)),
        entry(positions=STATIC, kept=1, shape=(1 << 18,)),
        entry(positions=MIXED, kept=1, shape=(1 << 9, 1 << 9)),
        entry(role=DENSE, positions=ALL, dtype=DTYPE["U8"], planes=1, shape=(1 << 18,)),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_taken(own, slot):
    path = slot.put(file(own))
    assert peak(lambda: refused(path, 1 << 17)) < 1 << 17


def test_many_aliases_of_one_large_tensor_are_decoded_once(slot):
    mask = np.zeros((1, 1 << 18), int)
    mask[0, 7] = 1
    data = stream(mask, [1])
    large = {"positions": STATIC, "values": LEVELS, "shape": (1 << 18,), "kept": 1, "coded": len(data)}
    own = entry(b"a", **large, decoded=b"".join([bytes(28), ONE, bytes(4 * (1 << 18) - 32)]))
    aliases = [alias(bytes([98 + at]), 0) for at in range(20)]
    once, often = (file(own, *more, sections=data + bytes(4) + ONE) for more in ([], aliases))
    times = []
    for each in (once, often) * 3:
        path, before = slot.put(each), time.process_time()
        found = reader.parse(path, max_bytes=1 << 30).tensors
        times.append(time.process_time() - before)
        assert all(one.data is found["a"].data for one in found.values())
    assert min(times[1::2]) < 3 * min(times[::2]) + 0.005


def test_the_producer_of_a_task_file_takes_no_memory_for_its_shape(slot):
    """The base may contradict the shape, so that without the base nothing is known to be there."""
    first = entry(b"a", values=BASE, positions=GAPS, shape=(2, 1 << 46), kept=1, width=1)
    data = stream([[1, 1], [1, 0]], model="mixed", fan=np.array([1, 0]))
    second = entry(b"b", values=BASE, positions=MIXED, shape=(2, 2), kept=3, producer=1, coded=len(data))
    path = slot.put(file(first, second, sections=b"\x00" + data, flags=4, base=bytes(32)))
    assert peak(lambda: reader.look(path)) < 1 << 20


def walk(shape, positions, size):
    """All but the last weight are 0, and `size` bytes of stream, of which the last is not read."""
    grid = np.zeros((shape[0], math.prod(shape[1:])), int)
    grid[-1, -1] = 1
    data = stream(grid, model="mixed" if positions == MIXED else "static")
    data = data.ljust(size - 1, b"\x00") + b"\x01"
    return file(entry(positions=positions, shape=shape, kept=1, coded=len(data)), sections=data + ONE)


@pytest.mark.parametrize(
    ("shape", "positions", "which", "most"),
    [
        ((896, 1 << 10), STATIC, "core", 0.2),
        ((896, 1 << 10), MIXED, "core", 2.0),
        ((7, 1 << 17), MIXED, "core", 2.0),
        ((448 << 10, 2), MIXED, "core", 2.0),
        ((56, 1 << 10), STATIC, "plain", 2.0),
        ((56, 1 << 10), MIXED, "plain", 5.0),
        ((1 << 10, 8), MIXED, "plain", 5.0),
    ],
)
def test_the_longest_walk_through_forty_bytes_ends(shape, positions, which, most, slot, monkeypatch):
    path = slot.put(walk(shape, positions, 40))
    if which == "plain":
        monkeypatch.setattr(reader, "core", None)
    elif reader.core is None:
        pytest.skip("the C++ core was not built here")
    before = time.process_time()
    with pytest.raises(FormatError, match="has a stream with unread bytes"):
        reader.parse(path)
    assert time.process_time() - before < most


def test_names_that_share_all_but_their_ends_take_no_more_memory_than_a_file_may_have_of_names(slot):
    names = ["w" * 1000 + f"{each:05}" for each in range(20_000)]
    entries = [Entry(name, "dense", "F32", (0,)) for name in names]
    path = slot.put(file(*container.entries_bytes(entries)))

    def call():
        with pytest.raises(FormatError, match="has names of more than 16,777,216 bytes"):
            reader.parse(path)

    assert path.stat().st_size < 20 * len(names)
    assert peak(call) < 1 << 26
    with pytest.raises(InputError, match=r"names of 20,100,000 bytes; those of a packed file have at most"):
        container.check_limits(entries, 1 << 20)


@pytest.mark.parametrize(("role", "positions"), [(DENSE, ALL), (SPARSE, BITMASK), (SPARSE, GAPS)])
def test_rows_without_elements_take_no_memory(role, positions, slot):
    own = entry(values=INT8, role=role, positions=positions, shape=(1 << 40, 0), kept=0)
    path = slot.put(file(own, flags=2, error=bytes(4)))
    assert peak(lambda: reader.parse(path, max_bytes=1 << 20)) < 1 << 20


def test_rows_of_one_element_take_memory_for_those_that_are_kept_only(tmp_path):
    weight = torch.zeros(1 << 22, 1)
    weight[[5, 77, 1 << 20]] = 1.5
    pack({"w": weight}, tmp_path / "w", mask={"w": weight != 0}, values="int8", format="csr")
    assert peak(lambda: reader.parse(tmp_path / "w")) < 6 * weight.numel() + (1 << 24)
