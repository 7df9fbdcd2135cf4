"""Processes that a command starts end with it, and one that ends too early is named."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

import forks
from freeflow_lightning.commands import start_processes


def started(monkeypatch, source):
    """Start two processes that run the source; the exit code."""
    monkeypatch.setattr(
        start_processes,
        "COMMAND",
        (sys.executable, "-c", f"import os, signal, sys, time\n{source}"),
    )
    monkeypatch.setattr("sys.argv", ["freeflow", "sample"])
    try:
        start_processes.start(2)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_a_signal_has_ended_is_named(monkeypatch, capfd, number, rank):
    source = (
        f"os.kill(os.getpid(), {int(number)}) if os.environ['RANK'] == '{rank}' else time.sleep(60)"
    )
    assert started(monkeypatch, source) == 128 + number
    err = capfd.readouterr().err
    assert f"freeflow sample: process {rank} of 2 was ended by {number.name}" in err
    assert len(err.splitlines()) == 1


def test_the_messages_of_the_process_that_failed_are_shown(monkeypatch, capfd):
    source = "print('broken', file=sys.stderr), sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    assert started(monkeypatch, source) == 3
    assert "broken" in capfd.readouterr().err
    assert started(monkeypatch, "pass") == 0


def test_an_error_of_all_processes_is_said_once(monkeypatch, capfd):
    assert started(monkeypatch, "print('no checkpoint', file=sys.stderr), sys.exit(1)") == 1
    assert capfd.readouterr().err == "no checkpoint\n"


@pytest.mark.parametrize("verb", ["sample", "evaluate", "search"])
def test_a_verb_starts_as_many_processes_of_itself_as_it_is_told(
    freeflow, monkeypatch, tmp_path, verb
):
    source = "import os, sys; open(os.environ['RANK'], 'w').write(' '.join(sys.argv[1:]))"
    monkeypatch.setattr(start_processes, "COMMAND", (sys.executable, "-c", source))
    options = ["--checkpoint", "a.ckpt", "--num_samples", 64, "--devices", 2]
    verifier = ["--verifier", "statistics.mean"] if verb == "search" else []
    assert freeflow(verb, *options, *verifier)[0] == 0
    for rank in "01":
        words = (tmp_path / rank).read_text().split()
        assert words == [verb, *map(str, options), *verifier]


CHILD = """
import os, sys, time
sys.modules["torch"] = type(sys)("torch")  # this part of the package does without
sys.modules["torch"].distributed = None
from freeflow_lightning.sampling.processes import end_with_parent
end_with_parent()
open(f"{os.getpid()}.child", "w").close()
time.sleep(120)
"""


def start_children():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start_processes.COMMAND = (sys.executable, "-c", CHILD)
    sys.argv = ["freeflow", "sample"]
    start_processes.start(2)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_processes_end_with_the_one_that_started_them(tmp_path, number):
    parent = forks.start(start_children)
    while len(children := [int(path.stem) for path in tmp_path.glob("*.child")]) < 2:
        assert parent.is_alive()
        time.sleep(0.05)
    os.kill(parent.pid, number)
    codes = forks.end(parent)
    for _ in range(200):
        if not any(map(is_running, children)):
            break
        time.sleep(0.05)
    assert not any(map(is_running, children))
    if number == signal.SIGTERM:
        assert codes == [143]
        assert forks.heard()[1] == "freeflow sample: stopped by SIGTERM, with its 2 processes\n"


@pytest.mark.slow
def test_a_second_sampling_into_a_folder_that_is_being_filled_is_refused(
    freeflow, checkpoint, tmp_path
):
    options = ["sample", "--checkpoint", checkpoint, "--num_samples", 20000, "--output", "out"]
    first = forks.start(forks.freeflow, *options, "--npz")
    with forks.ended(first):
        while not list((tmp_path / "out").glob("parts/*.npz")):
            assert first.is_alive()
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGSTOP)
        code, _, err = freeflow(*options, "--npz")
    assert code == 1
    assert "another process is writing to out" in err
    assert len(err.splitlines()) == 2
