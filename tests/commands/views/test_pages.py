"""Pages from templates: whatever a title, a finding, a cell or a folder is called, it is read as words."""

from matplotlib.figure import Figure

from freeflow_lightning.commands.views.page import Finding, Section, fragment, page
from freeflow_lightning.commands.views.report import report_text
from freeflow_lightning.evaluation.steps_table import Line

EVIL = "<script>alert(1)</script> [click](javascript:alert(1)) *x*"
LINES = [
    Line("teacher, 64 steps", 1.0, 128, 0.5, 0.1, None, 3.0),
    Line("teacher, 2 steps", 1.0, 4, 0.75, 0.2, None, 2.0),
    Line("student, 1 step", 1.0, 1, 0.6, 0.1, None, 1.0),
]


def test_no_word_of_a_page_is_markup():
    assert 'name="viewport" content="width=device-width' in page("", "", [], [])  # a phone's
    section = Section(EVIL, EVIL, [Figure((1, 1))], [[EVIL, "N"], ["heun", EVIL]])
    for show, words in ((page, 10), (fragment, 9)):  # a notebook has no title of its own
        html = show(EVIL, EVIL, [Finding("look", EVIL, EVIL)], [section])
        assert "<script" not in html
        assert html.count("&lt;script&gt;") == words
        assert html.count('src="data:image/png;base64,iVBOR') == 1
        assert "<th>N</th>" in html
        assert "<td>heun</td>" in html


def test_a_report_says_its_figures_and_shows_the_name_of_its_folder_as_it_is():
    facts = {"reference": "digits", "samples": 1797, "seed": 3, "floor": 1.25}
    facts |= {"features": "DigitsFeatures"}
    page = report_text(f"{EVIL}, version_0", LINES, [], facts)
    title, _, first, second = page.splitlines()[:4]
    assert (
        title
        == r"# &lt;script&gt;alert(1)&lt;/script&gt; \[click\](javascript:alert(1)) \*x\*, version_0"
    )
    assert first == "The student in 1 step: FID 0.6, 1.20 times its teacher's at 64 Heun"
    assert second == "steps and 0.80 times its teacher's at 2."
    assert "FID is to scikit-learn's 1797 real digits, seen with DigitsFeatures;" in page
    assert (
        "Two halves of the real digits have FID 1.25 to each other.\n\n| sampler | guidance |"
        in page
    )
    assert "trajectories.png" not in page
