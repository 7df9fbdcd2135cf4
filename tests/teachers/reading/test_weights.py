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
