"""A small course of two exercises, so that the tests of releasing and grading need no real one."""

import base64
import json
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

SOLUTION = '''def mean_and_spread(values):
    """Return the mean of the values and their largest distance from it."""
    ### BEGIN SOLUTION
    centre = sum(values) / len(values)
    largest_distance = max(abs(value - centre) for value in values)
    return centre, largest_distance
    ### END SOLUTION'''

VISIBLE = 'check("mean_and_spread", mean_and_spread)'
GRADED = f"""{VISIBLE}
### BEGIN HIDDEN TESTS
grade("mean_and_spread", mean_and_spread, seed=48211)
### END HIDDEN TESTS"""

SETUP = '''import random

from IPython.display import display


def grade(exercise, answer, seed):
    """The shape of the course's own `grade`: a printed report, a verdict, a float."""
    values = [random.Random(seed).random() for _ in range(5)]
    verdict = {"exercise": exercise, "max_points": 3.0, "mistake": None, "properties": {}}
    try:
        mean, spread = answer(values)
    except NotImplementedError:
        verdict |= {"points": 0.0, "outcome": "not attempted", "message": "still to do"}
    else:
        right = abs(mean - sum(values) / 5) < 1e-9
        verdict |= {"points": 3.0 if right else 1.0, "outcome": "right" if right else "partly"}
        verdict |= {"mistake": None if right else "forgets_the_first"}
        verdict |= {"message": f"checked with seed {seed}"}
    print(exercise, verdict["message"])
    mime = "application/vnd.course.verdict+json"
    display({mime: verdict, "text/plain": verdict["message"]}, raw=True)
    return verdict["points"]


def check(exercise, answer, seed=0):
    """Like `grade`, without the verdict."""
    return 3.0'''

WRITTEN = "Because the prior outweighs a handful of labels, the posterior hardly moves from it."


def cell(identifier, source, kind="code", **metadata):
    made = {"cell_type": kind, "id": identifier, "metadata": metadata, "source": source}
    if kind == "code":
        made |= {"execution_count": None, "outputs": []}
    return made


def role(identifier, **values):
    defaults = {"grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": {"schema_version": 3, "grade_id": identifier} | defaults | values}


def small_notebook():
    """A source notebook with an exercise, a graded cell with a hidden seed, and a question."""
    image = base64.b64encode(b"\x89PNG a stored figure").decode()
    shown = base64.b64encode(b"\x89PNG a figure in a page").decode()
    plot = cell("plot", "display({'text/plain': 'a figure'}, raw=True)")
    plot["execution_count"] = 3
    plot["outputs"] = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {
                "text/plain": "a figure",
                "text/html": f'<img src="data:image/png;base64,{shown}" alt="a figure">',
                "image/png": image,
            },
        }
    ]
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": [
            cell("title", "# Means\nWhat a mean is.", "markdown"),
            cell("setup", SETUP),
            cell("answer", SOLUTION, **role("mean_and_spread", solution=True)),
            cell("graded", GRADED, **role("mean_grade", grade=True, locked=True, points=3)),
            plot,
            cell(
                "question",
                WRITTEN,
                "markdown",
                **role("why", grade=True, solution=True, points=2),
            ),
        ],
    }


def write_notebook(path, notebook):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def notebook():
    return small_notebook()


@pytest.fixture
def course(tmp_path, notebook):
    """A course folder with one source notebook and the repository's own configuration."""
    root = tmp_path / "course"
    write_notebook(root / "solutions" / "01_means" / "01_means.ipynb", notebook)
    shutil.copy(REPOSITORY / "nbgrader_config.py", root)
    return root


@pytest.fixture
def save(course):
    """Write a (changed) notebook as the course's source."""
    return lambda changed: write_notebook(course / "solutions/01_means/01_means.ipynb", changed)
