"""Format `bitmask`: one bit per weight, least significant bit of each byte first, then the kept values."""

from collections.abc import Iterator

from compressor.packed.item import Item, bit_bytes, value_bytes
from compressor.packed.reader import Entry


def plan(item: Item) -> Entry | str:
    """Return the header entry; this format can store every tensor."""
    return item.entry("bitmask", item.values)


def sections(item: Item, entry: Entry) -> Iterator[bytes]:  # noqa: ARG001
    """Yield the mask, then the kept values in row-major order."""
    assert item.mask is not None
    yield bit_bytes(item.mask)
    yield value_bytes(item, item.kept_bits)
