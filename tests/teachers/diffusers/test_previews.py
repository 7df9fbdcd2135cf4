"""Pictures as the pipeline itself would make them."""

import dataclasses

import pytest
import torch

from freeflow_lightning.teachers import DiffusersTeacher, NoCondition
from teachers.diffusers.test_pipelines import Given, run_pipeline
from teachers.tiny_diffusers import TINY, quiet


def vae(kind, **config):
    import diffusers

    torch.manual_seed(3)
    net = getattr(diffusers, kind)(**config)
    with torch.no_grad():
        for value in net.buffers():
            if value.is_floating_point() and value.numel() > 1:
                value.copy_(0.5 + torch.rand_like(value))
    return net.eval()


KL = {
    "block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
MEAN, STD = [0.1, -0.2, 0.3, 0.4], [1.0, 2.0, 0.5, 1.5]
WAN = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "latents_mean": MEAN,
    "latents_std": STD,
}
DC = {
    "latent_channels": 4, "scaling_factor": 0.41, "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
    **{f"{part}_block_out_channels": (8,) * 6 for part in ("encoder", "decoder")},
    **{f"{part}_layers_per_block": (1,) * 6 for part in ("encoder", "decoder")},
    **{f"{part}_qkv_multiscales": ((),) * 6 for part in ("encoder", "decoder")},
}  # fmt: skip
VAES = {
    "sana": lambda: vae("AutoencoderDC", **DC),
    "sd3": lambda: vae("AutoencoderKL", **KL, scaling_factor=1.5, shift_factor=0.06),
    "flux": lambda: vae("AutoencoderKL", **KL, scaling_factor=0.36, shift_factor=0.11),
    "flux2": lambda: vae("AutoencoderKLFlux2", **KL, use_quant_conv=False),
    "qwen": lambda: vae("AutoencoderKLQwenImage", **WAN),
    "wan": lambda: vae("AutoencoderKLWan", **WAN),
    "cogview4": lambda: vae("AutoencoderKL", **KL, scaling_factor=1.0, shift_factor=None),
}


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_decode_is_the_pipelines(name, tmp_path):
    tiny, net = TINY[name], TINY[name].network()
    whole = dataclasses.replace(tiny, extra=lambda: {"vae": VAES[name]()})
    with quiet():
        whole.pipe(net).save_pretrained(tmp_path)
    torch.manual_seed(1)
    condition, null = tiny.condition(2), tiny.condition(2)
    teacher = DiffusersTeacher(tmp_path, Given(condition, null), latent_size=tiny.size)
    z = torch.randn(2, *teacher.sample_shape)
    latents, _ = run_pipeline(whole, net, z.clone(), condition, null, 2.0)
    drawn, _ = run_pipeline(whole, net, z.clone(), condition, null, 2.0, output_type="pt")
    if drawn.ndim == 5:  # [B, F, C, H, W]
        drawn = torch.cat(drawn.unbind(1), dim=-1)
    ours = teacher.decode(latents.view(2, *teacher.sample_shape))
    assert ours.shape[1] == 3
    torch.testing.assert_close(ours / 2 + 0.5, drawn.float(), atol=1e-4, rtol=1e-4)
    assert float(ours.std()) > 0.01


def test_a_model_without_vae_says_so(tmp_path):
    with quiet():
        TINY["wan"].save(tmp_path)
    teacher = DiffusersTeacher(tmp_path, NoCondition(), latent_size=(2, 8, 8))
    with pytest.raises(ValueError, match=r"has no VAE.*leave out callbacks that draw pictures"):
        teacher.decode(torch.zeros(1, 4, 2, 8, 8))


def test_the_vae_is_in_no_state_and_loaded_late(tmp_path):
    whole = dataclasses.replace(TINY["sd3"], extra=lambda: {"vae": VAES["sd3"]()})
    with quiet():
        whole.save(tmp_path)
    teacher = DiffusersTeacher(tmp_path, NoCondition())
    keys = set(teacher.state_dict())
    assert teacher.decoder._decoder is None
    teacher.decode(torch.zeros(1, 4, 8, 8))
    assert set(teacher.state_dict()) == keys
