"""Grading runs what earns points, skips the experiments, and lets no submission skip a test."""

import json

import pytest
from conftest import REPOSITORY, cell, write_notebook
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde

from course_lib.grading import release

WRONG = "def mean_and_spread(values):\n    return 0.0, 0.0"


@pytest.fixture
def graded(course, notebook, save, tmp_path):
    """Grade a submission made by `change` from the released notebook; returns cells and score."""

    def run(change):
        notebook["cells"].insert(
            4, cell("long", "raise SystemError('an experiment ran')", tags=["experiment"])
        )
        save(notebook)
        work = tmp_path / "work"
        (page,) = release.generate(course, work)
        submission = json.loads(page.read_text("utf-8"))
        change({c["id"]: c for c in submission["cells"]})
        write_notebook(work / "submitted/ada/01_means/01_means.ipynb", submission)
        config = release.course_config(REPOSITORY, work)
        release.run_converter(Autograde, config, "01_means", student="ada")
        result = json.loads((work / "autograded/ada/01_means/01_means.ipynb").read_text("utf-8"))
        with Gradebook(f"sqlite:///{work / 'gradebook.db'}") as gradebook:
            grade = gradebook.find_submission("01_means", "ada").score
        return {c["id"]: c for c in result["cells"]}, grade

    return run


def test_an_experiment_is_not_run_and_partial_credit_reaches_the_gradebook(graded):
    cells, score = graded(lambda cells: cells["answer"].update(source=WRONG))
    assert cells["long"]["outputs"] == []
    assert score == 1.0


@pytest.mark.parametrize("tag", ["experiment", "skip-execution"])
def test_a_tag_skips_no_test(graded, tag):
    def skip(cells):
        cells["answer"]["source"] = WRONG
        for identifier in ("answer", "graded"):
            cells[identifier]["metadata"]["tags"] = [tag]

    cells, score = graded(skip)
    assert cells["graded"]["outputs"]
    assert score == 1.0
