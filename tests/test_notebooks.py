"""Every source notebook has the anatomy of the course, so that a reader can rely on it."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from jupytext.compare import compare_notebooks

from course_lib.checks.report import TOPICS, get_exercise
from course_lib.grading.regions import HIDDEN_TESTS, SOLUTION, cell_source, split_regions
from course_lib.grading.source import read_notebook

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted((REPOSITORY / "solutions").glob("*/*.ipynb"))
ADDRESS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
    "Repository"
]

every_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def cells(path):
    return read_notebook(path)["cells"]


def role(cell):
    return cell["metadata"].get("nbgrader", {})


def markdown(path):
    return "\n".join(cell_source(c) for c in cells(path) if c["cell_type"] == "markdown")


def test_the_course_has_notebooks():
    assert [path.stem for path in SOURCES][:2] == ["01_bayesian_view", "02_mlm_masking"]


@every_notebook
def test_it_opens_in_colab_and_installs_itself_there(path):
    title, setup = cells(path)[:2]
    repository = ADDRESS.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks"
    assert f"{link}/{path.stem}/{path.stem}.ipynb" in cell_source(title)
    assert f"git+{ADDRESS}" in cell_source(setup)


@every_notebook
def test_its_title_says_what_when_and_how_long(path):
    title = cell_source(cells(path)[0])
    assert title.startswith(f"# {path.stem[:2]} ")
    assert "minutes" in title
    assert re.search(r"(?i)you will be able to", title)
    assert re.search(r"(?i)before you start|prerequisites", title)


@every_notebook
def test_an_exercise_is_text_with_hints_then_an_answer_cell_then_its_check(path):
    listed = cells(path)
    answers = [
        i for i, c in enumerate(listed) if role(c).get("solution") and c["cell_type"] == "code"
    ]
    assert answers
    for index in answers:
        name = role(listed[index])["grade_id"]
        exercise = get_exercise(name)
        text, answer, tested = listed[index - 1], listed[index], listed[index + 1]
        assert re.search(r"(?m)^### Exercise \d", cell_source(text)), name
        assert "minutes" in cell_source(text), name
        assert cell_source(text).count("<details>") >= 2, name
        visible, solutions = split_regions(cell_source(answer), SOLUTION)
        assert solutions and '"""' in visible, name  # a class may have a region in each method
        visible, hidden = split_regions(cell_source(tested), HIDDEN_TESTS)
        assert visible.strip() == f'check("{name}", {name})'
        assert re.fullmatch(rf'grade\("{name}", {name}, seed=[\d_]+\)', hidden[0].strip())
        assert role(tested)["points"] == exercise.max_points
        assert role(tested)["grade_id"] == f"{name}_check" and role(tested)["locked"]


def test_every_exercise_of_the_banks_is_in_exactly_one_notebook():
    used = Counter(
        role(cell)["grade_id"]
        for path in SOURCES
        for cell in cells(path)
        if role(cell).get("solution") and cell["cell_type"] == "code"
    )
    modules = [__import__(f"course_lib.checks.{topic}", fromlist=["EXERCISES"]) for topic in TOPICS]
    assert used == Counter(exercise.name for module in modules for exercise in module.EXERCISES)


def test_hidden_seeds_differ():
    seeds = re.findall(
        r"seed=([\d_]+)",
        "\n".join(cell_source(c) for p in SOURCES for c in cells(p) if role(c).get("grade")),
    )
    assert len(set(seeds)) == len(seeds) > 0


@every_notebook
def test_it_has_a_written_question_with_a_rubric(path):
    listed = cells(path)
    questions = [
        i for i, c in enumerate(listed) if c["cell_type"] == "markdown" and role(c).get("grade")
    ]
    assert questions
    for index in questions:
        assert re.search(r"(?i)\d point", cell_source(listed[index - 1]))
        assert len(cell_source(listed[index]).split()) >= 40


@every_notebook
def test_it_has_predictions_a_summary_and_references(path):
    text = markdown(path)
    assert re.search(r"(?i)\bpredict\b", text)
    assert re.search(r"(?m)^## .*[Ss]ummary", text)
    assert re.search(r"(?m)^## .*References", text)
    assert text.count("arxiv.org/abs/") >= 2


@every_notebook
def test_every_figure_has_an_alternative_text_and_none_is_left_bare(path):
    figures = 0
    for cell in cells(path):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert "image/png" not in data, f"{cell['id']}: show it with plots.show(figure, alt)"
            page = "".join(data.get("text/html", ""))
            for image in re.findall(r"<img [^>]*>", page):
                figures += 1
                alt = re.search(r'alt="([^"]*)"', image)[1]
                assert len(alt.split()) >= 8, f"{cell['id']}: {alt!r}"
    assert figures >= 2


@every_notebook
def test_it_has_a_widget(path):
    views = "application/vnd.jupyter.widget-view+json"
    assert any(views in o.get("data", {}) for c in cells(path) for o in c.get("outputs", []))


@every_notebook
def test_it_was_run_from_top_to_bottom_without_an_error(path):
    code = [c for c in cells(path) if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert not [o for c in code for o in c["outputs"] if o.get("name") == "stderr"]


@every_notebook
def test_later_cells_run_on_the_librarys_implementation(path):
    """One failed exercise costs only its own points."""
    names = {
        role(c)["grade_id"]
        for c in cells(path)
        if role(c).get("solution") and c["cell_type"] == "code"
    }
    for cell in cells(path):
        if cell["cell_type"] != "code" or role(cell):
            continue
        for name in names:
            bare = re.search(rf"(?<![\w.\"']){name}\s*\(", cell_source(cell))
            assert not bare, f"cell {cell['id']!r} calls the learner's {name}"


@every_notebook
def test_jupytext_brings_a_notebook_back_with_its_metadata_and_outputs(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    script = tmp_path / f"{path.stem}.py"
    run = [sys.executable, "-m", "jupytext", "--quiet"]
    subprocess.run([*run, "--to", "py:percent", copy], check=True, timeout=120)
    assert "# %%" in script.read_text("utf-8")
    subprocess.run([*run, "--to", "ipynb", "--update", script], check=True, timeout=120)
    before, after = (nbformat.read(file, as_version=4) for file in (path, copy))
    assert compare_notebooks(after, before, compare_outputs=True) is None
    assert [c.id for c in after.cells] == [c.id for c in before.cells]
    assert [c.metadata.get("nbgrader") for c in after.cells] == [
        c.metadata.get("nbgrader") for c in before.cells
    ]
