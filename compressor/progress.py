"""What a run tells while it goes, on stderr: bars on a terminal, a line per stage and epoch in a log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Event = dict[str, Any]


@contextmanager
def told() -> Iterator[Callable[[Event], None]]:
    """Yield the listener of a run that suits where stderr goes."""
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        yield _Bars(bars)


def _line(event: Event) -> None:
    text = sentence(event)
    if text:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the one place where a log line is written


def sentence(event: Event) -> str:
    """Return an event as one line, "" for one that says nothing new."""
    if event["event"] == "epoch":
        return f"{event['stage']} {event['epoch'] + 1}/{event['epochs']}: {_note(event)}"
    if event["event"] == "stage":
        return f"{event['stage']} ..."
    if event["event"] == "kept":
        return f"{event['stage']}: done before, nothing changed"
    return f"run folder {event['folder']}" if event["event"] == "run" else ""


def _note(event: Event) -> str:
    return f"loss {event['loss']:.4f}, accuracy {event['accuracy']:.2%}, density {event['density']:.4g}"


class _Bars:
    """A bar for every stage that is under way; `bars` is a rich Progress."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def __call__(self, event: Event) -> None:
        if event["event"] in {"stage", "kept", "run", "done"} and self._task is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, completed=total, total=total)
            self._task = None
        if event["event"] == "stage":
            self._task = self._bars.add_task(event["stage"], total=None, note="")
        elif event["event"] == "epoch":
            done = {"completed": event["epoch"] + 1, "total": event["epochs"]}
            self._bars.update(self._task, note=_note(event), **done)
        elif sentence(event):
            self._bars.console.print(sentence(event), highlight=False)
