import pytest
import torch

from freeflow_lightning.flow import apply, join, take


def tree(a):
    return {"text": (torch.tensor(a), None), "class": [torch.tensor(a) + 10]}


def test_join_then_take_returns_each_part():
    both = join(tree([1, 2]), tree([3]))
    assert take(both, slice(0, 2))["text"][0].tolist() == [1, 2]
    assert take(both, torch.tensor([2]))["class"][0].tolist() == [13]


def test_containers_keep_their_type_and_none_stays_none():
    doubled = apply(lambda c: 2 * c, tree([1]))
    assert (type(doubled["text"]), type(doubled["class"])) == (tuple, list)
    assert doubled["text"][1] is None
    assert join(None, None) is None


def test_order_of_join_is_the_order_of_the_arguments():
    assert join(torch.tensor([2]), torch.tensor([0]), torch.tensor([1])).tolist() == [2, 0, 1]


def test_anything_else_is_refused():
    with pytest.raises(ValueError, match="got str"):
        join("a cat", "a dog")


def test_tuples_of_different_length_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="zip"):
        join((one, one), (one,))
