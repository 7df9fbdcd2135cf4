"""A folder of samples is drawn part by part: by whom, and in which batches, does not matter."""

import pytest
import torch

from freeflow_lightning.sampling.draw import Draw, pictures
from freeflow_lightning.sampling.draw_into import BatchSizes, draw_into
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.sampling.sample_folder import SampleFolder
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from tiny import mixture

DRAW = Draw(3, (0, 1))


def folder_for(sampler, path, count=150):
    return SampleFolder(path, count, sampler.facts() | DRAW.facts(), npz=True)


@pytest.mark.parametrize("batch_size", [5, 64, 256])
def test_the_folder_holds_the_samples_of_the_draw(tmp_path, batch_size):
    sampler, drawn = TeacherSampler(mixture(), "euler", 2, 1.5), []
    folder = folder_for(sampler, tmp_path / "samples")
    totals = []

    def start(total):
        totals.append(total)
        return drawn.append

    draw_into(folder, sampler, DRAW, sizes=BatchSizes(batch_size), start=start)
    z, condition = DRAW.noise(sampler.teacher, torch.arange(150))
    torch.testing.assert_close(folder.first(150), pictures(sampler.teacher, sampler(z, condition)))
    assert totals == [150]
    assert sum(drawn) == 150
    assert max(drawn) <= batch_size


def test_what_is_there_is_not_drawn_again(tmp_path):
    sampler, totals = TeacherSampler(mixture(), "euler", 1), []
    for _ in range(2):
        draw_into(
            folder_for(sampler, tmp_path / "a"),
            sampler,
            DRAW,
            start=lambda total: totals.append(total) or print,
        )
    assert totals == [150, 0]
    other = TeacherSampler(mixture(), "euler", 2)
    with pytest.raises(ValueError, match="holds samples of another drawn by"):
        draw_into(folder_for(other, tmp_path / "a"), other, DRAW)


def test_a_sampler_says_what_its_samples_depend_on():
    teacher = mixture()
    sampler = TeacherSampler(teacher, "euler", 3, 1.5)
    assert sampler.facts() == {
        "drawn by": "teacher, 3 euler steps",
        "weights": weights_hash(teacher)[:16],
        "guidance": 1.5,
        "decoder": f"{type(teacher).__name__}.decode",
        "sample shape": [2],
    }
    assert sampler.settings() == {"method": "euler", "steps": 3, "guidance": 1.5}
    with pytest.raises(ValueError, match="guidance"):
        TeacherSampler(teacher, guidance=-1.0)
