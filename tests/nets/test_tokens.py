"""Which tokens a block has returned, and how others take their place in the next one."""

import pytest
import torch

from freeflow_lightning.nets.tokens import Tokens, give_tokens, returned_tokens

STATE, TEXT = torch.randn(2, 4, 3), torch.randn(2, 5, 3)
CALLS = {
    "by name": ((), {"hidden_states": STATE, "encoder_hidden_states": TEXT, "temb": 0}),
    "by place": ((STATE, TEXT, 0), {}),
    "by both": ((STATE,), {"encoder_hidden_states": TEXT, "temb": 0}),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_state_s_tokens_are_found_in_either_order_and_given_back(call):
    inputs, named = CALLS[call]
    for output in ((STATE + 1, TEXT + 1), (TEXT + 1, STATE + 1)):
        found = returned_tokens(output, inputs, named)
        assert torch.equal(found.state, STATE + 1)
        assert torch.equal(found.text, TEXT + 1)
    place, name = give_tokens(found, torch.full((2, 3), 0.5), inputs, named)
    given = (*place, *name.values())
    torch.testing.assert_close(given[:2], (STATE + 1 + 0.5 * STATE, TEXT + 1))
    assert given[2] == 0
    assert (len(place), name.keys()) == (len(inputs), named.keys())


def test_what_a_head_cannot_go_on_from_is_none_and_what_cannot_be_told_apart_is_refused():
    inputs, named = CALLS["by name"]
    assert returned_tokens(STATE, inputs, named) == Tokens(STATE)
    for other in ((STATE,), {"x": STATE}, (TEXT, TEXT), (None, STATE)):
        assert returned_tokens(other, inputs, named) is None
    with pytest.raises(ValueError, match="which of them is the state's cannot be seen"):
        returned_tokens((STATE, STATE), inputs, named)
