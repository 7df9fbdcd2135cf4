"""Public layouts: the function that comes out is the file's, and what is no such file is refused."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from freeflow_lightning.nets import SIZES, SiT
from freeflow_lightning.teachers import SiTTeacher, save_sit
from freeflow_lightning.teachers.reading.class_table import read_class_table
from freeflow_lightning.teachers.reading.sit_architecture import infer_architecture, size_name
from freeflow_lightning.teachers.reading.sit_files import build_sit, read_sit
from teachers import public_sit
from teachers.public_sit import CLASSES, DEPTH, HEADS, PATCH, WIDTH, projectors, state_dict

ARGS = argparse.Namespace(
    model="SiT-XL/2", image_size=256, path_type="linear", projector_embed_dims=[768], ckpt=None
)


def other():
    return state_dict(seed=7)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def legacy(state, encoder_depth=1):
    """REPA's first files: the blocks after the encoder's count from 0 again."""
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        number, _, tail = rest.partition(".")
        late = first == "blocks" and int(number) >= encoder_depth
        renamed[f"decoder_blocks.{int(number) - encoder_depth}.{tail}" if late else key] = value
    return renamed


def compiled_blocks(state):
    return {key.replace(".attn.", "._orig_mod.attn."): value for key, value in state.items()}


LAYOUTS = {  # name: (what is saved, given the state dict; a word of every note that must be told)
    "raw": (lambda s: s, []),
    "REPA, with projectors": (lambda s: s | projectors(), ["left out 6 tensors", "projectors"]),
    "train.py of SiT": (
        lambda s: {
            "model": other(),
            "ema": s,
            "opt": {"state": {0: {"step": torch.ones(())}}},
            "args": ARGS,
        },
        ["took 'ema'", "not 'model', 'opt', 'args'"],
    ),
    "train.py of REPA": (
        lambda s: {
            "ema": s | projectors(),
            "model": other() | projectors(),
            "args": ARGS,
            "steps": 400_000,
        },
        ["took 'ema'", "'steps'", "left out 6"],
    ),
    "ema alone": (lambda s: {"ema": s}, ["took 'ema' of the file"]),
    "model alone": (lambda s: {"model": s, "step": 3}, ["took 'model'"]),
    "state_dict of a wrapper": (
        lambda s: {"state_dict": prefixed(s, "net.")},
        ["took 'state_dict'", "took net. off"],
    ),
    "wrapped twice": (
        lambda s: {"state_dict": {"ema": s, "model": other()}},
        ["took 'state_dict'", "took 'ema'"],
    ),
    "DDP": (lambda s: prefixed(s, "module."), ["took module. off the keys"]),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), ["took _orig_mod. off"]),
    "DDP of compiled": (lambda s: prefixed(s, "module._orig_mod."), ["_orig_mod., module. off"]),
    "compiled blocks": (compiled_blocks, ["_orig_mod."]),
    "AveragedModel": (
        lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
        ["left out 1", "n_averaged"],
    ),
    "decoder_blocks": (
        lambda s: legacy(s) | projectors(),
        ["renamed decoder_blocks.0 ... to blocks.1", "left out 6"],
    ),
    "an average of timm": (
        lambda s: {"state_dict": other(), "state_dict_ema": s},
        ["took 'state_dict_ema'"],
    ),
    "an average of BasicSR": (
        lambda s: {"params": other(), "params_ema": s},
        ["took 'params_ema'"],
    ),
    "ema_state_dict": (
        lambda s: {"model": other(), "ema_state_dict": s},
        ["took 'ema_state_dict'"],
    ),
    "ema_model": (
        lambda s: {"model": other(), "ema_model": s, "optimizer": {"state": other()}},
        ["took 'ema_model'"],
    ),
    "ema1": (lambda s: {"model": other(), "ema1": s, "opt": other()}, ["took 'ema1'"]),
    "ema_0.9999": (lambda s: {"model": other(), "ema_0.9999": s}, ["took 'ema_0.9999'"]),
    "modelEMA": (lambda s: {"model": other(), "modelEMA": s}, ["took 'modelEMA'"]),
    "shadow": (
        lambda s: {
            "model": other(),
            "ema": {"decay": 0.999, "num_updates": torch.tensor(3), "shadow": s},
        },
        [
            "took 'ema' of the file, not 'model'",
            "took 'shadow' of the file, not 'decay', 'num_updates'",
        ],
    ),
    "an average beside the network in one dict": (
        lambda s: {
            "state_dict": prefixed(other(), "net.")
            | prefixed(s, "ema_net.")
            | {"loss.weight": torch.ones(2)}
        },
        ["took 'state_dict'", "took 'ema_net' of the file, not 'net'"],
    ),
    "an average inside the network's wrapper": (
        lambda s: prefixed(other(), "model.") | prefixed(s, "model.ema."),
        ["took 'model.ema' of the file, not 'model'"],
    ),
    "another name": (
        lambda s: {"weights": s, "step": 3},
        ["took 'weights' of the file, not 'step'"],
    ),
    "parameters": (lambda s: {key: torch.nn.Parameter(value) for key, value in s.items()}, []),
}


def saved(path, content):
    torch.save(content, path)
    return path


def load(path, convention="sit", **changes):
    return SiTTeacher(path, convention, num_heads=HEADS, **changes)


def u(state, convention, x, t, y):
    """The velocity as the facts of each convention say it, from the network written out."""
    network = public_sit.network
    return network(state, x, 1 - t, y) if convention == "sit" else -network(state, x, t, y)


@pytest.mark.parametrize("convention", ["sit", "repa"])
@pytest.mark.parametrize("learn_sigma", [False, True], ids=["4 channels", "8 channels"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_function_of_every_layout(tmp_path, layout, learn_sigma, convention):
    write, told = LAYOUTS[layout]
    state = state_dict(learn_sigma=learn_sigma)
    teacher = load(saved(tmp_path / "weights.pt", write(state)), convention)
    x, t, y = public_sit.inputs()
    torch.testing.assert_close(
        teacher.velocity(x, t, y), u(state, convention, x, t, y), atol=1e-5, rtol=1e-5
    )
    assert (teacher.sample_shape, teacher.num_classes) == ((4, 8, 8), CLASSES)
    notes = "; ".join(teacher.notes)
    for words in [
        *told,
        f"convention {convention!r} as given",
        *(["trimmed the learned variance"] if learn_sigma else []),
    ]:
        assert words in notes, notes
    assert ("trimmed" in notes) == learn_sigma


def test_weights_key_chooses_and_is_told(tmp_path):
    wanted = state_dict()
    nested = {"model": other(), "ema": {"fast": other(), "slow": {"net": wanted}}}
    flat = prefixed(other(), "net.") | prefixed(wanted, "twin.")
    x, t, y = public_sit.inputs()
    for content, key in (
        (nested, "ema.slow"),
        (nested, "ema.slow.net"),
        (flat, "twin"),
        ({"ema": other(), "raw": wanted}, "raw"),
    ):
        teacher = load(saved(tmp_path / "weights.pt", content), weights_key=key)
        torch.testing.assert_close(
            teacher(x, t, y), u(wanted, "sit", x, t, y), atol=1e-5, rtol=1e-5
        )
        assert f"took {key!r} of the file, as asked" in teacher.notes
    with pytest.raises(
        ValueError, match=r"has no 'twin2': expected weights_key to be one of \['net', 'twin'\]"
    ):
        load(saved(tmp_path / "weights.pt", flat), weights_key="twin2")


@pytest.mark.parametrize("convention", ["sit", "repa"])
@pytest.mark.parametrize(
    "parts", [("weight", "bias"), ("weight",), ("scale",)], ids=["REPA", "RMS", "DMF"]
)
def test_norms_of_queries_and_keys(tmp_path, parts, convention):
    """REPA's --qk-norm is timm's LayerNorm, DMF's an RMS norm; either tells the number of heads as well."""
    state = state_dict(qk_norm=parts, size=0.5)
    teacher = SiTTeacher(saved(tmp_path / "weights.pt", state | projectors()), convention)
    x, t, y = public_sit.inputs()
    torch.testing.assert_close(
        teacher(x, t, y), u(state, convention, x, t, y), atol=1e-4, rtol=1e-4
    )
    without = {key: value for key, value in state.items() if "_norm." not in key}
    assert (u(without, convention, x, t, y) - teacher(x, t, y)).norm() > 0.01 * teacher(
        x, t, y
    ).norm()
    assert teacher.function.net.architecture["num_heads"] == HEADS
    with pytest.raises(ValueError, match="makes 2 heads, not 4"):
        SiTTeacher(tmp_path / "weights.pt", convention, num_heads=4)
    save_sit(tmp_path / "own.safetensors", teacher.function)
    assert torch.equal(SiTTeacher(tmp_path / "own.safetensors")(x, t, y), teacher(x, t, y))


def table(rows):
    return state_dict() | {"y_embedder.embedding_table.weight": torch.randn(rows, WIDTH)}


NO_NULL = {  # name: (what is saved, further arguments)
    "the number of classes in args": (
        {"ema": table(10), "args": argparse.Namespace(num_classes=10)},
        {},
    ),
    "args of CIFAR": (
        {"ema": table(10), "args": argparse.Namespace(num_classes=10, class_dropout_prob=0.0)},
        {},
    ),
    "no dropout in args": (
        {"ema": table(6), "args": argparse.Namespace(class_dropout_prob=0.0)},
        {},
    ),
    "REPA's name": ({"ema": table(6), "args": argparse.Namespace(cfg_prob=0)}, {}),
    "a nested config": (
        {"state_dict": table(6), "config": {"model": {"params": {"use_cfg_embedding": False}}}},
        {},
    ),
    "given": (table(10), {"num_classes": 10}),
    "given against the args": (
        {"ema": table(6), "args": {"num_classes": 1000}},
        {"num_classes": 6},
    ),
}
WITH_NULL = {
    "the number of classes in args": (
        {"ema": table(11), "args": argparse.Namespace(num_classes=10)},
        {},
    ),
    "dropout in args": ({"ema": table(10), "args": {"class_dropout_prob": 0.1}}, {}),
    "nothing said": (table(6), {}),
    "given": (table(10), {"num_classes": 9}),
}


@pytest.mark.parametrize("case", NO_NULL)
def test_a_table_without_a_null_row_loses_no_class_and_is_not_guided(tmp_path, case):
    content, given = NO_NULL[case]
    teacher = load(saved(tmp_path / "weights.pt", content), **given)
    rows = len(teacher.function.net.y_embedder.embedding_table.weight)
    assert teacher.num_classes == rows
    labels = torch.arange(rows)
    x = torch.randn(1, 4, 8, 8).expand(rows, -1, -1, -1)
    t = torch.full((rows,), 0.5)
    state = content if "pos_embed" in content else content.get("ema", content.get("state_dict"))
    torch.testing.assert_close(
        teacher(x, t, labels), u(state, "sit", x, t, labels), atol=1e-5, rtol=1e-5
    )
    assert any("no null class, so that it cannot be guided" in note for note in teacher.notes)
    with pytest.raises(ValueError, match=r"no null class.*guidance_range to \[1, 1\]"):
        teacher.guided_velocity(labels, gamma=torch.full((rows,), 1.5))(x, t)
    save_sit(tmp_path / "own.safetensors", teacher.function)
    assert SiTTeacher(tmp_path / "own.safetensors").num_classes == rows


@pytest.mark.parametrize("case", WITH_NULL)
def test_a_table_with_a_null_row_is_told_as_such(tmp_path, case):
    content, given = WITH_NULL[case]
    teacher = load(saved(tmp_path / "weights.pt", content), **given)
    rows = len(teacher.function.net.y_embedder.embedding_table.weight)
    assert teacher.num_classes == rows - 1
    assert int(teacher.null_condition(torch.tensor([0]))) == rows - 1


def test_a_table_that_may_be_meant_either_way_is_not_guessed(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"does not say whether the last is the null class: give num_classes, 10 .*, 9 if",
    ):
        load(saved(tmp_path / "weights.pt", table(10)))
    with pytest.raises(
        ValueError,
        match=r"table of 10 rows, which 1000 classes \(as its arguments say\) do not fit",
    ):
        load(saved(tmp_path / "weights.pt", {"ema": table(10), "args": {"num_classes": 1000}}))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_every_kind_of_file(tmp_path, suffix):
    path, state = tmp_path / f"weights{suffix}", state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    x, t, y = public_sit.inputs()
    torch.testing.assert_close(
        load(path).velocity(x, t, y), u(state, "sit", x, t, y), atol=1e-5, rtol=1e-5
    )


def test_a_file_without_zip_container(tmp_path):
    torch.save(state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    x, t, y = public_sit.inputs()
    torch.testing.assert_close(
        load(tmp_path / "old.pt")(x, t, y), u(state_dict(), "sit", x, t, y), atol=1e-5, rtol=1e-5
    )


def test_the_naive_cut_of_the_learned_variance_is_another_function(tmp_path):
    state, (x, t, y) = state_dict(learn_sigma=True), public_sit.inputs()
    exact = u(state, "sit", x, t, y)
    naive = state | {
        key: value[:16] for key, value in state.items() if key.startswith("final_layer.linear")
    }
    assert (u(naive, "sit", x, t, y) - exact).norm() > 0.5 * exact.norm()


def test_the_stored_position_embedding_is_kept_and_an_absent_one_computed(tmp_path):
    state = state_dict()
    path = saved(tmp_path / "weights.pt", state)
    assert torch.equal(load(path).function.net.pos_embed, state.pop("pos_embed"))
    saved(path, state)
    with pytest.raises(ValueError, match=r"has no pos_embed.*give input_size, 32 at 256"):
        load(path)
    teacher = load(path, input_size=8)
    assert torch.equal(
        teacher.function.net.pos_embed, SiT(8, hidden_size=WIDTH, depth=1, num_heads=1).pos_embed
    )
    assert "computed the position embedding" in "; ".join(teacher.notes)


def test_half_precision_becomes_float32_and_is_told(tmp_path):
    state = {key: value.half() for key, value in state_dict().items()}
    teacher = load(saved(tmp_path / "weights.pt", state))
    x, t, y = public_sit.inputs()
    expected = u({key: value.float() for key, value in state.items()}, "sit", x, t, y)
    torch.testing.assert_close(teacher(x, t, y), expected, atol=1e-5, rtol=1e-5)
    assert "converted float16 to float32" in teacher.notes


def test_another_size_of_latents(tmp_path):
    state = state_dict(side=16)
    teacher = load(saved(tmp_path / "weights.pt", state))
    x, t, y = public_sit.inputs(side=16)
    assert teacher.sample_shape == (4, 16, 16)
    torch.testing.assert_close(teacher(x, t, y), u(state, "sit", x, t, y), atol=1e-5, rtol=1e-5)


def test_labels_are_never_dropped(tmp_path):
    teacher = load(saved(tmp_path / "weights.pt", state_dict())).train()
    x, t, y = public_sit.inputs(64)
    assert torch.equal(teacher(x, t, y), teacher(x, t, y))
    torch.testing.assert_close(
        teacher(x, t, y), u(state_dict(), "sit", x, t, y), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_published_sizes_are_inferred_from_shapes_alone(size, side, learn_sigma):
    with torch.device("meta"):
        state = SiT(input_size=side, **SIZES[size]).state_dict()
        if learn_sigma:
            for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
                state[key] = torch.cat([state[key], state[key]])
    with torch.device("meta"):
        expected = SiT(input_size=side, **SIZES[size]).architecture
    assert (
        infer_architecture(state, "file") | read_class_table(state, "file", None, {}, [])
        == expected
    )
    assert size_name(expected) == f"SiT-{size}/2"


def edited(**changes):
    state = state_dict()
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


def nan():
    return torch.full((WIDTH,), torch.nan)


FAULTS = {  # name: (content, message)
    "missing": (
        lambda: edited(blocks__1__attn__qkv__bias=None),
        r"missing: blocks\.1\.attn\.qkv\.bias",
    ),
    "missing block": (
        lambda: {key: value for key, value in state_dict().items() if "blocks.1." not in key},
        r"(?s)missing: blocks\.1\..*",
    ),
    "extra": (
        lambda: edited(blocks__0__attn__q_norm__weight=torch.ones(8)),
        r"missing: blocks\.0\.attn\.k_norm\.weight",
    ),
    "another student": (
        lambda: edited(dt_embedder__mlp__0__bias=torch.ones(8)),
        r"no SiT has: dt_embedder\.mlp\.0\.bias",
    ),
    "shape": (
        lambda: edited(blocks__1__mlp__fc1__weight=torch.ones(3, WIDTH)),
        r"blocks\.1\.mlp\.fc1\.weight: expected shape \[64, 16\], got \[3, 16\]",
    ),
    "rows": (
        lambda: edited(final_layer__linear__weight=torch.ones(24, WIDTH)),
        "has 24 rows .* expected 16, or 32",
    ),
    "width": (
        lambda: edited(x_embedder__proj__bias=torch.ones(3)),
        r"x_embedder\.proj\.bias: expected shape \[16\], got \[3\]",
    ),
    "tokens": (
        lambda: edited(pos_embed=torch.ones(1, 15, WIDTH)),
        r"pos_embed: expected shape \[1, 9, 16\], got \[1, 15, 16\]",
    ),
    "position": (lambda: edited(pos_embed=torch.ones(16, WIDTH)), r"pos_embed of shape \[16, 16\]"),
    "numbers": (
        lambda: edited(x_embedder__proj__bias=nan()),
        r"x_embedder\.proj\.bias: NaN or infinite",
    ),
    "integers": (
        lambda: edited(pos_embed=torch.ones(1, 16, WIDTH).long()),
        "pos_embed: expected floating point, got torch.int64",
    ),
    "not a SiT": (
        lambda: {"conv.weight": torch.ones(3, 3)},
        r"is not a SiT's state dict.*\['none', 'none', 'none'\].*conv",
    ),
    "a diffusers DiT": (
        lambda: {"pos_embed.proj.weight": torch.ones(16, 4, 2, 2)},
        "is not a SiT's state dict",
    ),
    "no weights": (
        lambda: {"ema": {}, "step": 3},
        r"holds no state dict: .*such as 'ema'.*got \['ema', 'step'\]",
    ),
    "two averages": (
        lambda: {"model": other(), "ema1": state_dict(), "ema2": other()},
        r"several networks, 'model', 'ema1', 'ema2': say which one with weights_key",
    ),
    "no average by name": (
        lambda: {"teacher": other(), "student": state_dict()},
        r"several networks, 'teacher', 'student': say which one with weights_key",
    ),
    "an average without names": (
        lambda: {
            "model": other(),
            "ema": {"decay": 0.999, "shadow_params": list(state_dict().values())},
        },
        r"holds an average, 'ema', whose tensors do not have the network's names: .*weights_key, one of 'model'",
    ),
    "a list": (lambda: [1, 2], "holds no state dict but list"),
    "nothing": (dict, "holds no state dict but dict"),
    "twice": (
        lambda: state_dict() | {"_orig_mod.pos_embed": torch.ones(1, 16, WIDTH)},
        "the same tensor twice",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_by_name(tmp_path, fault):
    content, message = FAULTS[fault]
    path = saved(tmp_path / "weights.pt", content())
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "weights.pt" in str(error.value)


def test_the_list_of_faults_has_an_end(tmp_path):
    state = {
        key: value[:1] if ".adaLN" in key else value
        for key, value in state_dict().items()
        if ".attn." not in key
    }
    with pytest.raises(ValueError, match=r"(?s)final_layer.adaLN.*and 10 more") as error:
        load(saved(tmp_path / "weights.pt", state))
    assert str(error.value).count("; ") == 10


def test_an_unpublished_width_needs_its_heads(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"is 16 wide, none of the published widths \[384, 768, 1024, 1152\]: give num_heads",
    ):
        SiTTeacher(saved(tmp_path / "weights.pt", state_dict()), "sit")
    with pytest.raises(ValueError, match=r"make no SiT.*num_heads to divide"):
        SiTTeacher(tmp_path / "weights.pt", "sit", num_heads=3)


def test_a_stated_size_must_be_the_files(tmp_path):
    with pytest.raises(ValueError, match="side 8, not 16"):
        load(saved(tmp_path / "weights.pt", state_dict()), input_size=16)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    save_file(state_dict(), path) if suffix == ".safetensors" else torch.save(state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        ValueError,
        match=r"weights\.(pt is not a readable file of weights|safetensors is not a readable)",
    ):
        load(path)


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["the file", "beside the weights", "inside the arguments"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped, place):
    trap = Trap(tmp_path / "executed")
    content = {
        "the file": trap,
        "beside the weights": {"ema": state_dict(), "args": trap},
        "inside the arguments": {"ema": state_dict(), "args": argparse.Namespace(model=trap)},
    }[place]
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError,
        match=r"more than tensors and plain values \((posix|nt)\.mkdir\).*would run code.*refused",
    ):
        load(path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"weights\.pt"):
        load(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()  # the trap works


def test_reading_leaves_the_file_alone(tmp_path):
    """The weights are copies: training in place cannot reach a mapped file."""
    path = saved(tmp_path / "weights.pt", state_dict())
    before = path.read_bytes()
    net = build_sit(read_sit(path, num_heads=HEADS))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert path.read_bytes() == before
    assert len(net.blocks) == DEPTH
    assert net.patch_size == PATCH
