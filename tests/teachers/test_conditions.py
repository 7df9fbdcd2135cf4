import json

import pytest
import torch

from freeflow_lightning.teachers import Classes, NoCondition, Prompts
from freeflow_lightning.teachers.prompt_files import write_prompts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(first, n, length=3):
    """Prompt i is full of i + 1; its mask has i + 1 ones at most."""
    number = torch.arange(first, first + n) + 1.0
    mask = (torch.arange(length) < number[:, None]).long()
    return {
        "text": number[:, None, None].expand(n, length, 2).contiguous(),
        "mask": mask,
        "pooled": number[:, None] * torch.ones(4),
    }


@pytest.fixture
def folder(tmp_path):
    """Seven prompts in three shards, the second with longer texts; the empty one is short."""
    null = {
        "text": -torch.ones(1, 2, 2),
        "mask": torch.ones(1, 2, dtype=torch.long),
        "pooled": torch.zeros(1, 4),
    }
    write_prompts(
        tmp_path / "e",
        iter([numbered(0, 3), numbered(3, 3, 5), numbered(6, 1)]),
        null,
        {"network": "Some"},
    )
    return tmp_path / "e"


def test_rows_come_from_every_shard_padded_to_one_length(folder):
    prompts = Prompts(folder)
    assert len(prompts) == 7
    rows = prompts.rows(torch.tensor([6, 0, 4, 3, 0]))
    assert rows["pooled"][:, 0].tolist() == [7, 1, 5, 4, 1]
    assert rows["text"].shape == (5, 5, 2)
    assert rows["text"][:, 2, 0].tolist() == [7, 1, 5, 4, 1]
    assert rows["text"][:, 3, 0].tolist() == [0, 0, 5, 4, 0]
    assert rows["mask"].sum(1).tolist() == [3, 1, 5, 4, 1]
    assert rows["mask"].dtype == torch.long


def test_draws_are_a_function_of_the_generator_and_uniform(folder):
    prompts = Prompts(folder)
    first, again, other = (
        prompts.draw(2000, generator(seed))["pooled"][:, 0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    share = torch.bincount(first.long(), minlength=8)[1:] / 2000
    torch.testing.assert_close(share, torch.full((7,), 1 / 7), atol=0.03, rtol=0)
    assert prompts.draw(0, generator())["text"].shape == (0, 5, 2)


def test_the_null_condition_is_the_empty_prompt(folder):
    prompts = Prompts(folder)
    condition = prompts.draw(3, generator())
    null = prompts.null(condition)
    assert {name: (v.shape, v.dtype) for name, v in null.items()} == {
        name: (v.shape, v.dtype) for name, v in condition.items()
    }
    assert null["text"][:, :, 0].tolist() == [[-1, -1, 0, 0, 0]] * 3
    assert null["mask"].tolist() == [[1, 1, 0, 0, 0]] * 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_every_process_draws_from_a_block_of_its_own_and_together_from_all(folder, world_size):
    seen = []
    for rank in range(world_size):
        prompts = Prompts(folder)
        prompts.shard(rank, world_size)
        seen.append({int(i) for i in prompts.draw(200, generator())["pooled"][:, 0]})
        with prompts.use_all():
            assert len({int(i) for i in prompts.draw(200, generator())["pooled"][:, 0]}) == 7
        assert {int(i) for i in prompts.draw(200, generator())["pooled"][:, 0]} == seen[-1]
    assert set.union(*seen) == set(range(1, 8))
    if world_size <= 7:
        assert sum(map(len, seen)) == 7


def test_one_process_opens_only_the_files_of_its_block(folder):
    (folder / "prompts_00000.safetensors").unlink()
    prompts = Prompts(folder)
    prompts.shard(1, 2)
    assert prompts.draw(50, generator())["pooled"].min() >= 4
    prompts.shard(0, 2)
    with pytest.raises(
        FileNotFoundError, match=r"no prompts_00000\.safetensors .* freeflow embed again"
    ):
        prompts.draw(50, generator())


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"freeflow embed --model MODEL"):
        Prompts(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema": 99, "count": 1, "shards": [{}]}',
        '{"schema": 1, "count": 0, "shards": []}',
    ],
)
def test_an_index_of_another_kind_is_refused(folder, content):
    (folder / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not an index that this version reads"):
        Prompts(folder)


def test_a_damaged_shard_is_refused(folder):
    (folder / "prompts_00002.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"prompts_00002\.safetensors does not fit its index"):
        Prompts(folder).rows(torch.tensor([6]))
    index = json.loads((folder / "index.json").read_text())
    index["tensors"].append("other")
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"does not fit its index"):
        Prompts(folder)


def test_prompts_that_are_not_there_are_refused(folder):
    with pytest.raises(ValueError, match=r"expected prompts 0 \.\. 6, got \[7\]"):
        Prompts(folder).rows(torch.tensor([7]))


def test_nothing_is_overwritten(folder):
    with pytest.raises(ValueError, match="holds embeddings already"):
        write_prompts(folder, iter([numbered(0, 1)]), numbered(0, 1))


def test_texts_of_several_lengths_need_a_mask(tmp_path):
    batches = ({"text": torch.zeros(1, n, 2)} for n in (3, 4))
    with pytest.raises(ValueError, match=r"lengths \[3, 4\] in \['text'\], and no mask"):
        write_prompts(tmp_path / "e", batches, {"text": torch.zeros(1, 3, 2)})


def test_classes_and_no_condition():
    labels = Classes(3).draw(3000, generator())
    assert labels.unique().tolist() == [0, 1, 2]
    assert Classes(3).null(labels).unique().tolist() == [3]
    for label in (-1, 3):  # the null class is none
        with pytest.raises(
            ValueError, match=rf"expected classes in 0 .. 2, got \[0, {label}\]|\[-1, 0"
        ):
            Classes(3).of_classes(torch.tensor([0, label]))
    assert Classes(3).of_classes(torch.tensor([0, 2])).tolist() == [0, 2]
    assert NoCondition().draw(3, generator()) is None
    with pytest.raises(ValueError, match="cannot be guided"):
        NoCondition().null(None)
    with pytest.raises(ValueError, match="num_classes to be an integer of at least 1"):
        Classes(0)
