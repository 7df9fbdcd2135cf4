import pytest
import torch

from freeflow_lightning import PriorDataModule
from freeflow_lightning.flow import training_generator
from freeflow_lightning.training.data import IndexRange, PriorBatch, PriorStream, validation_range
from tiny import data, mixture, module, trainer


def test_an_epoch_has_its_length_and_starts_again():
    stream = PriorDataModule(batch_size=4, length=3, seed=7).train_dataloader()
    assert len(stream) == 3
    for _ in range(2):
        assert list(stream) == [PriorBatch(4, 7)] * 3


@pytest.mark.parametrize("taken", [0, 1, 4, 5])
def test_a_stream_resumes_where_its_state_was_taken(taken):
    stream, resumed = (PriorStream(PriorBatch(1, 0), 5) for _ in range(2))
    batches = iter(stream)
    for _ in range(taken):
        next(batches)
    resumed.load_state_dict(stream.state_dict())
    assert len(list(resumed)) == (
        5 - taken if taken < 5 else 5
    )  # the end of one epoch is the start of the next
    assert len(list(resumed)) == 5  # the epochs after that are whole


def test_a_batch_carries_its_number_over_epochs_and_draws_by_it():
    prior, m, numbers = data(length=2, seed=3), module(correction_fraction=0.0), []
    step = m.training_step

    def note(batch, batch_idx):
        numbers.append(batch.counter)
        return step(batch, batch_idx)

    m.training_step = note
    trainer(max_steps=5, limit_train_batches=2).fit(m, prior)
    assert numbers == [0, 1, 2, 3, 4]
    batch = PriorBatch(4, 3, counter=4)
    drawn, expected = batch.generator(1), training_generator(3, 1, 4)
    assert torch.equal(torch.randn(8, generator=drawn), torch.randn(8, generator=expected))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_index_is_dealt_to_one_rank_once(count, world_size, batch_size):
    ranks = [list(IndexRange(count, batch_size, 5, rank, world_size)) for rank in range(world_size)]
    assert (
        len({len(batches) for batches in ranks}) == 1
    )  # or a rank would wait for another for ever
    assert {len(batches) for batches in ranks} == {
        len(IndexRange(count, batch_size, 5, 0, world_size))
    }
    everything = torch.cat([batch.indices for batches in ranks for batch in batches])
    kept = everything[everything < count]
    assert kept.sort().values.tolist() == list(range(count))
    assert all(
        0 < len(batch.indices) <= batch_size and batch.seed == 5
        for batches in ranks
        for batch in batches
    )
    assert all(batch.total == count for batches in ranks for batch in batches)


def test_validation_can_be_off():
    assert data(val_samples=0).val_dataloader() == []
    loader = data(val_samples=5, val_batch_size=2, seed=3).val_dataloader()
    assert [batch.indices.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("samples", "limit"), [({}, {}), ({"val_samples": 4}, {"limit_val_batches": 0})]
)
def test_a_validation_of_nothing_is_refused(samples, limit):
    with pytest.raises(ValueError, match=r"expected samples to validate, got none: raise data\."):
        trainer(**limit).validate(module(), data(**samples), verbose=False)


def test_sample_i_does_not_depend_on_its_batch():
    teacher = mixture()
    z, y = teacher.draw_indexed(torch.arange(6), seed=1, stream="validation")
    z2, y2 = teacher.draw_indexed(torch.tensor([4, 1]), seed=1, stream="validation")
    assert torch.equal(z[[4, 1]], z2)
    assert torch.equal(y[[4, 1]], y2)
    other, _ = teacher.draw_indexed(torch.arange(6), seed=1, stream="reference")
    assert not torch.isin(z, other).any()


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"length": 0}, {"val_batch_size": 0}, {"val_samples": -1}]
)
def test_wrong_sizes(wrong):
    with pytest.raises(
        ValueError, match=f"expected {next(iter(wrong))} to be an integer of at least"
    ):
        PriorDataModule(**wrong)


def test_validation_needs_the_indices_of_the_prior():
    made = trainer()
    with pytest.raises(
        ValueError, match=r"expected the validation indices of PriorDataModule.*got NoneType"
    ):
        validation_range(made)
    made.validate(module(), data(val_samples=5), verbose=False)
    assert validation_range(made).count == 5
