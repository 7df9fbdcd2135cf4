import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import nn

from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import Conditions, Teacher, VelocityTeacher


class Labelled(Teacher):
    sample_shape = (2,)
    num_classes = 3

    def velocity(self, x, t, condition):
        return condition[:, None] - x


def test_a_teacher_without_velocity_cannot_be_built():
    class Mute(Teacher):
        sample_shape = (2,)

    with pytest.raises(TypeError, match="velocity"):
        Mute()


def test_labels_are_drawn_uniformly_without_the_null_class():
    labels = Labelled().draw_condition(30_000, torch.Generator().manual_seed(0))
    share = torch.bincount(labels) / len(labels)
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.015, rtol=0)


def test_null_condition_is_the_label_after_the_last():
    assert Labelled().null_condition(torch.tensor([0, 2])).tolist() == [3, 3]


def test_guidance_by_hand():
    x = torch.zeros(2, 2)
    u = Labelled().guided_velocity(
        torch.tensor([1, 1]), gamma=torch.tensor([2.0, 2.0]), interval=(0.0, 0.4)
    )(x, torch.tensor([0.2, 0.6]))
    assert u.tolist() == [[-1.0, -1.0], [1.0, 1.0]]  # 2 * 1 - 3, and 1 outside the interval


@pytest.mark.parametrize("number", [2.0, 2, torch.tensor(2.0)])
def test_gamma_may_be_a_number_and_1_asks_once(number):
    x, t, labels = torch.zeros(2, 2), torch.ones(2), torch.tensor([1, 2])
    teacher = Labelled()
    each = teacher.guided_velocity(labels, gamma=torch.full((2,), 2.0))(x, t)
    assert torch.equal(teacher.guided_velocity(labels, gamma=number)(x, t), each)
    plain = VelocityTeacher(
        lambda x, t, c: -x, (2,)
    )  # no null condition: the unconditional branch would raise
    for none in (None, 1, 1.0):
        assert torch.equal(plain.guided_velocity(None, gamma=none)(x, t), -x)


@pytest.mark.parametrize("labels", [[0, 3], [-1]])
def test_of_classes_refuses_labels_that_are_no_classes(labels):
    with pytest.raises(ValueError, match=r"classes in 0 \.\. 2"):
        Labelled().conditions.of_classes(torch.tensor(labels))


def test_of_classes_is_the_labels():
    labels = torch.tensor([2, 0])
    assert torch.equal(Labelled().conditions.of_classes(labels), labels)
    assert VelocityTeacher(nn.Identity(), (2,)).conditions.of_classes(labels) is None


def test_a_teacher_without_null_condition_cannot_be_guided():
    teacher, x, t = VelocityTeacher(lambda x, t, c: -x, (2,)), torch.ones(3, 2), torch.ones(3)
    assert torch.equal(teacher.guided_velocity(None)(x, t), -x)
    with pytest.raises(ValueError, match=r"VelocityTeacher has no null condition.*guidance_range"):
        teacher.guided_velocity(None, gamma=2 * t)(x, t)


def test_a_teacher_without_a_network_says_what_to_give():
    for teacher in (Labelled(), VelocityTeacher(lambda x, t, c: -x, (2,))):
        with pytest.raises(ValueError, match=r"has no network.*nets\.MLP"):
            teacher.network()


def test_samples_are_pictures_unless_the_teacher_decodes():
    x = torch.randn(2, 2)
    assert Labelled().decode(x) is x


def test_a_module_is_part_of_its_teacher_and_a_function_is_not():
    net = MLP((2,), hidden_size=4, depth=1)
    assert len(list(VelocityTeacher(net, (2,)).parameters())) == len(list(net.parameters()))
    assert not list(VelocityTeacher(net.forward, (2,)).parameters())


def test_the_copy_of_a_frozen_network_trains_and_a_partly_frozen_one_keeps_its_flags():
    net = MLP((2,), hidden_size=4, depth=1)
    net.out.requires_grad_(False)
    partly = VelocityTeacher(net, (2,)).network()
    assert {name for name, p in partly.named_parameters() if not p.requires_grad} == {
        "out.weight",
        "out.bias",
    }
    frozen = VelocityTeacher(net.requires_grad_(False), (2,)).network()
    assert all(p.requires_grad for p in frozen.parameters())
    assert not any(p.requires_grad for p in net.parameters())


class Pairs(Labelled):
    """Draws the base's labels and something beside them."""

    def draw_condition(self, n, generator):
        return {"label": super().draw_condition(n, generator), "size": torch.ones(n)}


def test_a_drawing_of_ones_own_may_ask_the_bases_and_is_described_by_its_name():
    drawn = Pairs().draw_condition(5, torch.Generator().manual_seed(0))
    assert torch.equal(
        drawn["label"], Labelled().draw_condition(5, torch.Generator().manual_seed(0))
    )
    assert Pairs().describe_conditions() == {
        "kind": "prompts",
        "what": "what Pairs.draw_condition draws",
    }
    assert Labelled().describe_conditions() == {"kind": "classes", "num_classes": 3}
    assert VelocityTeacher(nn.Identity(), (2,)).describe_conditions() == {"kind": "none"}


def test_conditions_of_ones_own_are_drawn_described_and_emptied():
    class Words(Conditions):
        def draw(self, n, generator):
            return torch.ones(n, 2)

        def null(self, condition):
            return torch.zeros_like(condition)

    teacher = VelocityTeacher(nn.Identity(), (2,))
    teacher.conditions = Words()
    drawn = teacher.draw_condition(3, torch.Generator())
    assert drawn.tolist() == [[1.0, 1.0]] * 3
    assert teacher.null_condition(drawn).tolist() == [[0.0, 0.0]] * 3
    assert teacher.conditions.of_classes(torch.tensor([0])) is None
    assert teacher.describe_conditions() == {"kind": "prompts", "what": "what Words draws"}


def test_a_narrow_network_is_asked_at_the_time_itself():
    class Clock(Teacher):
        sample_shape = (1,)

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))

        def velocity(self, x, t, condition):
            assert x.dtype == torch.bfloat16
            return (t > 0.997)[:, None] * x

    late = torch.tensor([0.9971])  # 0.9961 in bfloat16
    assert Clock()(torch.ones(1, 1), late).tolist() == [[1.0]]


def test_a_number_of_guidance_is_itself_in_every_precision():
    x, t, labels = torch.zeros(1, 2), torch.ones(1), torch.tensor([1])
    with HalfPrecision("bf16-true").forward_context():
        u = Labelled().guided_velocity(labels, gamma=1.3)(x, t)
    assert u[0, 0].item() == pytest.approx(1.3 - 0.3 * 3, abs=1e-6)  # 1.297 in bfloat16
