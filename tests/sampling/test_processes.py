"""Processes that a command starts end with it, and one that ends too early is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands.test_evaluate import command, environment
from freeflow_lightning.sampling import processes


def started(monkeypatch, source):
    """Start two processes that run the source; the exit code."""
    monkeypatch.setattr(
        processes, "COMMAND", (sys.executable, "-c", f"import os, signal, sys, time\n{source}")
    )
    monkeypatch.setattr("sys.argv", ["freeflow", "sample"])
    try:
        processes.start(2)
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


PARENT = """
import sys
from freeflow_lightning.sampling import processes
child = "import os, sys, time\\nfrom freeflow_lightning.sampling.processes import end_with_parent\\nend_with_parent()\\n"
child += "open(f'{os.getpid()}.child', 'w').close()\\ntime.sleep(120)"
processes.COMMAND = (sys.executable, "-c", child)
sys.argv = ["freeflow", "sample"]
processes.start(2)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_processes_end_with_the_one_that_started_them(tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while len(children := [int(path.stem) for path in tmp_path.glob("*.child")]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    _, err = parent.communicate(timeout=60)
    for _ in range(200):
        if not any(map(is_running, children)):
            break
        time.sleep(0.05)
    assert not any(map(is_running, children))
    if number == signal.SIGTERM:
        assert parent.returncode == 143
        assert err == "freeflow sample: stopped by SIGTERM, with its 2 processes\n"


@pytest.mark.slow
def test_a_second_sampling_into_a_folder_that_is_being_filled_is_refused(checkpoint, tmp_path):
    options = command(
        "sample", "--checkpoint", checkpoint, "--num_samples", 20000, "--output", "out", "--npz"
    )
    first = subprocess.Popen(
        options, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "out").glob("parts/*.npz")):
        assert first.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = subprocess.run(
            options, env=environment(), capture_output=True, text=True, check=False
        )
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    assert "another process is writing to out" in second.stderr
    assert len(second.stderr.splitlines()) == 2
