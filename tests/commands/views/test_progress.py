"""The bar of a verb counts the parts that are done."""

from freeflow_lightning.commands.views.progress import parts_of, progress_bar


def test_a_part_that_begins_ends_the_one_before():
    bar = progress_bar(True)
    begin = parts_of(bar, 2)
    seen = []
    for name in ("checks", "samples"):
        begin(name)
        (task,) = bar.tasks
        seen.append((task.description, task.completed, task.total))
    assert seen == [("checks", 0, 2), ("samples", 1, 2)]
