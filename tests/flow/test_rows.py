"""Skipping rows: what is evaluated, what stands in the others, and gradients through both."""

import torch

from freeflow_lightning.flow import on_rows, spread


def test_the_function_sees_its_rows_alone_and_the_others_are_zero():
    seen = []

    def f(x, tree):
        seen.append((x, tree))
        return x * tree["a"][:, None]

    x, a = torch.randn(5, 2), torch.arange(5.0)
    rows = torch.tensor([3, 1])
    result = on_rows(f, rows)(x, {"a": a, "b": None})
    assert torch.equal(seen[0][0], x[rows])
    assert seen[0][1]["a"].tolist() == [3.0, 1.0]
    expected = x * a[:, None]
    expected[[0, 2, 4]] = 0
    assert torch.equal(result, expected)


def test_all_rows_are_the_function_itself():
    def f(x):
        return x

    assert on_rows(f, None) is f
    x = torch.randn(3)
    assert spread(x, None, torch.zeros(3)) is x


def test_elsewhere_stands_in_the_other_rows_and_gradients_reach_both():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    elsewhere = torch.tensor([7.0, 8.0, 9.0], requires_grad=True)
    result = on_rows(lambda x: x**2, torch.tensor([2]), elsewhere)(x)
    assert result.tolist() == [7.0, 8.0, 9.0]
    result.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 6.0]
    assert elsewhere.grad.tolist() == [1.0, 1.0, 0.0]
