import pytest
import torch
from torchmetrics.classification import BinaryAccuracy
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from freeflow_lightning.metrics import FlatFeatures, FrechetDistance, load_reference_state, reference_state

METRICS = {
    "ours": lambda: FrechetDistance(FlatFeatures(4)),
    "torchmetrics' FID": lambda: FrechetInceptionDistance(FlatFeatures(4), reset_real_features=False),
    "torchmetrics' KID": lambda: KernelInceptionDistance(FlatFeatures(4), subsets=1, subset_size=40, reset_real_features=False),
}


def value(metric):
    result = metric.compute()
    return (result[0] if isinstance(result, tuple) else result).item()


@pytest.fixture(params=METRICS)
def make(request):
    return METRICS[request.param]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 4, generator=generator), 2 * torch.randn(40, 4, generator=generator) + 1


def test_round_trip_gives_the_same_value(make, data, tmp_path):
    real, fake = data
    source = make()
    for part in real.split(16):
        source.update(part, real=True)
    source.update(fake, real=False)
    torch.save(reference_state(source), tmp_path / "reference.pt")
    target = make()
    load_reference_state(target, torch.load(tmp_path / "reference.pt"))
    for _ in range(2):  # the second time: reset keeps what was loaded
        target.update(fake, real=False)
        assert value(target) == pytest.approx(value(source), rel=1e-5)
        target.reset()


def test_loading_replaces_everything_even_a_value_computed_before(make, data):
    real, fake = data
    source, target = make(), make()
    source.update(real, real=True)
    source.update(real, real=False)
    target.update(fake, real=True)
    target.update(real, real=False)
    assert value(target) != pytest.approx(value(source), abs=1e-2)
    load_reference_state(target, reference_state(source))
    target.update(real, real=False)
    assert value(target) == pytest.approx(value(source), abs=1e-4)


def test_loading_forgets_the_value_computed_before():
    """Without an update in between: torchmetrics would hand out its last result."""
    metric = METRICS["ours"]()
    for real in (True, False):
        metric.update(torch.eye(4), real=real)
    metric.compute()
    load_reference_state(metric, reference_state(metric))
    with pytest.raises(RuntimeError, match="got 4 and 0"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


def test_neither_side_shares_memory(make, data):
    real, fake = data
    source, target = make(), make()
    source.update(real, real=True)
    state = reference_state(source)
    copy = {name: tensor.clone() for name, tensor in state.items()}
    load_reference_state(target, state)
    for metric in (source, target):
        metric.update(fake, real=True)
    assert all(torch.equal(state[name], copy[name]) for name in copy)


def test_refuses_metrics_without_reference_and_states_of_others(data):
    with pytest.raises(ValueError, match="BinaryAccuracy has no state"):
        reference_state(BinaryAccuracy())
    with pytest.raises(ValueError, match="holds no reference in"):
        reference_state(METRICS["torchmetrics' KID"]())
    ours = METRICS["ours"]()
    ours.update(data[0], real=True)
    with pytest.raises(ValueError, match=r"expected the states .*'real_features'"):
        load_reference_state(METRICS["torchmetrics' KID"](), reference_state(ours))
    wide = FrechetDistance(FlatFeatures(5))
    with pytest.raises(ValueError, match=r"real_features_sum of shape \(5,\), got \(4,\)"):
        load_reference_state(wide, reference_state(ours))
