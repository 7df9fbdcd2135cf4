"""What differs between the settings of a run and those that it goes on with."""

import yaml

from freeflow_lightning.commands.changed_settings import changes, settings_at

BEFORE = yaml.safe_load("""
ckpt_path: null
model:
  class_path: FreeFlowModule
  init_args: {student_lr: 0.1, betas: [0.9, 0.99], teacher: {class_path: A, init_args: {std: 0.2}}, lora: null}
trainer:
  max_steps: 20
  callbacks:
  - {class_path: x.StudentEMA, init_args: {decays: [0.9]}}
  - {class_path: y.ModelCheckpoint, init_args: {filename: best}}
  - {class_path: y.ModelCheckpoint, init_args: {filename: last}}
""")


def changed(text, new):
    after = yaml.safe_load(yaml.safe_dump(BEFORE).replace(text, new))
    assert after != BEFORE
    return changes(BEFORE, after)


def test_what_is_the_same_is_not_listed():
    assert changes(BEFORE, yaml.safe_load(yaml.safe_dump(BEFORE))) == []
    assert changed("ckpt_path: null", "ckpt_path: last.ckpt") == []


def test_each_setting_has_a_line():
    assert changed("student_lr: 0.1", "student_lr: 0.2") == ["model.student_lr: 0.1 -> 0.2"]
    assert changed("lora: null", "lora: {rank: 4}") == ["model.lora.rank: not set -> 4"]
    assert changed("std: 0.2", "std: 0.9") == ["model.teacher.std: 0.2 -> 0.9"]
    assert changed("- 0.99", "- 0.999") == ["model.betas: [0.9, 0.99] -> [0.9, 0.999]"]
    assert changed("class_path: A", "class_path: B") == ["model.teacher: A -> B"]
    assert changed("filename: last", "filename: x") == [
        "trainer.callbacks.ModelCheckpoint 2.filename: last -> x"
    ]


def test_an_object_that_is_new_or_gone_has_one_line():
    without = yaml.safe_load(yaml.safe_dump(BEFORE))
    del without["trainer"]["callbacks"][0]
    assert changes(BEFORE, without) == ["trainer.callbacks.StudentEMA: x.StudentEMA -> not set"]
    assert changes(without, BEFORE) == ["trainer.callbacks.StudentEMA: not set -> x.StudentEMA"]


def test_the_settings_at_a_step_are_those_of_the_last_start_before_it(tmp_path):
    assert settings_at(tmp_path, 5) is None
    for name, lr in (("config", 1), ("config_from_step_20", 2), ("config_from_step_100", 3)):
        (tmp_path / f"{name}.yaml").write_text(f"lr: {lr}")
    assert [settings_at(tmp_path, step) for step in (0, 5, 20, 21, 101)] == [
        {"lr": lr} for lr in (1, 1, 1, 2, 3)
    ]
    (tmp_path / "config.yaml").write_text("lr: [")
    assert settings_at(tmp_path, 5) is None  # a damaged one blocks nothing
