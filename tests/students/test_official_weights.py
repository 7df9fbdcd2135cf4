"""Students of the FreeFlow authors' layout: the function that comes out, what is measured, what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from freeflow_lightning import FlowMap
from freeflow_lightning.nets import SIZES, SiT
from freeflow_lightning.students.official_convention import OfficialConvention
from freeflow_lightning.teachers import Convention
from teachers import public_sit
from teachers.public_sit import CLASSES, HEADS, WIDTH, embedded, state_dict
from teachers.test_public_teachers import digits, heads

GIVEN = OfficialConvention(1, -1)


def inputs():
    """States, jumps and labels; a student is not asked for the null class."""
    x, delta, y = public_sit.inputs()
    return x, delta, y % CLASSES


def embedder(name, seed, width=WIDTH, size=0.15):
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "0.weight": (width, 256),
        "0.bias": (width,),
        "2.weight": (width, width),
        "2.bias": (width,),
    }
    return {
        f"{name}.mlp.{part}": size * torch.randn(shape, generator=g)
        for part, shape in shapes.items()
    }


def student(delta="dt_embedder", gamma="gw_embedder", **changes):
    return state_dict(**changes) | embedder(delta, 1) | embedder(gamma, 2)


def load(path, content, convention=GIVEN, **changes):
    torch.save(content, path)
    return FlowMap.from_official(path, convention, vae=None, num_heads=HEADS, **changes)


def expected(w, z, y, delta, gamma, convention=GIVEN, names=("dt_embedder", "gw_embedder")):
    """z + sign delta net(z, prior_time, y, delta, gamma), from the network written out."""
    extra = embedded(w, names[0], convention.delta_scale * delta) + embedded(
        w, names[1], convention.gamma_scale * gamma
    )
    out = public_sit.network(w, z, torch.full((len(z),), float(convention.prior_time)), y, extra)
    return z + convention.sign * delta[:, None, None, None] * out


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1000.0, 0.5)])
def test_the_function_in_every_convention(tmp_path, time, sign, scales):
    w, convention, (z, delta, y) = student(), OfficialConvention(time, sign, *scales), inputs()
    flow_map = load(tmp_path / "student.pt", w, convention)
    gamma = torch.linspace(1, 2, len(z))
    reference = expected(w, z, y, delta, gamma, convention)
    torch.testing.assert_close(flow_map(z, y, gamma, delta), reference, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(flow_map(z, y, gamma + 0.5, delta), reference, atol=1e-2)
    assert (flow_map.teacher.sample_shape, flow_map.teacher.num_classes) == ((4, 8, 8), CLASSES)
    assert torch.equal(flow_map(z, y, gamma, 0.0), z)


NAMES = [
    ("dt_embedder", "gw_embedder"),
    ("delta_embedder", "cfg_embedder"),
    ("d_embedder", "guidance_embedder"),
    ("duration_embedder", "w_embedder"),
    ("jump_embed", "omega_embed"),
    ("r_embedder", "gamma_embedder"),
]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_embedders_are_recognised_by_name_and_said(tmp_path, caplog, names):
    w, (z, delta, y) = student(*names), inputs()
    with caplog.at_level("INFO"):
        flow_map = load(tmp_path / "student.pt", w)
    gamma = torch.full((len(z),), 1.5)
    torch.testing.assert_close(
        flow_map(z, y, 1.5, delta),
        expected(w, z, y, delta, gamma, names=names),
        atol=1e-4,
        rtol=1e-4,
    )
    assert (
        f"delta from '{names[0]}', gamma from '{names[1]}'; prior time and sign as given"
        in caplog.text
    )


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("layout", ["ema of a training file", "DDP", "safetensors"])
def test_the_layouts_of_teachers_are_those_of_students(tmp_path, layout, learn_sigma):
    w, (z, delta, y) = student(learn_sigma=learn_sigma), inputs()
    path = tmp_path / ("student.safetensors" if layout == "safetensors" else "student.pt")
    if layout == "safetensors":
        save_file(w, path)
    else:
        torch.save(
            {"ema": w, "model": {}}
            if layout.startswith("ema")
            else {f"module.{k}": v for k, v in w.items()},
            path,
        )
    flow_map = FlowMap.from_official(path, GIVEN, vae=None, num_heads=HEADS)
    reference = expected(w, z, y, delta, torch.full((len(z),), 1.5))
    torch.testing.assert_close(flow_map(z, y, 1.5, delta), reference, atol=1e-4, rtol=1e-4)


def test_an_unknown_name_is_listed_and_can_be_given(tmp_path):
    w, (z, delta, y) = student("foo", "bar"), inputs()
    with pytest.raises(
        ValueError,
        match=r"found \[\] for delta, \[\] for gamma.*bar\.mlp.*foo\.mlp.*Name embedders with rename",
    ):
        load(tmp_path / "student.pt", w)
    convention = OfficialConvention(1, -1, rename={"foo": "delta", "bar": "gamma"})
    reference = expected(w, z, y, delta, torch.full((len(z),), 1.5), names=("foo", "bar"))
    torch.testing.assert_close(
        load(tmp_path / "a.pt", w, convention)(z, y, 1.5, delta), reference, atol=1e-4, rtol=1e-4
    )
    with pytest.raises(
        ValueError, match=r"has no embedder \['baz'\]: rename one of \['foo', 'bar'\]"
    ):
        load(tmp_path / "a.pt", w, OfficialConvention(1, -1, rename={"baz": "delta"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (state_dict, r"found \[\] for delta, \[\] for gamma and other tensors \[\]"),
        (
            lambda: state_dict() | embedder("dt_embedder", 1),
            r"found \['dt_embedder'\] for delta, \[\] for gamma",
        ),
        (
            lambda: student() | embedder("d_embedder", 3),
            r"found \['dt_embedder', 'd_embedder'\] for delta",
        ),
        (lambda: student() | {"lora.weight": torch.ones(2)}, r"other tensors \['lora\.weight'\]"),
        (
            lambda: student() | {"gw_embedder.mlp.2.bias": torch.ones(3)},
            r"\[\] for gamma.*gw_embedder\.mlp\.0\.bias",
        ),
        (
            lambda: {k: v for k, v in student().items() if k != "blocks.0.attn.proj.bias"},
            r"missing: blocks\.0\.attn\.proj\.bias",
        ),
        (
            lambda: student() | {"dt_embedder.mlp.2.bias": torch.full((WIDTH,), torch.nan)},
            "NaN or infinite",
        ),
    ],
)
def test_what_is_no_student_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "student.pt", content())


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_prior_time_and_sign_are_measured_on_trained_weights(tmp_path, caplog, time, sign):
    """The digits teacher is a student of one Euler step: its zero embedders leave u(z, 1), mean pictures."""
    w = digits("repa" if time else "sit")
    flip = sign * (-1 if time else 1)
    w |= {key: flip * w[key] for key in ("final_layer.linear.weight", "final_layer.linear.bias")}
    w |= embedder("dt_embedder", 1, 96, 0.0) | embedder("gw_embedder", 2, 96, 0.0)
    torch.save(w, tmp_path / "student.pt")
    for convention in (
        OfficialConvention(),
        OfficialConvention(prior_time=time),
        OfficialConvention(sign=sign),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            flow_map = FlowMap.from_official(
                tmp_path / "student.pt", convention, vae=None, num_heads=heads()
            )
        assert flow_map.network.backbone.convention == Convention(time, sign)
        reading = re.escape(f"prior_time {time} sign {sign:+d}")
        said = rf"prior_time {time} and sign {re.escape(f'{sign:+d}')} as measured \(.*{reading}: std 0\.\d+, neighbours \+0\."
        assert re.search(said, caplog.text)
        assert caplog.text.count("neighbours") == (4 if convention == OfficialConvention() else 2)


def test_a_student_that_does_not_tell_its_convention_needs_it(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"cannot tell prior time and sign of .*: give both\. Samples \(prior_time 0 sign \+1: std",
    ):
        load(tmp_path / "student.pt", student(), OfficialConvention())
    with pytest.raises(ValueError, match="expected prior_time 0, 1 or auto"):
        OfficialConvention(sign=2)


def test_the_vae_is_only_named_until_the_first_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # no waiting for a network
    torch.save(student(), tmp_path / "student.pt")
    flow_map, (z, delta, y) = (
        FlowMap.from_official(tmp_path / "student.pt", GIVEN, num_heads=HEADS),
        inputs(),
    )
    x = flow_map(z, y, 1.5, delta)
    with pytest.raises(FileNotFoundError, match=r"no VAE at 'stabilityai/sd-vae-ft-ema'"):
        flow_map.teacher.decode(x)


def test_a_student_has_no_teacher(tmp_path):
    flow_map, (x, t, y) = load(tmp_path / "student.pt", student()), inputs()
    with pytest.raises(ValueError, match="holds no teacher"):
        flow_map.teacher(x, t, y)


@pytest.mark.parametrize(("side", "expected_count"), [(32, 678_359_824), (64, 679_244_560)])
def test_the_published_size(side, expected_count):
    with torch.device("meta"):
        net = SiT(input_size=side, **SIZES["XL"])
        weights = sum(p.numel() for p in net.parameters())
    extra = sum(
        value.numel()
        for name in ("dt_embedder", "gw_embedder")
        for value in embedder(name, 0, 1152).values()
    )
    assert weights + extra == expected_count


@pytest.fixture
def published_width(tmp_path):
    """A student of SiT-S's width with two blocks, and a tiny VAE of the right factor."""
    torch.manual_seed(0)
    net = SiT(32, **(SIZES["S"] | {"depth": 2}))
    for p in net.final_layer.parameters():
        torch.nn.init.normal_(p, std=0.02)
    w = (
        net.state_dict()
        | embedder("dt_embedder", 1, 384, 0.02)
        | embedder("gw_embedder", 2, 384, 0.02)
    )
    torch.save({"ema": w}, tmp_path / "FreeFlow.pt")
    shape = {"block_out_channels": [4] * 4, "norm_num_groups": 2, "layers_per_block": 1}
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    AutoencoderKL(latent_channels=4, **shape, **blocks).save_pretrained(tmp_path / "vae")
    return tmp_path / "FreeFlow.pt", tmp_path / "vae"


def test_freeflow_sample_draws_from_official_weights(published_width, tmp_path, freeflow):
    path, vae = published_width
    options = [
        "--num_samples",
        3,
        "--guidance",
        1.7,
        "--classes",
        "[207, 3]",
        "--seed",
        5,
        "--npz",
        "true",
        "--vae",
        vae,
    ]
    read = ["--official.prior_time", 1, "--official.sign", -1, "--image_size", 256]
    code, _, err = freeflow("sample", "--checkpoint", path, "--output", "out", *options, *read)
    assert code == 0, err
    drawn = np.load("out/samples.npz")["arr_0"]
    flow_map = FlowMap.from_official(path, GIVEN, vae=str(vae))
    x = flow_map.sample(3, torch.tensor([207, 3, 207]), 1.7, seed=5)
    pictures = (
        (127.5 * flow_map.teacher.decode(x) + 128)
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    assert drawn.shape == (3, 256, 256, 3)
    assert np.abs(drawn.astype(int) - pictures).max() <= 1
    assert drawn.std() > 1


def test_freeflow_evaluate_compares_official_weights_with_given_pictures(
    published_width, tmp_path, freeflow
):
    path, vae = published_width
    options = [
        "--checkpoint",
        path,
        "--vae",
        vae,
        "--official.prior_time",
        1,
        "--official.sign",
        -1,
    ]
    assert freeflow("sample", *options, "--num_samples", 3, "--npz", "--output", "out")[0] == 0
    options += ["--num_samples", 3]
    compared = ["evaluate", *options, "--reference", "out/samples.npz", "--features"]
    code, _, err = freeflow(*compared, "commands.test_evaluate.Bright")
    assert code == 0, err
    assert json.loads((tmp_path / "evaluation/evaluation.json").read_text())["scores"]["fid"][
        "value"
    ] == pytest.approx(0, abs=1e-4)
    code, _, err = freeflow(*compared, "flat")
    assert code == 1
    assert "196608 numbers of a sample, 8192 at most" in err
    code, _, err = freeflow("evaluate", *options)
    assert code == 1
    assert "holds no teacher to compare with" in err


def test_freeflow_sample_refuses_options_without_effect(published_width, freeflow, tmp_path):
    path, vae = published_width
    read = ["--official.prior_time", 1, "--official.sign", -1]
    code, _, err = freeflow(
        "sample", "--checkpoint", path, "--image_size", 512, "--vae", vae, *read
    )
    assert code == 1
    assert "latents of side 32, not 64" in err
    code, _, err = freeflow("sample", "--checkpoint", path, "--average", "raw", *read)
    assert code == 1
    assert "leave --average and --ema_length out" in err
    torch.save({"pytorch-lightning_version": "2", "state_dict": {}}, tmp_path / "run.ckpt")
    code, _, err = freeflow("sample", "--checkpoint", tmp_path / "run.ckpt", "--image_size", 256)
    assert code == 1
    assert "leave --image_size, --vae and --official out" in err


def test_freeflow_search_keeps_the_samples_of_official_weights(published_width, tmp_path, freeflow):
    path, vae = published_width
    (tmp_path / "shade.py").write_text(
        "def bright(samples, condition):\n    return samples.float().flatten(1).mean(1)\n"
    )
    options = [
        "search",
        "--checkpoint",
        path,
        "--vae",
        vae,
        "--official.prior_time",
        1,
        "--official.sign",
        -1,
    ]
    options += [
        "--verifier",
        "shade.bright",
        "--num_samples",
        2,
        "--candidates",
        3,
        "--output",
        "out",
    ]
    code, _, err = freeflow(*options)
    assert code == 1
    assert "holds no teacher: add --teacher_steps 0" in err
    code, _, err = freeflow(*options, "--teacher_steps", 0)
    assert code == 0, err
    report = json.loads((tmp_path / "out/search.json").read_text())
    assert report["mean score"]["student"] > report["mean score"]["student_unsearched"]
    assert report["nfe"]["per sample"]["total"] == 3
    assert (tmp_path / "out/search.png").is_file()
