"""A file that is overwritten in place."""

from pathlib import Path


class Slot:
    """A file whose content changes thousands of times; opening it anew would take milliseconds each time."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("w+b", buffering=0)

    def put(self, data: bytes) -> Path:
        self.file.seek(0)
        self.file.write(data)
        self.file.truncate()
        return self.path
