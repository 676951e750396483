"""The writer: names, folders, bases and threads that cannot be, and errors that end it at once."""

import sys
import threading

import numpy as np
import pytest
import torch

from compressor.errors import FormatError, HostError, InputError
from compressor.packed import pack, reader, write
from compressor.packed.item import Given

ROUNDS = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def often():
    """Threads that take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def within(seconds, call):
    """Run a call in a thread that may hang; return what it raised."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


def layers(count):
    """Square layers, each the producer of the next."""
    state = {f"{at}.weight": torch.randn(48, 48) for at in range(count)}
    return {name: torch.where(one > 1, one, 0.0) for name, one in state.items()}


def test_an_error_in_one_tensor_ends_the_writing_of_those_that_wait_for_it(path, often):
    def given(name, bits):
        return Given(name, "F32", (48, 48), True, lambda: (bits.view("<u4"), np.zeros(48 * 48, bool)))

    bits = np.zeros(48 * 48, np.float32)
    tensors = [given("0.weight", bits + 1), *(given(f"{at}.weight", bits) for at in range(1, 12))]
    for _ in range(ROUNDS):
        error = within(20, lambda: write(path, tensors))
        assert isinstance(error, InputError)
    assert list(path.parent.iterdir()) == []


def test_a_damaged_tensor_ends_the_reading_of_those_that_wait_for_it(path, often):
    state = layers(12)
    pack(state, path, mask={name: one != 0 for name, one in state.items()})
    data = bytearray(path.read_bytes())
    data[-32 - sum(entry.section for entry in reader.head(path).entries) + 5] ^= 255
    path.write_bytes(data)
    for _ in range(ROUNDS):
        assert isinstance(within(20, lambda: reader.parse(path)), FormatError)


def test_names_that_no_file_may_hold_are_refused(path):
    bits = np.ones(3, "<u4")
    for name in ("", "a\nb", "x" * 1025):
        with pytest.raises(InputError, match="name"):
            write(path, [Given(name, "F32", (3,), False, lambda: (bits, None))])
    assert list(path.parent.iterdir()) == []


def test_the_base_is_not_overwritten_by_the_task_that_needs_it(path):
    pack({"w": torch.ones(3, 4)}, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the base, without which the task file cannot be read"):
        pack({"w": torch.ones(3, 4)}, path, mask={"w": torch.ones(3, 4, dtype=torch.bool)}, base=path)
    assert path.read_bytes() == before


def test_what_cannot_be_written_or_read_is_told_before_any_work(path):
    def never():
        raise AssertionError("loaded")

    one = Given("w", "F32", (3,), False, never)
    with pytest.raises(HostError, match="there is no folder"):
        write(path.parent / "absent" / "net", [one])
    with pytest.raises(InputError, match="threads: 0; at least one"):
        write(path, [one], threads=0)

    def gone():
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(InputError, match='tensor "w": cannot be read'):
        write(path, [Given("w", "F32", (3,), False, gone)])
    assert list(path.parent.iterdir()) == []
