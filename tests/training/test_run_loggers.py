"""metrics.csv keeps what a resumed run does not log again, whatever happened to the file."""

import pytest
from lightning.pytorch.utilities import rank_zero_only

from freeflow_lightning.training.run_loggers import Events, MetricsCSV, read_metrics


def test_a_folder_is_claimed_when_it_is_asked_for_and_by_the_first_process_alone(
    tmp_path, monkeypatch
):
    table = MetricsCSV(tmp_path, "run")
    events = Events(table)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert table.version == "unclaimed"
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert table.log_dir == events.log_dir == str(tmp_path / "run/version_0")
    assert (table.version, MetricsCSV(tmp_path, "run").version) == (0, 1)


def rows(*steps):
    return [{"step": step, "x": step / 2} for step in steps]


def write(logger, *steps):
    for row in rows(*steps):
        logger.log_metrics({"x": row["x"]}, row["step"])
        logger.save()


def test_a_resumed_table_keeps_what_was_before_the_checkpoint(tmp_path):
    write(MetricsCSV(tmp_path, "run", 0), 0, 1, 2, 3, 4)
    resumed = MetricsCSV(tmp_path, "run", 0, keep_below=3)
    write(resumed, 3)
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == rows(
        0, 1, 2, 3
    )  # 3 and 4 were after the checkpoint
    resumed.log_metrics({"new": 1.0}, 4)
    resumed.save()
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == [
        *rows(0, 1, 2, 3),
        {"step": 4, "new": 1.0},
    ]


def test_what_a_validation_has_logged_is_not_kept_where_it_is_repeated(tmp_path):
    earlier = MetricsCSV(tmp_path, "run", 0)
    for figures, step in (
        ({"fid/student": 3.0}, 1),
        ({"gradient/student": 1.0}, 3),
        ({"fid/student": 2.0}, 3),
    ):
        earlier.log_metrics(figures, step)
        earlier.save()
    for repeats, kept in ((False, [1, 3, 3, 4]), (True, [1, 3, 4])):
        write(MetricsCSV(tmp_path, "run", 0, keep_below=4, repeats_validation=repeats), 4)
        table = read_metrics(tmp_path / "run/version_0/metrics.csv")
        assert [row["step"] for row in table] == kept
    assert [row.get("fid/student") for row in table] == [3.0, None, None]


def test_a_new_run_of_the_same_folder_starts_an_empty_table(tmp_path):
    write(MetricsCSV(tmp_path, "run", 0), 0, 1)
    write(MetricsCSV(tmp_path, "run", 0), 7)
    assert read_metrics(tmp_path / "run/version_0/metrics.csv") == rows(7)


DAMAGES = {
    "half a row": lambda text: text[:-4],
    "a cut number": lambda text: text[:-3],  # still a number, and another one
    "a word": lambda text: text.replace("1.0", "one"),
    "NUL bytes": lambda text: text.replace("1.0", "1.0" + chr(0) * 3),
    "a row of NUL bytes": lambda text: text.replace("2,1.0", chr(0) * 5),
    "no step": lambda text: text.replace("2,1.0", ",1.0"),
    "too many cells": lambda text: text.replace("2,1.0", "2,1.0,3"),
    "other bytes": lambda text: text.replace("2,1.0", "2,1" + chr(0xDCFF) + "0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_read_where_it_can_be(tmp_path, damage):
    """A resumed run drops the rows that cannot be read, says how many, and keeps a copy."""
    write(MetricsCSV(tmp_path, "run", 0), 0, 1, 2, 3)
    path = tmp_path / "run/version_0/metrics.csv"
    damaged = DAMAGES[damage](path.read_bytes().decode()).encode(errors="surrogateescape")
    path.write_bytes(damaged)
    good = [
        row
        for row in rows(0, 1, 2, 3)
        if row["step"] != (3 if damage in ("half a row", "a cut number") else 2)
    ]
    with pytest.warns(
        UserWarning, match=r"1 damaged rows cannot be read and are left out, 3 are kept"
    ):
        write(MetricsCSV(tmp_path, "run", 0, keep_below=4), 9)
    assert read_metrics(path) == [*good, *rows(9)]
    assert path.with_name("metrics_damaged.csv").read_bytes() == damaged


def test_a_table_without_its_head_is_empty(tmp_path):
    write(MetricsCSV(tmp_path, "run", 0), 0, 1)
    path = tmp_path / "run/version_0/metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"step", b"\0\0\0\0"))
    with pytest.warns(UserWarning, match="2 damaged rows"):
        assert read_metrics(path) == []


def test_no_table_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
