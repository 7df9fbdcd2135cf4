import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torch_fidelity.metric_fid import fid_statistics_to_metric

from freeflow_lightning.metrics import InceptionFeatures, InceptionFID, Moments
from freeflow_lightning.metrics.inception import WEIGHTS


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    """Random weights of torch-fidelity's Inception: the plumbing can be compared, the values mean nothing."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(fidelity, "load_state_dict_from_url", lambda url, progress: None)
        patch.setattr(
            fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None
        )
        torch.save(
            fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"]
            ).state_dict(),
            path,
        )
    return str(path)


@pytest.fixture(scope="module")
def metric(weights_path):
    return InceptionFID(weights_path)


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_missing_weights_say_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        InceptionFID()
    for part in (
        str(tmp_path / "checkpoints" / WEIGHTS),
        "torch-fidelity's release v0.2.0",
        "weights_path=",
    ):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        InceptionFID(str(tmp_path / "elsewhere.pth"))


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    torch.save({"fc.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        InceptionFID(str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "executed").exists()


def test_files_without_these_weights_are_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    (tmp_path / "text.pth").write_text("<html>Not found</html>")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "other.pth")
    for name, message in (
        ("tensor", "expected a dictionary of weights"),
        ("text", "not a file of plain tensors"),
        ("other", "are not those of https://github.com/toshas/torch-fidelity"),
    ):
        with pytest.raises(ValueError, match=message):
            InceptionFID(str(tmp_path / f"{name}.pth"))


def test_features_are_torch_fidelitys(metric, weights_path, images):
    theirs = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], weights_path)(
        images
    )[0]
    assert theirs.std(dim=0).max() > 0
    assert torch.equal(metric.features(images), theirs)
    metric.reset()
    metric.update(images, real=False)
    torch.testing.assert_close(
        metric.fake_features_sum, theirs.double().sum(dim=0), rtol=1e-12, atol=0
    )


def test_grey_images_are_repeated_and_autocast_is_off(metric, images):
    states = []
    for batch, autocast in (
        (images[:, :1], False),
        (images[:, :1].repeat(1, 3, 1, 1), False),
        (images[:, :1], True),
    ):
        metric.reset()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            metric.update(batch, real=False)
        states.append(metric.fake_features_cov_sum)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_an_empty_batch_adds_nothing(metric, images):
    metric.reset()
    metric.update(images[:0], real=False)
    assert int(metric.fake_features_num_samples) == 0


def test_refuses_other_images(metric):
    for images in (
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 4, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match="expected uint8 images"):
            metric.update(images, real=True)


def test_reset_keeps_the_reference(metric, images):
    metric.update(images, real=True)
    metric.reset()
    assert int(metric.real_features_num_samples) == 2


@pytest.mark.slow
def test_fid_is_scipys_and_torch_fidelitys(metric):
    """On the features of random weights. Sixteen samples span sixteen dimensions: the formulas of others run in these."""
    images = torch.randint(
        0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    images[8:] //= 2
    f = metric.features(images).double()
    basis = torch.linalg.qr(f.T).Q
    inside = (f @ basis).numpy()
    statistics = [
        {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (inside[:8], inside[8:])
    ]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    mu1, s1, mu2, s2 = (part[k] for part in statistics for k in ("mu", "sigma"))
    by_hand = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    metric.set_reference(Moments(f[:8].mean(0), f[:8].T.cov()), 8)
    metric.update(images[8:], real=False)
    assert float(metric.compute()) == pytest.approx(by_hand, rel=1e-3)
    assert float(metric.compute()) == pytest.approx(theirs, rel=1e-3)
    assert by_hand > 0


def test_spatial_features_and_logits_are_adms(weights_path, images):
    """sFID: the first 7 channels of mixed_6/conv (Mixed_6d.branch1x1), channels last; IS: logits without the bias."""
    network = InceptionFeatures(weights_path)
    seen = {}
    network.network.Mixed_6d.branch1x1.conv.register_forward_hook(
        lambda *hook: seen.update(conv=hook[2])
    )
    outputs = network.outputs(images)
    branch = network.network.Mixed_6d.branch1x1
    expected = torch.relu(branch.bn(seen["conv"]))[:, :7].permute(0, 2, 3, 1).reshape(2, -1)
    torch.testing.assert_close(outputs["spatial"], expected)
    assert outputs["spatial"].shape == (2, 2023)
    torch.testing.assert_close(outputs["logits"], outputs["features"] @ network.network.fc.weight.T)
    assert {
        name: len(value) for name, value in network.outputs(images[:0]).items()
    } == dict.fromkeys(outputs, 0)
