"""What a call takes in memory."""

import tracemalloc
from collections.abc import Callable


def peak(call: Callable[[], object]) -> int:
    """The most bytes that were held at once while it ran."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
