"""What is said to the user, and how often."""

import logging

from freeflow_lightning.training.quiet import quiet


def test_a_message_is_said_once_in_each_command(capsys):
    log = logging.getLogger("freeflow_lightning.test_quiet")
    log.propagate = False  # nobody has set it up: its messages reach logging's last resort
    for _ in range(2):  # two commands
        quiet()
        for samples in (20, 20, 30, 20):
            log.warning("FID of %d samples", samples)
        assert capsys.readouterr().err.splitlines() == ["FID of 20 samples", "FID of 30 samples"]
