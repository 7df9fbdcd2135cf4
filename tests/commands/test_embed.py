"""freeflow embed: with its embeddings alone our solver draws what the whole pipeline draws from the prompt itself."""

import json
from pathlib import Path

import pytest
import torch

from freeflow_lightning.flow import solve
from freeflow_lightning.teachers import DiffusersTeacher, Prompts
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.prompt_encoder import PromptEncoder
from teachers.diffusers.test_pipelines import STEPS
from teachers.tiny_diffusers import TINY, quiet
from teachers.tiny_encoders import save_pipeline

PROMPTS = ["a cat", "the red dog sits on the house", "two"]


@pytest.mark.parametrize("name", ["sd3", "flux", "sana", "wan"])
@torch.no_grad()
def test_a_sample_of_an_embedded_prompt_is_the_pipelines(name, freeflow):
    tiny, pipe = TINY[name], save_pipeline(name, "model")
    Path("prompts.txt").write_text("\n\n".join(PROMPTS) + "\n")
    code, out, err = freeflow(
        *(
            "embed",
            "--model",
            "model",
            "--prompts",
            "prompts.txt",
            "--output",
            "e",
            "--dtype",
            "float32",
        ),
        *("--batch_size", 2, "--shard_size", 2, "--device", "cpu"),
    )
    assert code == 0, err
    assert "3 prompts in e: " in out
    assert sorted(path.name for path in Path("e").iterdir()) == [
        "index.json", "null.safetensors", "prompts.txt", "prompts_00000.safetensors", "prompts_00001.safetensors",
    ]  # fmt: skip
    assert Path("e/prompts.txt").read_text().splitlines() == PROMPTS
    assert json.loads(Path("e/index.json").read_text())["network"] == tiny.net

    prompts = Prompts("e")
    teacher = DiffusersTeacher("model", prompts, latent_size=tiny.size)
    z = torch.randn(2, *teacher.sample_shape, generator=torch.Generator().manual_seed(0))
    size = {"height": tiny.size[-2] * tiny.scale, "width": tiny.size[-1] * tiny.scale}
    more = {key: value for key, value in tiny.arguments.items() if key != "negative_prompt"}
    with quiet():
        expected = pipe(
            prompt=PROMPTS[:2], guidance_scale=3.0, latents=z.clone(), num_inference_steps=STEPS, output_type="latent",
            return_dict=False, **size, **more,
        )[0]  # fmt: skip
    gamma = torch.full((2,), 3.0)
    x = solve(
        lambda x, t, c: teacher.guided_velocity(c, gamma=gamma)(x, t),
        z,
        prompts.rows(torch.tensor([0, 1])),
        grid=pipe.scheduler.sigmas.double(),
        method="euler",
    )
    torch.testing.assert_close(x.view_as(expected), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"--prompts": "none.txt"}, r"no file of prompts at none.txt"),
        ({"--prompts": "empty.txt"}, r"empty.txt has no prompts"),
        ({"--model": "nowhere"}, r"nowhere is no folder, and the hub cannot be reached"),
        ({"--model": "dit"}, r"DiTTransformer2DModel takes no prompts"),
        ({"--model": "bare"}, r"bare is a network without its pipeline"),
        ({"--batch_size": "0"}, r"batch_size and shard_size of at least 1"),
        ({"--output": "full"}, r"full holds embeddings already"),
    ],
)
def test_what_cannot_be_embedded_is_said_in_two_lines(arguments, message, freeflow, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with quiet():
        TINY["dit"].save("dit")
        TINY["sd3"].save("sd3")
        TINY["sd3"].network().save_pretrained("bare")
    Path("empty.txt").write_text("\n \n")
    Path("prompts.txt").write_text("a cat\n")
    Path("full").mkdir()
    Path("full/index.json").write_text("{}")
    given = {"--model": "sd3", "--prompts": "prompts.txt", "--output": "e"} | arguments
    code, _, err = freeflow("embed", *[part for pair in given.items() for part in pair])
    assert code == 1
    assert err.count("\n") == 2, err
    assert message in err.replace("\n", " ")


def test_texts_without_a_mask_are_padded_by_the_encoder_to_one_length(freeflow):
    save_pipeline("cogview4", "model")
    Path("prompts.txt").write_text("a cat\n" + "a dog " * 12 + "\n" + "two\n")
    code, _, err = freeflow(
        "embed", "--model", "model", "--prompts", "prompts.txt", "--output", "e", "--batch_size", 1
    )
    assert code == 0, err
    prompts = Prompts("e")
    assert prompts.lengths == {"encoder_hidden_states": 32}
    assert prompts.rows(torch.arange(3))["encoder_hidden_states"].dtype == torch.bfloat16
    null = prompts.null(prompts.rows(torch.tensor([0])))["encoder_hidden_states"]
    assert (null != 0).any(-1).all()


class Stub:
    """encode_prompt as Z-Image (lists), Qwen-Image (no mask where all tokens count) and HiDream (layers first) have it."""

    _execution_device = torch.device("cpu")

    def __init__(self, returned):
        self.returned, self.asked = returned, {}

    def __call__(self, prompt, guidance_scale=5.0, max_sequence_length=7, clean=True):
        raise NotImplementedError

    def encode_prompt(
        self,
        prompt,
        prompt_2,
        device,
        do_classifier_free_guidance=True,
        max_sequence_length=9,
        clip_skip=None,
    ):
        self.asked = {key: value for key, value in locals().items() if key != "self"}
        return self.returned(len(prompt))


class Zeros(PromptEncoder):
    """Encodes every prompt as one token of zeros."""

    def encode(self, prompts, *, empty=False):
        return {"tokens": torch.zeros(len(prompts), 1, 2)}


def test_the_bar_is_told_of_every_prompt():
    told = []
    encoder = Zeros(Stub(None), FAMILIES["SD3Transformer2DModel"], [])
    shards = list(encoder.shards(["a cat"] * 5, 2, 3, told.append))
    assert [len(shard["tokens"]) for shard in shards] == [3, 2]
    assert told == [2, 1, 2]


def encoded(net, returned, prompts, **more):
    pipe = Stub(returned)
    return PromptEncoder(pipe, FAMILIES[net], prompts).encode(prompts, **more), pipe.asked


def test_lists_become_tensors_with_a_mask():
    found, asked = encoded(
        "ZImageTransformer2DModel",
        lambda n: ([torch.ones(i + 1, 4) for i in range(n)], [torch.ones(2, 4)] * n),
        ["a", "b", "c"],
    )
    assert found["cap_feats"].shape == (3, 3, 4)
    assert found["cap_feats_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert (
        asked["max_sequence_length"],
        asked["do_classifier_free_guidance"],
        asked["prompt_2"],
    ) == (7, False, None)
    null, asked = encoded(
        "ZImageTransformer2DModel",
        lambda n: ([torch.ones(9, 4)], [torch.ones(2, 4)]),
        [""],
        empty=True,
    )
    assert null["cap_feats_mask"].tolist() == [[1, 1]]
    assert asked["do_classifier_free_guidance"]


def test_a_mask_that_is_left_out_is_ones_and_the_batch_comes_first():
    found, _ = encoded(
        "QwenImageTransformer2DModel", lambda n: (torch.ones(n, 5, 4), None), ["a", "b"]
    )
    assert found["encoder_hidden_states_mask"].tolist() == [[1] * 5] * 2
    layers = torch.arange(3.0)[:, None, None, None].expand(3, 2, 5, 4)
    returned = (torch.ones(2, 5, 4), None, layers, None, torch.ones(2, 6), None)
    found, _ = encoded("HiDreamImageTransformer2DModel", lambda n: returned, ["a", "b"])
    assert found["encoder_hidden_states_llama3"].shape == (2, 3, 5, 4)
    assert found["encoder_hidden_states_llama3"][1, :, 0, 0].tolist() == [0, 1, 2]
    assert found["pooled_embeds"].shape == (2, 6)


def test_sd15_has_no_pooled_text():
    found, _ = encoded("UNet2DConditionModel", lambda n: (torch.ones(n, 5, 4), None), ["a"])
    assert list(found) == ["encoder_hidden_states"]
