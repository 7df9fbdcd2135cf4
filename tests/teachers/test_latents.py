import copy

import pytest
import torch
from diffusers import AutoencoderKL

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.teachers import LatentDecoder, SiTTeacher
from tiny import fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae")
    tiny = {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    AutoencoderKL(latent_channels=4, sample_size=16, **tiny, **blocks).save_pretrained(path)
    return path


def latents(n=5):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_is_the_vaes_decoder_of_the_unscaled_latents(folder):
    vae = AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = vae.decode(latents() / 0.18215).sample
    decoded = LatentDecoder(folder)(latents())
    assert decoded.shape == (5, 3, 16, 16)
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)


def test_scale_and_shift_may_differ_by_channel(folder):
    scale, shift = [0.5, 1.0, 2.0, 4.0], [0.1, 0.2, 0.3, 0.4]
    unscaled = latents() / torch.tensor(scale).view(4, 1, 1) + torch.tensor(shift).view(4, 1, 1)
    expected = LatentDecoder(folder, scale=1.0)(unscaled)
    torch.testing.assert_close(
        LatentDecoder(folder, scale, shift)(latents()), expected, atol=1e-5, rtol=1e-5
    )


@pytest.fixture
def of(tmp_path):
    """A tiny VAE of the given config, saved; the path of its folder."""

    def save(**changes):
        torch.manual_seed(0)
        tiny = {
            "block_out_channels": [8, 8],
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "latent_channels": 4,
        }
        blocks = {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
        }
        AutoencoderKL(**tiny | blocks | changes).save_pretrained(tmp_path / "made")
        return tmp_path / "made"

    return save


def test_scale_and_shift_come_from_the_config_unless_given(of):
    path = of(scaling_factor=0.3611, shift_factor=0.1159)
    vae = AutoencoderKL.from_pretrained(path).eval()
    with torch.no_grad():
        expected = vae.decode(latents() / 0.3611 + 0.1159).sample
        scaled = vae.decode(latents() / 2 + 0.1159).sample
        shifted = vae.decode(latents() / 0.3611).sample
    torch.testing.assert_close(LatentDecoder(path)(latents()), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        LatentDecoder(path, scale=2.0)(latents()), scaled, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        LatentDecoder(path, shift=0.0)(latents()), shifted, atol=1e-5, rtol=1e-5
    )


def test_the_configs_statistics_of_latents_are_used(of):
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    path = of(scaling_factor=0.5, latents_mean=mean, latents_std=std)
    unscaled = latents() * torch.tensor(std).view(4, 1, 1) / 0.5 + torch.tensor(mean).view(4, 1, 1)
    with torch.no_grad():
        expected = AutoencoderKL.from_pretrained(path).eval().decode(unscaled).sample
    torch.testing.assert_close(LatentDecoder(path)(latents()), expected, atol=1e-5, rtol=1e-5)


def test_a_vae_that_does_not_fit_is_refused_without_its_weights(of):
    path = of(scaling_factor=0.3611)
    (path / "diffusion_pytorch_model.safetensors").unlink()  # nothing but the config is read
    assert (
        LatentDecoder(path).check((4, 8, 8))
        == "AutoencoderKL, pictures of 3 x 16 x 16, scale 0.3611, shift 0"
    )
    for shape in ((16, 8, 8), (4, 3, 8, 8), (64, 4), (4,)):
        with pytest.raises(
            ValueError, match=r"does not decode samples of shape .*expected latents of 4 channels"
        ):
            LatentDecoder(path).check(shape)
    with pytest.raises(ValueError, match="does not decode samples of shape"):
        LatentDecoder(path, scale=[1.0, 2.0]).check((4, 8, 8))
    with pytest.raises(ValueError, match=r"to \[5, 16, 16\]: expected pictures"):
        LatentDecoder(of(out_channels=5)).check((4, 8, 8))
    with pytest.raises(FileNotFoundError, match="no VAE at 'owner/vae'"):
        LatentDecoder("owner/vae", offline=True, cache_dir=str(path)).check((4, 8, 8))


def test_fit_refuses_it_before_training(of):
    teacher = SiTTeacher("embedded:digits", vae=LatentDecoder(of()))
    with pytest.raises(
        ValueError,
        match=r"does not decode samples of shape \[1, 8, 8\]: expected latents of 4 channels",
    ):
        fit(FreeFlowModule(teacher), max_steps=1)


def test_parts_do_not_meet_and_bound_the_batch(folder):
    decoder = LatentDecoder(folder, chunk=2)
    sizes = []
    decoder.network().decoder.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0]))
    )
    torch.testing.assert_close(
        decoder(latents()), LatentDecoder(folder, chunk=64)(latents()), atol=1e-5, rtol=1e-5
    )
    assert sizes == [2, 2, 1]


def test_nothing_is_loaded_before_the_first_picture_and_copies_share_it(folder):
    decoder = LatentDecoder("no/such")
    assert copy.deepcopy(decoder) is decoder
    found = LatentDecoder(folder)
    assert found.network() is found.network()
    assert not any(p.requires_grad for p in found.network().parameters())


def test_a_vae_that_is_not_there_says_how_to_get_it(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no VAE at 'owner/vae'(?s:.)*hf download owner/vae --local-dir vae",
    ):
        LatentDecoder("owner/vae", offline=True, cache_dir=str(tmp_path))(latents())
    vae = AutoencoderKL.from_pretrained(folder)
    vae.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    with pytest.raises(FileNotFoundError, match=r"safetensors"):
        LatentDecoder(tmp_path / "pickle")(latents())


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="chunk to be an integer of at least 1"):
        LatentDecoder("vae", chunk=0)
    with pytest.raises(ValueError, match="no class 'Autoencoder'"):
        LatentDecoder("vae", class_name="Autoencoder").network()
