import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from freeflow_lightning.teachers.reading.weights import (
    load_weight_file,
    read_metadata,
    read_state_dict,
)


def zeros(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


@pytest.fixture
def state():
    return {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"ema": s, "model": {}, "step": 1},
        lambda s: {"state_dict": s},
        lambda s: {"model": zeros(s), "params_ema": s, "optimizer": zeros(s)},
    ],
)
def test_state_dicts_are_found(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt", anchor="weight").keys() == state.keys()
    net = nn.Linear(3, 2)
    load_weight_file(net, tmp_path / "a.pt")
    assert torch.equal(net.weight, state["weight"])


def test_safetensors_and_notes(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors", {"by": "me"})
    assert torch.equal(
        read_state_dict(tmp_path / "a.safetensors", anchor="bias")["weight"], state["weight"]
    )
    assert read_metadata(tmp_path / "a.safetensors") == {"by": "me"}
    assert read_metadata(tmp_path / "a.pt") == {}


def test_refused(tmp_path, state):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_state_dict(tmp_path / "none.pt", anchor="weight")
    torch.save(nn.Linear(3, 2), tmp_path / "code.pt")
    with pytest.raises(ValueError, match="not readable as plain tensors"):
        read_state_dict(tmp_path / "code.pt", anchor="weight")
    torch.save({"step": 3}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state_dict(tmp_path / "b.pt", anchor="weight")
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"(?s)do not fit Linear: .*size mismatch"):
        load_weight_file(nn.Linear(4, 2), tmp_path / "c.pt")
    torch.save({"a": state, "b": state}, tmp_path / "d.pt")
    with pytest.raises(
        ValueError, match="several networks, 'a', 'b': say which one with weights_key"
    ):
        load_weight_file(nn.Linear(3, 2), tmp_path / "d.pt")
    load_weight_file(nn.Linear(3, 2), tmp_path / "d.pt", "b")


@pytest.mark.parametrize(
    ("key", "part"), [(None, "ema"), ("model", "plain"), ("model.ema_model", "ema")]
)
def test_an_average_inside_the_network_is_a_part_of_its_own(tmp_path, state, key, part):
    """Some trainers register the average as a module of the network that it is of."""
    parts = {"plain": state, "ema": {name: value + 1 for name, value in state.items()}}
    flat = {f"model.{name}": value for name, value in parts["plain"].items()}
    flat |= {f"model.ema_model.{name}": value for name, value in parts["ema"].items()}
    save_file(flat, tmp_path / "a.safetensors")
    read = read_state_dict(tmp_path / "a.safetensors", anchor="weight", weights_key=key)
    assert read.keys() == state.keys()
    assert torch.equal(read["weight"], parts[part]["weight"])


def test_a_network_beside_its_average_has_none_of_its_tensors(tmp_path, state):
    flat = {f"net.{name}": value for name, value in state.items()}
    flat |= {f"net.copy.{name}": value + 1 for name, value in state.items()}
    torch.save({"a": flat, "b": zeros(flat)}, tmp_path / "a.pt")
    read = read_state_dict(tmp_path / "a.pt", anchor="weight", weights_key="a.net")
    assert torch.equal(read["weight"], state["weight"])
    with pytest.raises(ValueError, match=r"several networks, 'net', 'net.copy': say which"):
        read_state_dict(tmp_path / "a.pt", anchor="weight", weights_key="a")
