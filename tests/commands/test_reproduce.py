"""freeflow reproduce: every claim runs in a form of seconds, and what its page says is what was measured."""

import json
from functools import cache
from pathlib import Path

import pytest

from freeflow_lightning.commands import claim_files as files
from freeflow_lightning.commands import field
from freeflow_lightning.commands import reproduce as verb
from freeflow_lightning.commands.views.claim import BEGIN, END, table_of, update_table
from freeflow_lightning.evaluation import yardstick
from freeflow_lightning.evaluation.claims import Claim, Size
from freeflow_lightning.evaluation.findings import NOT_RUN, ClaimResult
from freeflow_lightning.evaluation.methods import Method, Point, Run
from freeflow_lightning.metrics import FacesFeatures, read_statistics
from freeflow_lightning.students.export.markdown import plain

DOCS = Path(__file__).parents[2] / "docs"
CLAIMS = files.list_claims()
FULL = Size()


@pytest.fixture
def seconds(monkeypatch, tmp_path):
    """What makes a claim a matter of seconds: no picture, and the real faces are seen once."""
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verb, "plot_claim", lambda result: b"")
    monkeypatch.setattr(yardstick, "read_statistics", real_faces)


def real_faces(path, features, device):
    """The table of the real faces, whose features are the same in every test."""
    return read_once(path)


@cache
def read_once(path):
    return read_statistics(path, FacesFeatures())


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.slow
def test_it_trains_measures_and_says_what_came(name, freeflow, seconds):
    code, _, error = freeflow("reproduce", name, "--budget", "trial")
    assert code == 0, error
    claim, content = CLAIMS[name], json.loads(Path(f"reproduce/{name}.json").read_text())
    arms = claim.arms(claim.size("trial"))
    assert list(content["arms"]) == [arm.label for arm in arms]
    for arm in content["arms"].values():
        (run,) = arm["runs"]
        assert run["failure"] == ""
        assert run["points"][-1]["steps"] == 2
        assert all(row[claim.figures[0]]["mean"] >= 0 for row in arm["final"].values())
    assert content["about"]["command"] == f"freeflow reproduce {name} --budget trial"
    assert {"commit", "device", "torch"} <= set(content["about"]["machine"])
    assert [finding["say"] for finding in content["findings"]] == [c.say for c in claim.checks]
    page = Path(f"reproduce/{name}.md").read_text()
    assert page.startswith(f"# {claim.title}\n")
    assert all(f"| {plain(arm.label)} |" in page for arm in arms)


def test_it_goes_on_where_it_was_killed_and_draws(freeflow, tmp_path, monkeypatch):
    monkeypatch.setenv("FREEFLOW_CACHE", str(tmp_path / "cache"))
    words = ("reproduce", "fig7", "--budget", "trial", "--seeds", "2", "--output", "out")
    trained, run_contender = [], field.run_contender

    def cut(contender, run, *rest):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(run.seed)
        return run_contender(contender, run, *rest)

    monkeypatch.setattr(field, "run_contender", cut)
    assert freeflow(*words)[0] == 130
    assert not Path("out/fig7.md").exists()
    monkeypatch.setattr(
        field,
        "run_contender",
        lambda c, r, *rest: trained.append(r.seed) or run_contender(c, r, *rest),
    )
    for _ in range(2):
        code, _, error = freeflow(*words)
        assert code == 0, error
        assert trained == [0, 1]
    assert Path("out/fig7.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path("out").rglob("*.ckpt"))  # 56 MB each
    final = json.loads(Path("out/fig7.json").read_text())["arms"]["prediction alone"]
    values = [run["points"][-1]["figures"]["1"]["fid"] for run in final["runs"]]
    assert final["final"]["1"]["fid"]["mean"] == pytest.approx(sum(values) / 2)
    assert final["paper"] == 5.78


def test_without_a_name_they_are_listed_in_the_papers_order(freeflow):
    code, out, _ = freeflow("reproduce")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(CLAIMS)
    wanted = {"fig2", "fig4", "fig6", "fig7", "fig8", "fig9", "fig10", "table1a", "table1b"}
    wanted |= {"table1c", "table1d", "table3", "table4", "warmup", "methods", "starts"}
    assert set(CLAIMS) == wanted


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_names_its_own_arms(name):
    """Checks, the paper's figures and the short budget speak of labels that there are."""
    claim = CLAIMS[name]
    labels = {arm.label for arm in claim.arms(FULL)}
    assert set(claim.paper) <= labels
    sides = [side for check in claim.checks for side in (*check.less, *check.than)]
    places = [place for side in sides for place in side.split(" over ")]
    assert {place.partition(" at ")[0] for place in places} - labels == set()
    for axis, only in claim.size("short").only.items():
        assert {str(label) for label in only} <= set(getattr(claim, axis))


def test_an_arm_changes_the_base_in_the_order_of_its_axes():
    claim = CLAIMS["fig9"]
    arm = next(a for a in claim.arms(FULL) if a.label == "prediction alone / Euler / 64")
    settings = files.contender_of(claim, arm).settings
    model = settings.model.as_dict()["init_args"]
    assert model["prediction"]["init_args"] == {"steps": 64, "method": "euler"}
    assert (model["correction_fraction"], model["residual_decay"]) == (0.0, 0.5)
    names = [c.class_path.rpartition(".")[2] for c in settings.trainer.callbacks]
    assert names == ["ConfidentRegionWarmup", "StudentEMA"]
    other = files.contender_of(claim, claim.arms(FULL)[-1]).settings.model.as_dict()["init_args"]
    assert other["prediction"]["class_path"].endswith("ContinuousPrediction")
    assert other["correction_fraction"] == 0.375  # the base is left as it is


def result(checks, over_training=False, **fids):
    """A result of arms whose runs have these FIDs: a list over training, for each seed."""
    claim = Claim.of("own", {
        "order": 1, "title": "t", "source": "s", "statement": "w", "base": "b", "figures": ["fid"],
        "lines": {label: {} for label in fids}, "checks": checks, "over_training": over_training,
    })  # fmt: skip
    methods = {}
    for label, seeds in fids.items():
        runs = [
            Run(
                label,
                seed,
                1.0,
                [Point(k + 1, {}, 0.0, {1: {"fid": v}}) for k, v in enumerate(row)],
            )
            for seed, row in enumerate(seeds)
        ]
        methods[label] = Method(label, runs, runs)
    return ClaimResult(claim, FULL, methods, {}, {})


@pytest.mark.parametrize(
    ("less", "than", "verdict"),
    [
        ("a", "b", "holds"),
        ("b", "a", "does not hold"),
        ("a", "c", "holds within the spread of the seeds"),
        ("d", "b", "holds for one seed"),
        ("a", "gone", NOT_RUN),
        (["a", "b"], "c", "does not hold"),  # the worst of the pairs
        ("b over a", "b", "holds"),  # 2 against 4
    ],
)
def test_a_verdict_asks_for_more_than_the_seeds_spread(less, than, verdict):
    made = result([{"say": "it", "less": less, "than": than}],
                  a=[[1.9], [2.1]], b=[[3.9], [4.1]], c=[[1.2], [3.2]], d=[[1.0]])  # fmt: skip
    assert [finding.verdict for finding in made.findings()] == [verdict]


def test_a_place_of_the_training_is_a_part_of_it():
    check = {"say": "it", "less": "a at 0.5", "than": "a"}
    made = result([check], over_training=True, a=[[9.0, 2.0, 5.0, 4.0], [9.0, 2.2, 5.0, 4.4]])
    assert made.at("a at 0.25", "fid").mean == 9.0
    assert made.findings()[0].less.mean == pytest.approx(2.1)
    assert made.findings()[0].than.mean == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fig77"], "did you mean fig7"),
        (["fig7", "--seeds", "0"], "seeds"),
        (["--table", "missing.md"], "no page at missing.md"),
        (["--table", "plain.md"], f"expected {BEGIN}"),
    ],
)
def test_refusals(freeflow, words, message):
    Path("plain.md").write_text("# page\n")
    code, _, error = freeflow("reproduce", *words)
    assert code == 1
    assert message in error
    assert "Traceback" not in error


def test_the_table_of_the_docs_is_that_of_the_results():
    text = (DOCS / "reproduce.md").read_text()
    block = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert block == table_of(DOCS / "reproduce", "reproduce")
    for path in (DOCS / "reproduce").glob("*.json"):
        content = json.loads(path.read_text())
        assert content["claim"]["statement"] == CLAIMS[path.stem].statement
        assert path.with_suffix(".md").is_file()
        assert path.with_suffix(".png").is_file()


def test_a_table_is_written_between_its_marks(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    findings = [{"verdict": verdict} for verdict in ("holds", "does not hold", NOT_RUN)]
    content = {
        "claim": {"name": "fig7", "source": "Fig. 7", "statement": "Both | better."},
        "size": {"seeds": 3, "amount": 400, "unit": "steps"},
        "findings": findings,
        "arms": {"a": {}, "b": {}},
    }
    (folder / "fig7.json").write_text(json.dumps(content))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_table(page, folder)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert (
        r"| [fig7](results/fig7.md) | Fig. 7: Both \| better. | 1 of 2 hold | 2 x 3 seeds, 400 steps |"
        in lines
    )
