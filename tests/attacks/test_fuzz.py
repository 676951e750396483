"""Random damage under a correct digest: the tensors or a FormatError, never another exception."""

import contextlib
import random

import pytest
from forge import seal
from lies import HONEST

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
        yield seal(reader.outer(len(inner) + 32) + bytes(inner))


def survive(tmp_path, files, monkeypatch, seed, count, base=None):
    monkeypatch.setattr(reader, "memory_limit", lambda size: 1 << 20)  # a mutant may claim 128 MiB of zeros
    path = tmp_path / "w.safetensors"
    read = 0
    for mutant in mutants(files, seed, count):
        path.write_bytes(mutant)
        try:
            reader.parse(path, base)
            read += 1
        except FormatError:
            pass
        except InputError:  # the mutant names another base, or, turned into version 1, none
            assert base
        if base:
            with contextlib.suppress(FormatError):
                sizes(path)
    assert read < count / 10


def of_version_1(fixtures):
    return [HONEST, *(path.read_bytes() for path in sorted(fixtures.glob("v1-*.safetensors")))]


def test_damage_under_a_correct_digest_is_a_format_error(tmp_path, request, monkeypatch):
    survive(tmp_path, of_version_1(request.path.parents[1] / "fixtures"), monkeypatch, 0, 2_000)


def test_damage_in_a_task_file_under_a_correct_digest_is_a_format_error(tmp_path, request, monkeypatch):
    fixtures = request.path.parents[1] / "fixtures"
    task = (fixtures / "v2-task.safetensors").read_bytes()
    survive(tmp_path, [task], monkeypatch, 0, 2_000, fixtures / "v1-bitmask.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_much_damage_under_a_correct_digest_is_a_format_error(tmp_path, request, monkeypatch, seed):
    survive(tmp_path, of_version_1(request.path.parents[1] / "fixtures"), monkeypatch, seed, 10_000)
