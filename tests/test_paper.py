"""The paper map says what is there: functions, tests and config keys exist, and an equation has one home."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import freeflow_lightning

ROOT = Path(__file__).parents[1]
PACKAGE = Path(freeflow_lightning.__file__).parent
PAGE = ROOT / "docs" / "paper.md"
CLAIM = re.compile(r"\(Eqs?\. (\d+(?:(?:, |-)\d+)*)\)")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def read_rows():
    """The rows of the page's tables, five cells each."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[0] and not cells[0].startswith("---"):
            yield cells


ROWS = list(read_rows())
NAMED = {cells[0]: cells for cells in ROWS}
WITH_CODE = [cells for cells in ROWS if not cells[2].startswith("no code: ")]


def names(cell):
    """What a cell holds between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def claimed(line):
    """The numbers of the equations that a first line claims: (Eq. 9), (Eqs. 4-5), (Eqs. 7, 8, 13)."""
    for numbers in CLAIM.findall(line):
        for part in numbers.split(", "):
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


def is_public(name):
    return not name.startswith("_")


def first_lines():
    """Of every module and every public class, function and method: its dotted name and the first line of its docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        todo = [(module, ast.parse(path.read_text()))]
        while todo:
            name, node = todo.pop()
            yield name, (ast.get_docstring(node) or "").partition("\n")[0]
            todo += [
                (f"{name}.{n.name}", n)
                for n in node.body
                if isinstance(n, DEFINITIONS) and is_public(n.name)
            ]


def find(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(f"freeflow_lightning.{module}"), name)


def settings(node, path=()):
    """Every dotted path of a config, `init_args` left out and callbacks by the name of their class."""
    yield ".".join(path)
    if isinstance(node, dict):
        for key, value in node.items():
            yield from settings(value, path if key == "init_args" else (*path, key))


def config_keys():
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        yield from settings({key: content.get(key, {}) for key in ("model", "data", "trainer")})
        for callback in content.get("trainer", {}).get("callbacks", []):
            yield from settings(
                callback.get("init_args", {}),
                ("callbacks", callback["class_path"].rpartition(".")[2]),
            )


def test_every_equation_table_and_figure_has_one_row():
    equations = [f"Eq. {i}" for i in range(1, 18)]
    tables = ["Table 1a", "Table 1b", "Table 1c", "Table 1d", *(f"Table {i}" for i in range(2, 7))]
    figures = [f"Fig. {i}" for i in range(1, 11)]
    listed = [cells[0] for cells in ROWS if cells[0].startswith(("Eq.", "Table", "Fig."))]
    assert listed == equations + tables + figures


@pytest.mark.parametrize("cells", WITH_CODE, ids=lambda cells: f"{cells[0]} {names(cells[2])}")
def test_functions_and_tests_exist(cells):
    assert callable(find(*names(cells[2])))
    file, _, name = names(cells[3])[0].partition("::")
    tests = [
        node.name
        for node in ast.parse((ROOT / "tests" / file).read_text()).body
        if isinstance(node, DEFINITIONS)
    ]
    assert name in tests


def test_config_keys_exist():
    known = set(config_keys())
    assert {key for cells in ROWS for key in names(cells[4])} - known == set()


def test_an_equation_has_one_home_and_the_page_names_it():
    homes = {}
    for name, line in first_lines():
        for number in claimed(line):
            homes.setdefault(f"Eq. {number}", []).append(name)
    assert homes == {cells[0]: names(cells[2]) for cells in WITH_CODE if cells[0].startswith("Eq.")}


def test_every_other_mention_in_a_first_line_says_see():
    others = [(name, CLAIM.sub("", line)) for name, line in first_lines()]
    assert [name for name, line in others if re.search(r"(?<!see )\bEqs?\. ", line)] == []


def test_what_has_no_code_says_why():
    without = [cells for cells in ROWS if cells not in WITH_CODE]
    assert all(len(cells[2].split()) > 3 for cells in without)
    assert all(cells[3] == cells[4] == "" for cells in without)


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("The residual (Eq. 9): v_G.", [9]),
        ("A step (Eqs. 4-5).", [4, 5]),
        ("Forms (Eqs. 7, 8, 13).", [7, 8, 13]),
        ("As in Eq. 9; see Eq. 14.", []),
    ],
)
def test_claims_are_read(line, numbers):
    assert list(claimed(line)) == numbers
