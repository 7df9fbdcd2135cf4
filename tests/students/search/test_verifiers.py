"""Verifiers against what they stand for."""

import pytest
import torch
from PIL import Image
from torch import nn

from freeflow_lightning.metrics import DigitsFeatures, FlatFeatures, InceptionFeatures
from freeflow_lightning.students.search import ClassScore, TargetDistance


class Classifier(nn.Module):
    def forward(self, samples):
        return samples.float().flatten(1)[:, :3]


def test_the_class_score_is_the_log_probability():
    x = torch.tensor([[0.0, 0.0, 0.0, 9.0], [5.0, 0.0, 0.0, 9.0]])
    score = ClassScore(Classifier())(x, torch.tensor([2, 0]))
    torch.testing.assert_close(
        score.exp(), torch.tensor([1 / 3, 1 / (1 + 2 * torch.exp(torch.tensor(-5.0)))])
    )


def test_the_digits_classifier_prefers_the_class_asked_for():
    pytest.importorskip("sklearn")
    from freeflow_lightning.examples.digits.data import load_digits
    from freeflow_lightning.metrics import to_uint8

    pictures, labels = load_digits()
    x, verifier = to_uint8(pictures[:300]), ClassScore()
    right, wrong = verifier(x, labels[:300]), verifier(x, (labels[:300] + 1) % 10)
    assert float((right > wrong).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("classifier", "condition", "words"),
    [
        (Classifier(), torch.tensor([3, 0]), "class 3 is none of the 3 classes of the verifier"),
        (Classifier(), {"text": torch.ones(2)}, "this student has none: give another verifier"),
        (FlatFeatures(4), torch.tensor([0, 0]), "FlatFeatures has features and no logits"),
    ],
)
def test_what_is_no_classifier_for_these_classes_is_refused(classifier, condition, words):
    with pytest.raises(ValueError, match=words):
        ClassScore(classifier)(torch.zeros(2, 4), condition)


def test_inception_is_no_classifier_of_imagenets_order():
    with pytest.raises(ValueError, match="an order of their own"):
        ClassScore(InceptionFeatures.__new__(InceptionFeatures))


def test_the_distance_to_a_target_is_of_numbers_or_pixels_or_features(tmp_path):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(
        TargetDistance([0.0, 0.0])(x, None), torch.tensor([-(12.5**0.5), 0.0])
    )
    pixels = torch.randint(
        256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    Image.fromarray(pixels[1, 0].numpy()).save(tmp_path / "target.png")
    for features in (None, DigitsFeatures()):
        score = TargetDistance(tmp_path / "target.png", features)(pixels, None)
        assert float(score[1]) == pytest.approx(0, abs=1e-5)
        assert float(score[[0, 2]].max()) < -0.01
    plain = TargetDistance(tmp_path / "target.png")(pixels, None)[0]
    expected = ((pixels[0].float() - pixels[1].float()) / 127.5).square().mean().sqrt()
    torch.testing.assert_close(-plain, expected)
    with pytest.raises(ValueError, match="the target has 64 numbers and a sample has 2"):
        TargetDistance(tmp_path / "target.png")(x, None)
    with pytest.raises(FileNotFoundError, match=r"no target at gone.png"):
        TargetDistance("gone.png")
