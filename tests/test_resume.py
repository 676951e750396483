import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job import RECIPE, write_job

import compressor
from compressor.files import sha256

ARTEFACTS = ("start.safetensors", "model.safetensors", "model.onnx", "model.dense.onnx")
TEXT = RECIPE + "tied = true\n[verify]\nenabled = false\n"

# A walk that is killed with SIGKILL when the n-th event is told, n given on the command line.
VICTIM = """
import os, signal, sys
import compressor
left = int(sys.argv[3])
def told(event):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
compressor.run(sys.argv[1], out=sys.argv[2], on_event=told)
"""


def walk(recipe: Path, out: Path, events: int) -> int:
    command = [sys.executable, "-c", VICTIM, str(recipe), str(out), str(events)]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, capture_output=True
    ).returncode


def digests(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in ARTEFACTS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_job(folder, TEXT)
    compressor.run(recipe, out=folder / "out")
    return recipe, digests(folder / "out")


def test_the_same_recipe_twice_gives_the_same_bytes(undisturbed, tmp_path):
    recipe, expected = undisturbed
    compressor.run(recipe, out=tmp_path / "out")
    assert digests(tmp_path / "out") == expected


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(undisturbed, tmp_path):
    recipe, expected = undisturbed
    # Counted anew by every process: within dense, prune and tune, and as export begins.
    for events in (4, 6, 6, 7):
        assert walk(recipe, tmp_path / "out", events) == -signal.SIGKILL
    assert walk(recipe, tmp_path / "out", 0) == 0
    assert digests(tmp_path / "out") == expected
    assert not list((tmp_path / "out").rglob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2 * step for step in range(1, 26)])
def test_a_run_killed_at_any_time_ends_in_the_same_bytes(undisturbed, tmp_path, delay):
    recipe, expected = undisturbed
    command = [sys.executable, "-c", VICTIM, str(recipe), str(tmp_path / "out"), "0"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "out/log.jsonl").exists():
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert walk(recipe, tmp_path / "out", 0) == 0
    assert digests(tmp_path / "out") == expected


def test_a_run_interrupted_within_a_stage_goes_on_after_its_last_epoch(undisturbed, tmp_path):
    recipe, expected = undisturbed

    def interrupt(event):
        if event["event"] == "epoch" and (event["stage"], event["epoch"]) == ("prune", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressor.run(recipe, out=tmp_path / "out", on_event=interrupt)
    assert (tmp_path / "out/checkpoint.pt").exists()
    events = []
    compressor.run(recipe, out=tmp_path / "out", on_event=events.append)
    trained = [(event["stage"], event["epoch"]) for event in events if event["event"] == "epoch"]
    assert trained[0] in {("prune", 2), ("prune", 3)}  # the epoch in which it came may be told again
    assert trained[-4:] == [("prune", 3), ("tune", 0), ("tune", 1), ("tune", 2)]
    assert digests(tmp_path / "out") == expected


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(undisturbed, tmp_path):
    recipe, _ = undisturbed

    def interrupt(event):
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressor.run(recipe, out=tmp_path / "out", sets=["seed=9"], on_event=interrupt)
    events = []
    compressor.run(recipe, out=tmp_path / "out", on_event=events.append)
    first = next(event for event in events if event["event"] == "epoch")
    assert (first["stage"], first["epoch"]) == ("dense", 0)
