"""The wheel, installed outside the checkout, does what the README says."""

import subprocess
import sys

import pytest

from places import TESTS


@pytest.mark.slow
def test_the_first_hour_from_the_wheel():
    done = subprocess.run(
        ["bash", TESTS / "first_hour.sh", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith("the first hour is over\n")
