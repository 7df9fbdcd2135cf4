"""What a licence, a prompt or a class is called does nothing to the card but to be read."""

import yaml

from freeflow_lightning.commands.views.evaluation import evaluation_markdown
from freeflow_lightning.evaluation.scores import Result
from freeflow_lightning.students.export import write_card
from freeflow_lightning.students.export.markdown import fenced, plain

EVIL = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) | `a`\n# heading\n```\n<script>"


def card(folder, licence=EVIL):
    teacher = {"class_path": f"mine.{EVIL}"}
    manifest = {
        "network": {"class": "SiT", "arguments": {}},
        "sample_shape": [3, 4, 4],
        "conditions": {"kind": "prompts", "what": EVIL},
        "decoder": {"kind": "vae", "vae": EVIL},
        "guidance_range": [1.0, 2.0],
        "average": EVIL,
        "left_out": [EVIL],
        "config": {"init_args": {"teacher": teacher}, "prompt": EVIL},
    }
    write_card(folder, manifest, licence, EVIL)
    return (folder / "README.md").read_text()


def outside_of_code(text):
    """The lines that Markdown reads: front matter and code blocks left out."""
    lines, fence = [], None
    for line in text.split("---\n", 2)[2].splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if fence is None and len(ticks) >= 3:
            fence = ticks
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            lines.append(line)
    assert fence is None
    return lines


def test_no_word_of_a_card_is_markup(tmp_path):
    text = card(tmp_path)
    lines = outside_of_code(text)
    assert not [line for line in lines if "<img" in line or "<script" in line or "[click]" in line]
    assert [line for line in lines if line.startswith("#")] == [
        lines[1],
        "## Use",
        "## Licence",
        "## Training config",
    ]
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license_name"] == EVIL
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "whose licence is: mit." in card(tmp_path, "mit")


def test_a_code_block_cannot_be_ended_by_its_text():
    assert fenced("a\n````\nb", "yaml") == ["`````yaml", "a\n````\nb", "`````"]
    assert fenced("a", "")[0] == "```"


def test_a_cell_stays_a_cell_and_names_stay_readable():
    assert plain("a|b") == r"a\|b"
    assert plain("ema_0_9999") == "ema_0_9999"
    assert plain("a\u202eb\x00c") == "a b c"
    features = {"class": "metrics.FlatFeatures", "note": ""}
    about = {
        "drawn by": "student, 1 step",
        "guidance": 1.5,
        "checkpoint": EVIL,
        "features": features,
    }
    page = evaluation_markdown([Result({}, {}, [], about | {EVIL: {"file": EVIL}})])
    assert "<img" not in page
    assert "[click]" not in page
    assert "\n# heading" not in page
