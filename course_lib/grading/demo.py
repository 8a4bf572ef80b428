"""The main job without a browser: hand out notebooks, take a submission, grade it, give feedback.

A sample learner answers the exercises of the first two notebooks: some right, with the solution's
text; some wrong, with a known mistake of the check bank; the last one not at all.
"""

import ast
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateFeedback

from course_lib.grading.answers import known_mistakes, standalone_source
from course_lib.grading.leaks import scan_feedback
from course_lib.grading.regions import SOLUTION, cell_source, nbgrader_metadata, without_marks
from course_lib.grading.release import (
    ReleaseError,
    course_config,
    course_root,
    generate,
    quiet_nbgrader,
    run_converter,
    source_notebooks,
)
from course_lib.grading.source import read_notebook

LEARNER = "sample_learner"
NOTEBOOKS = 2
VERDICT = "application/vnd.course.verdict+json"
# Put into a folder this command made, so that it empties no other one.
STAMP = ".made-by-course-demo"
SOLVED, MISTAKEN, BLANK = "right", "wrong", "blank"


@dataclass(frozen=True)
class Row:
    """One line of the score table."""

    notebook: str
    exercise: str
    points: float
    max_points: float
    outcome: str
    mistake: str = ""


def run(folder, root=None, mistakes=known_mistakes):
    """Build, submit, grade and give feedback in a temporary folder, then put it at `folder`.

    mistakes: exercise name -> functions that are known to be wrong.
    Returns the rows of the score table, which is also printed.
    Raises ValueError for a folder that holds something else, ReleaseError when a step fails;
    nothing is written then.
    """
    root = Path(root) if root else course_root()
    folder = _usable(Path(folder).resolve(), root)
    names = [path.stem for path in source_notebooks(root)][:NOTEBOOKS]
    with tempfile.TemporaryDirectory(prefix="course-demo-") as temporary:
        work = Path(temporary) / "work"
        work.mkdir()
        print("1. Build the student notebooks:", ", ".join(names), flush=True)
        generate(root, work, names)
        print("2. Take the sample learner's submission", flush=True)
        submit(work, names, mistakes)
        config = course_config(root, work)
        rows = []
        for name in names:
            print(f"3. Grade {name}", flush=True)
            run_converter(Autograde, config, name, student=LEARNER)
            run_converter(GenerateFeedback, config, name, student=LEARNER)
            rows += score(work, name)
        leaks = scan_feedback(work / "solutions", work / "feedback")
        if leaks:
            raise ReleaseError("\n".join(map(str, leaks)))
        (work / STAMP).touch()
        # The sources were needed for grading only.
        shutil.rmtree(work / "solutions")
        _replace(work, folder)
    print(table(rows))
    for page in sorted((folder / "feedback").rglob("*.html")):
        print(f"feedback: {page}")
    return rows


def _usable(folder, root):
    """Refuse a folder that this command did not make, or in which it would disturb the course."""
    for kept in ("notebooks", "solutions"):
        if folder.is_relative_to(Path(root).resolve() / kept):
            raise ValueError(f"{folder} is inside {kept}/; choose a folder of its own.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STAMP).exists():
        raise ValueError(f"{folder} holds something else; choose an empty or a new folder.")
    return folder


def _replace(work, folder):
    """Put a finished folder in the place of the last one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(work, beside)
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)


def submit(work, names, mistakes=known_mistakes):
    """Write the sample learner's notebooks under `work`/submitted."""
    notebooks = {name: read_notebook(work / "notebooks" / name / f"{name}.ipynb") for name in names}
    exercises = [(name, *found) for name in names for found in exercises_of(notebooks[name])]
    for index, (name, exercise, cell) in enumerate(exercises):
        solution = _same_cell(read_notebook(work / "solutions" / name / f"{name}.ipynb"), cell)
        answer = _answer(plan(index, len(exercises)), exercise, solution, mistakes(exercise))
        cell["source"] = cell_source(cell) if answer is None else answer
    for name, notebook in notebooks.items():
        path = work / "submitted" / LEARNER / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


def plan(index, count):
    """What the sample learner does with an exercise: the last stays blank, every other is wrong."""
    if index == count - 1 and count > 1:
        return BLANK
    return MISTAKEN if index % 2 else SOLVED


def exercises_of(notebook):
    """The exercises of a student notebook: pairs of name and the cell to answer in."""
    answer_cell = None
    for cell in notebook["cells"]:
        role = nbgrader_metadata(cell)
        if role.get("solution") and cell.get("cell_type") == "code":
            answer_cell = cell
        elif role.get("grade") and cell.get("cell_type") == "code":
            name = graded_exercise(cell_source(cell))
            if name and answer_cell is not None:
                yield name, answer_cell


def graded_exercise(source):
    """The exercise's name in a graded cell's call `check("name", ...)`, or None."""
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:
        return None
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check" and node.args:
            return getattr(node.args[0], "value", None)
    return None


def _same_cell(notebook, cell):
    return next(other for other in notebook["cells"] if other["id"] == cell["id"])


def _answer(doing, exercise, solution, mistakes):
    """The text the learner writes, or None to leave the stub alone."""
    if doing == BLANK:
        return None
    if doing == MISTAKEN:
        for mistake in mistakes:
            try:
                return standalone_source(mistake, exercise)
            except ValueError:
                continue  # it is built from something a learner has not got
    return without_marks(cell_source(solution), SOLUTION)


def score(work, name):
    """The rows of a graded notebook, from the gradebook and the verdicts in the notebook."""
    path = work / "autograded" / LEARNER / name / f"{name}.ipynb"
    cells = {
        nbgrader_metadata(cell)["grade_id"]: cell
        for cell in read_notebook(path)["cells"]
        if nbgrader_metadata(cell).get("grade")
    }
    rows = []
    with quiet_nbgrader(), Gradebook(f"sqlite:///{work / 'gradebook.db'}") as gradebook:
        submission = gradebook.find_submission_notebook(name, name, LEARNER)
        grades = {
            grade.name: (grade.score, grade.max_score, grade.needs_manual_grade)
            for grade in submission.grades
        }
    for identifier, cell in cells.items():
        points, most, by_hand = grades[identifier]
        outcome, mistake = _outcome(cell)
        exercise = graded_exercise(cell_source(cell)) or identifier
        outcome = "to be marked by hand" if by_hand else outcome
        rows.append(Row(name, exercise, points, most, outcome, mistake))
    return rows


def _outcome(cell):
    """What the check said in a graded cell's outputs, as outcome and mistake."""
    for output in cell.get("outputs", []):
        verdict = output.get("data", {}).get(VERDICT)
        if verdict is not None:
            return verdict.get("outcome", ""), verdict.get("mistake") or ""
    errors = [output["ename"] for output in cell.get("outputs", []) if "ename" in output]
    return (f"stopped by {errors[0]}" if errors else "no answer"), ""


def table(rows):
    """The score table with a total for each notebook and for all, as text."""
    lines = []
    for notebook in dict.fromkeys(row.notebook for row in rows):
        own = [row for row in rows if row.notebook == notebook]
        lines += [_line(row) for row in own]
        lines.append(_total(notebook, own))
    header = f"{'exercise':<28}{'points':>11}  {'outcome':<22}mistake"
    rule = "-" * max(len(line) for line in [header, *lines])
    return "\n".join(["", header, rule, *lines, rule, _total("all", rows), ""])


def _line(row):
    points = f"{row.points:g} of {row.max_points:g}"
    mistake = re.sub(r"_", " ", row.mistake)
    return f"{row.exercise:<28}{points:>11}  {row.outcome:<22}{mistake}".rstrip()


def _total(name, rows):
    points = f"{sum(row.points for row in rows):g} of {sum(row.max_points for row in rows):g}"
    return f"{'= ' + name:<28}{points:>11}"
