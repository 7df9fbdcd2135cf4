"""The line that fit ends with."""

from recipes.test_resume import BEST, LAST, configure, run_of


def last_line(freeflow, *arguments):
    code, out, err = freeflow("fit", *arguments)
    assert code == 0, err
    return out.splitlines()[-1]


def test_it_names_the_folder_the_checkpoint_the_best_figure_and_what_is_next(freeflow, tmp_path):
    config = configure(tmp_path, BEST + LAST % 100)
    line = last_line(freeflow, "--config", config.name, "--trainer.max_steps", 8)
    run = run_of(tmp_path).relative_to(tmp_path)
    (best,) = (run / "checkpoints").glob("best*")
    assert line.startswith(f"{run}: step 8, {run}/checkpoints/last.ckpt; best fid/student ")
    assert line.endswith(f" in {best.name}; next: freeflow report {run}")
    again = last_line(
        freeflow, "--config", config.name, "--trainer.max_steps", 8, "--ckpt_path", "last"
    )
    assert again == line  # nothing was left to do


def test_without_a_best_checkpoint_it_is_the_best_of_the_table(freeflow, tmp_path):
    config = configure(tmp_path, "").rename(tmp_path / "my run.yaml")
    line = last_line(freeflow, "--config", config.name, "--trainer.max_steps", 9)
    assert "; best fid/student " in line
    assert " after step 8; next: freeflow report 'runs/my run/version_0'" in line
    none = last_line(
        freeflow,
        "--config",
        config.name,
        "--trainer.max_steps",
        2,
        "--trainer.enable_checkpointing",
        "false",
    )
    assert "step 2, no checkpoint written; next: " in none
