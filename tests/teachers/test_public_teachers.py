"""SiTTeacher with foreign files: the convention found out, hub files, guidance of three channels, the VAE."""

import re

import pytest
import torch
from safetensors.torch import save_file

from freeflow_lightning.flow import stream_seed
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.teachers import REPA, LatentDecoder, SiTTeacher, check_convention, load_sit
from freeflow_lightning.teachers.sit_velocity import CONVENTIONS
from teachers import public_sit
from teachers.public_sit import CHANNELS, CLASSES, HEADS, projectors, state_dict

COMMIT = f"{stream_seed(0, 'commit'):040x}"


def digits(convention):
    """The embedded teacher's weights, a trained network, in a public file's layout; REPA's by exact changes of two layers.

    cos and sin of w (1 - t) are linear in those of w t, so a network of the reversed time has another first layer.
    """
    w = dict(load_sit("embedded:digits").net.state_dict())
    if convention == "repa":
        angle = torch.exp(
            -torch.log(torch.tensor(10_000.0, dtype=torch.float64)) * torch.arange(128) / 128
        )
        cos, sin = w["t_embedder.mlp.0.weight"].double().chunk(2, 1)
        turned = torch.cat(
            [cos * angle.cos() + sin * angle.sin(), cos * angle.sin() - sin * angle.cos()], 1
        )
        w["t_embedder.mlp.0.weight"] = turned.float()
        w |= {key: -w[key] for key in ("final_layer.linear.weight", "final_layer.linear.bias")}
    return w


def heads():
    return load_sit("embedded:digits").net.architecture["num_heads"]


@pytest.mark.parametrize("convention", ["sit", "repa"])
def test_the_convention_of_trained_weights_is_measured(tmp_path, convention):
    torch.save({"ema": digits(convention)}, tmp_path / "weights.pt")
    teacher, known = (
        SiTTeacher(tmp_path / "weights.pt", num_heads=heads()),
        SiTTeacher("embedded:digits"),
    )
    assert teacher.function.convention == CONVENTIONS[convention]
    assert re.search(
        rf"convention '{convention}' as measured \(correlation .* -(1\.00|0\.9)", teacher.notes[-2]
    )
    z, y = known.draw_indexed(torch.arange(20), seed=0, stream="test")
    t = torch.linspace(0, 1, 20)
    torch.testing.assert_close(teacher(z, t, y), known(z, t, y), atol=1e-4, rtol=1e-4)


def test_the_wrong_convention_is_caught(tmp_path):
    for convention, other in (("sit", "repa"), ("repa", "sit")):
        torch.save(digits(convention), tmp_path / "weights.pt")
        evidence = check_convention(SiTTeacher(tmp_path / "weights.pt", other, num_heads=heads()))
        assert evidence.verdict == "wrong sign and time"
        with pytest.raises(ValueError, match=r"wrong sign and time.*(?s:.)*the other convention"):
            evidence.raise_if_wrong()


def test_weights_that_do_not_tell_need_a_convention(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state_dict(), path)
    with pytest.raises(
        ValueError,
        match=r"(?s)cannot tell the convention of .*give convention 'sit' or 'repa'.*correlation",
    ):
        SiTTeacher(path, num_heads=HEADS)
    for content, convention in (
        (state_dict() | projectors(), "repa"),
        (state_dict(learn_sigma=True), "sit"),
    ):
        torch.save(content, path)
        teacher = SiTTeacher(path, num_heads=HEADS)
        assert teacher.function.convention == CONVENTIONS[convention]
        assert (
            teacher.notes[-2]
            == f"convention '{convention}' by the file's layout alone: the samples do not tell"
        )


def test_what_was_read_is_said(tmp_path, caplog):
    torch.save({"ema": state_dict() | projectors(), "model": {}}, tmp_path / "weights.pt")
    with caplog.at_level("INFO"):
        SiTTeacher(tmp_path / "weights.pt", "repa", num_heads=HEADS)
    assert re.search(
        r"weights\.pt: SiT, 3 blocks of width 16, latents \[4, 8, 8\], [\d,]+ parameters; took 'ema'",
        caplog.text,
    )


def hub(folder, filename, content):
    """A hub cache that holds one file at one commit, the newest of its repository."""
    repository = folder / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    torch.save(content, repository / "snapshots" / COMMIT / filename)


def test_a_file_of_the_hub_comes_from_the_cache(tmp_path):
    hub(tmp_path, "SiT.pt", state_dict())
    source = {
        "repo_id": "owner/name",
        "filename": "SiT.pt",
        "cache_dir": str(tmp_path),
        "offline": True,
    }
    x, t, y = public_sit.inputs()
    for revision in (None, COMMIT):
        teacher = SiTTeacher(convention="repa", num_heads=HEADS, revision=revision, **source)
        expected = -public_sit.network(state_dict(), x, t, y)
        torch.testing.assert_close(teacher(x, t, y), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        FileNotFoundError,
        match=r"at v2 is not in the cache.*was not asked(?s:.)*--revision v2 --local-dir weights",
    ):
        SiTTeacher(revision="v2", **source)
    command = r"hf download owner/name other\.pt --local-dir weights(?s:.)*give its path as the checkpoint"
    with pytest.raises(FileNotFoundError, match=command):
        SiTTeacher(**(source | {"filename": "other.pt"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either checkpoint"),
        ({"checkpoint": "a.pt", "repo_id": "a/b", "filename": "c"}, "either checkpoint"),
        ({"repo_id": "a/b"}, "either checkpoint"),
        ({"checkpoint": "a.pt", "filename": "c"}, "either checkpoint"),
        ({"checkpoint": "a.pt", "revision": "main"}, "revision='main' pins a file of the hub"),
        ({"repo_id": "a/b/c", "filename": "c"}, "expected repo_id as 'owner/name', got 'a/b/c'"),
        ({"checkpoint": "embedded:digits", "num_heads": 4}, "carries its architecture"),
        ({"checkpoint": "embedded:digits", "cfg_channels": 3}, r"cfg_channels in 1 \.\. 1"),
    ],
)
def test_sources_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SiTTeacher(**arguments)


def test_cfg_channels_is_the_guidance_of_sits_sampler(tmp_path):
    """SiT's forward_with_cfg, written out: the first three channels guided, the fourth the conditional output."""
    torch.save(state_dict(), tmp_path / "weights.pt")
    x, t, y = public_sit.inputs()
    gamma = torch.linspace(1.2, 4.0, len(x))
    c, null = (
        public_sit.network(state_dict(), x, 1 - t, label)
        for label in (y, torch.full_like(y, CLASSES))
    )
    guided = null + gamma[:, None, None, None] * (c - null)
    three = torch.cat([guided[:, :3], c[:, 3:]], 1)
    for channels, expected in ((3, three), (None, guided)):
        teacher = SiTTeacher(tmp_path / "weights.pt", "sit", num_heads=HEADS, cfg_channels=channels)
        torch.testing.assert_close(
            teacher.guided_velocity(y, gamma=gamma)(x, t), expected, atol=1e-5, rtol=1e-5
        )
        assert torch.equal(teacher.guided_velocity(y)(x, t), teacher(x, t, y))
    assert not torch.allclose(three, guided, atol=1e-2)


class Brush(LatentDecoder):
    """A decoder without a VAE."""

    def __call__(self, latents):
        return latents[:, :3] * self.scale


def test_pictures_are_decoded_by_a_vae_that_is_no_part_of_the_teacher(tmp_path):
    torch.save(state_dict(), tmp_path / "weights.pt")
    load = lambda **changes: SiTTeacher(tmp_path / "weights.pt", "sit", num_heads=HEADS, **changes)
    x = torch.randn(2, CHANNELS, 8, 8)
    plain, painted = load(), load(vae=Brush("none", scale=2.0))
    assert plain.decode(x) is x
    assert plain.notes[-1] == "no vae: pictures show the samples as they are"
    assert "no vae" not in "; ".join(painted.notes)
    assert torch.equal(painted.decode(x), 2 * x[:, :3])
    assert plain.state_dict().keys() == painted.state_dict().keys()


def test_a_vae_that_is_only_named_is_missed_at_the_first_picture_or_by_setups_check(tmp_path):
    torch.save(state_dict(), tmp_path / "weights.pt")
    place = {"cache_dir": str(tmp_path), "offline": True}
    teacher = SiTTeacher(tmp_path / "weights.pt", "sit", num_heads=HEADS, vae="owner/vae", **place)
    assert (teacher.vae.vae, teacher.vae.given_scale, teacher.vae.offline) == (
        "owner/vae",
        None,
        True,
    )
    x, t, y = public_sit.inputs()
    assert teacher(x, t, y).shape == x.shape
    for asked in (lambda: teacher.decode(x), teacher.check_decoder):
        with pytest.raises(
            FileNotFoundError, match=r"no VAE at 'owner/vae'.*hf download owner/vae"
        ):
            asked()


def test_references_are_kept_apart_by_guidance_and_vae(tmp_path):
    torch.save(state_dict(), tmp_path / "weights.pt")
    load = lambda **changes: SiTTeacher(
        tmp_path / "weights.pt", "sit", num_heads=HEADS, **changes
    ).requires_grad_(False)
    prints = {
        (name, gamma): fingerprint(teacher, torch.device("cpu"), gamma)
        for gamma in (1.0, 2.0)
        for name, teacher in {
            "plain": load(),
            "three": load(cfg_channels=3),
            "vae": load(vae=Brush("a", scale=0.18215)),
            "other vae": load(vae=Brush("a", scale=1.0)),
        }.items()
    }
    assert prints["plain", 1.0] == prints["three", 1.0]
    assert len(set(prints.values())) == len(prints) - 1


def test_a_safetensors_file_of_others_is_told_from_ours(tmp_path):
    save_file(state_dict(), tmp_path / "weights.safetensors", {"format": "pt"})
    assert (
        SiTTeacher(tmp_path / "weights.safetensors", "repa", num_heads=HEADS).function.convention
        == REPA
    )
