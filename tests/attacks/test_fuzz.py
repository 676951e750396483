"""Random bytes changed under a correct digest: the tensors or a FormatError, never another exception."""

import contextlib
import random

import pytest
from forge import seal, wrap
from honest import HONEST

from compressor.errors import FormatError, InputError
from compressor.packed import reader, sizes


def mutants(files, seed, count):
    """Yield sealed files with one to four changes behind the safetensors header."""
    random_ = random.Random(seed)
    for _ in range(count):
        data = random_.choice(files)
        begin = 8 + int.from_bytes(data[:8], "little")
        inner = bytearray(data[begin:-32])
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(inner))
            what = random_.random()
            if what < 0.8:
                inner[at] = random_.choice([random_.randrange(256), inner[at] ^ 1 << random_.randrange(8)])
            elif what < 0.9:
                inner.insert(at, random_.choice([0, 1, 127, 128, 255]))
            elif len(inner) > 1:
                del inner[at]
        yield seal(wrap(bytes(inner)) + bytes(inner))


def survive(slot, files, seed, count, base=None):
    read = 0
    for mutant in mutants(files, seed, count):
        path = slot.put(mutant)
        try:
            reader.parse(path, base, max_bytes=1 << 20)
            read += 1
        except FormatError:
            pass
        except InputError:  # the mutant names another base, or, turned into version 1, none
            assert base
        if base:
            with contextlib.suppress(FormatError):
                sizes(path)
    assert read < count / 10


@pytest.fixture
def folder(request):
    return request.path.parents[1]


def whole(folder):
    """Files that need no base: of all versions, fixtures and golden files among them."""
    kept = [*folder.glob("fixtures/v1-*"), *folder.glob("golden/v3-*")]
    found = [path.read_bytes() for path in sorted(kept) if not reader.head(path).base]
    return [*found, *(data for data, base in HONEST.values() if not base)]


def test_damage_under_a_correct_digest_is_a_format_error(slot, folder):
    survive(slot, whole(folder), 0, 2_000)


def test_damage_in_a_task_file_under_a_correct_digest_is_a_format_error(slot, folder):
    task = (folder / "fixtures" / "v2-task.safetensors").read_bytes()
    survive(slot, [task], 0, 2_000, folder / "fixtures" / "v1-bitmask.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_much_damage_under_a_correct_digest_is_a_format_error(slot, folder, seed):
    survive(slot, whole(folder), seed, 10_000)
