"""Given reference statistics: what papers' files say is what is read, and nothing else."""

import numpy as np
import pytest
import torch

from freeflow_lightning.metrics import (
    DigitsFeatures,
    FeatureNetwork,
    FlatFeatures,
    TableBuilder,
    compare_tables,
    merge_tables,
    read_statistics,
)


@pytest.fixture
def features():
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double().numpy()


@pytest.fixture
def moments(features):
    return {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}


def test_adms_file(tmp_path, moments, features):
    np.savez(
        tmp_path / "adm.npz", **moments, mu_s=moments["mu"][:2], sigma_s=moments["sigma"][:2, :2]
    )
    table = read_statistics(tmp_path / "adm.npz", FlatFeatures(4))
    assert table.moments["features"].mean.numpy() == pytest.approx(moments["mu"])
    assert table.moments["spatial"].covariance.numpy() == pytest.approx(moments["sigma"][:2, :2])
    builder = TableBuilder(FlatFeatures(4), 50)
    builder.add(torch.arange(50), torch.from_numpy(features))
    assert compare_tables(merge_tables([builder.part()]), table)["fid"].value == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_fidelitys_cache_entry(tmp_path, moments, dtype):
    torch.save(
        {k: v.astype(dtype) for k, v in moments.items()},
        tmp_path / "x-inception-v3-compat-stat-fid-2048.pt",
    )
    table = read_statistics(tmp_path / "x-inception-v3-compat-stat-fid-2048.pt", FlatFeatures(4))
    assert table.moments["features"].covariance.numpy() == pytest.approx(moments["sigma"], rel=1e-5)
    assert table.moments["features"].mean.dtype == torch.float64
    torch.save({k: torch.from_numpy(v) for k, v in moments.items()}, tmp_path / "tensors.pt")
    again = read_statistics(tmp_path / "tensors.pt", FlatFeatures(4))
    assert again.moments["features"].mean.numpy() == pytest.approx(moments["mu"])


def test_pictures_are_seen_by_the_network_and_given_moments_go_before_theirs(tmp_path):
    images = torch.randint(
        0, 256, (20, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(20) % 3
    np.savez(tmp_path / "own.npz", arr_0=images.numpy(), arr_1=labels.numpy())
    network = DigitsFeatures()
    table = read_statistics(tmp_path / "own.npz", network, batch_size=7)
    expected = network(images.permute(0, 3, 1, 2))
    torch.testing.assert_close(table.rows["features"], expected)
    torch.testing.assert_close(table.moments["features"].mean, expected.double().mean(0))
    assert torch.equal(table.rows["labels"], labels)
    np.savez(tmp_path / "adm.npz", arr_0=images.numpy(), mu=np.ones(64), sigma=np.eye(64))
    both = read_statistics(tmp_path / "adm.npz", network)
    assert torch.equal(both.moments["features"].mean, torch.ones(64).double())
    torch.testing.assert_close(both.rows["features"], expected)


def test_what_is_no_statistics_is_refused_in_words(tmp_path, moments):
    def refused(name, match, error=ValueError, network=None):
        with pytest.raises(error, match=match):
            read_statistics(tmp_path / name, network or FlatFeatures(4))

    refused("gone.npz", "no statistics at .*expected ADM's .npz", FileNotFoundError)
    (tmp_path / "page.npz").write_text("<html>")
    refused("page.npz", "cannot be read: expected ADM's")
    (tmp_path / "page.pt").write_text("<html>")
    refused("page.pt", "cannot be read: expected ADM's")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    refused("other.npz", r"holds \['weights'\]: expected ADM's")
    np.savez(tmp_path / "wide.npz", **moments)
    refused(
        "wide.npz",
        "statistics of 4 features, and this feature network has 5",
        network=FlatFeatures(5),
    )
    np.savez(tmp_path / "shape.npz", mu=moments["mu"], sigma=moments["sigma"][:3])
    refused("shape.npz", r"expected mu \[d\] and sigma \[d, d\]")
    np.savez(tmp_path / "skew.npz", mu=moments["mu"], sigma=np.arange(16.0).reshape(4, 4))
    refused("skew.npz", "is no covariance")
    np.savez(tmp_path / "nan.npz", mu=moments["mu"], sigma=moments["sigma"] * np.nan)
    refused("nan.npz", "is no covariance")
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((3, 8, 8, 1)))
    refused("float.npz", r"expected pictures uint8 \[N, H, W, C\]")
    np.savez(tmp_path / "labels.npz", arr_0=np.zeros((3, 8, 8, 1), "uint8"), arr_1=np.zeros(2, int))
    refused("labels.npz", "one class for each picture")
    torch.save([1, 2], tmp_path / "list.pt")
    refused("list.pt", "it holds a list, no dictionary")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    torch.save({"mu": Bomb(), "sigma": Bomb()}, tmp_path / "bomb.pt")
    np.savez(tmp_path / "bomb.npz", mu=np.array([Bomb()]), sigma=np.ones((1, 1)))
    for name in ("bomb.pt", "bomb.npz"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_statistics(tmp_path / name, FlatFeatures(1))
    assert not (tmp_path / "executed").exists()


def test_a_network_is_a_class_with_a_width():
    with pytest.raises(TypeError, match="abstract"):
        FeatureNetwork()
