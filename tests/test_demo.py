"""The demo grades a sample submission end to end, in one folder and nowhere else."""

import json
from pathlib import Path

import pytest
from conftest import write_notebook

from course_lib.grading import answers, demo, leaks, release

FACTOR = 2


def halve(value):
    return value / FACTOR


def forgets_the_first(values):
    centre = halve(sum(values[1:])) / len(values)
    return centre, 0.0


def calls_the_library(values):
    return leaks.squeeze(values)


class Counter:
    def count(self, values):
        return halve(len(values))


class FasterCounter(Counter):
    def faster(self, values):
        return 2 * self.count(values)


def make_closure(offset):
    def shifted(values):
        return sum(values) + offset

    return shifted


@pytest.fixture
def graded(course, tmp_path, monkeypatch, capsys):
    """The demo run on a small course with two notebooks of one exercise each."""
    first = course / "solutions/01_means/01_means.ipynb"
    second = course / "solutions/02_more/02_more.ipynb"
    write_notebook(second, json.loads(first.read_text("utf-8")))
    third = course / "solutions/03_rest/03_rest.ipynb"
    write_notebook(third, json.loads(first.read_text("utf-8")))
    monkeypatch.setattr(demo, "plan", lambda index, count: [demo.MISTAKEN, demo.SOLVED][index])
    folder = tmp_path / "out"
    rows = demo.run(folder, course, lambda exercise: [calls_the_library, forgets_the_first])
    return course, folder, rows, capsys.readouterr().out


def test_the_demo_marks_right_and_wrong_answers_and_writes_feedback(graded):
    course, folder, rows, printed = graded
    table = {(row.notebook, row.exercise): row for row in rows}
    assert set(row.notebook for row in rows) == {"01_means", "02_more"}
    wrong, right = table["01_means", "mean_and_spread"], table["02_more", "mean_and_spread"]
    assert (wrong.points, wrong.outcome, wrong.mistake) == (1.0, "partly", "forgets_the_first")
    assert (right.points, right.max_points, right.outcome) == (3.0, 3.0, "right")
    assert "forgets the first" in printed
    assert "= all" in printed and "4 of 10" in printed
    pages = sorted((folder / "feedback").rglob("*.html"))
    assert [page.stem for page in pages] == ["01_means", "02_more"]
    assert str(pages[0]) in printed
    text = pages[0].read_text("utf-8")
    assert "48211" not in text and "(hidden)" in text
    assert leaks.scan_feedback(course / "solutions", folder / "feedback") == []
    submitted = folder / "submitted" / demo.LEARNER / "01_means" / "01_means.ipynb"
    assert "FACTOR = 2" in submitted.read_text("utf-8")
    written = {path.relative_to(course).parts[0] for path in course.rglob("*") if path.is_file()}
    assert written == {"nbgrader_config.py", "solutions"}
    assert not (folder / "solutions").exists()


def test_a_folder_with_something_else_is_left_alone(course, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        demo.run(folder, course, lambda exercise: [])
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        demo.run(folder / "thesis.txt", course, lambda exercise: [])
    with pytest.raises(ValueError, match="inside notebooks/"):
        demo.run(course / "notebooks" / "demo", course, lambda exercise: [])


def test_a_failing_step_writes_nothing(course, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise release.ReleaseError("nbgrader's Autograde failed on 01_means: out of luck")

    monkeypatch.setattr(demo, "generate", fail)
    with pytest.raises(release.ReleaseError, match="out of luck"):
        demo.run(tmp_path / "out", course, lambda exercise: [])
    assert not (tmp_path / "out").exists()


def test_the_plan_has_every_kind_of_answer():
    assert [demo.plan(index, 8) for index in range(8)].count(demo.BLANK) == 1
    assert demo.plan(7, 8) == demo.BLANK
    assert {demo.plan(index, 8) for index in range(7)} == {demo.SOLVED, demo.MISTAKEN}


def test_an_answer_brings_its_imports_helpers_and_constants_and_takes_the_exercises_name():
    text = answers.standalone_source(forgets_the_first, "mean_and_spread")
    names = {}
    exec(text, names)
    assert names["mean_and_spread"]([9.0, 1.0, 3.0])[0] == pytest.approx(2 / 3)
    assert "forgets_the_first" not in text
    assert text.index("FACTOR = 2") < text.index("def mean_and_spread")


def test_a_class_and_a_user_of_a_module_are_written_down_too():
    names = {}
    exec(answers.standalone_source(Counter, "Tally"), names)
    assert names["Tally"]().count([1, 2, 3]) == 1.5
    exec(answers.standalone_source(FasterCounter, "Faster"), names := {})
    assert names["Faster"]().faster([1, 2, 3]) == 3.0
    assert "import json" in answers.standalone_source(uses_a_module, "load")
    assert "from pathlib import Path" in answers.standalone_source(uses_a_module, "load")


def uses_a_module(text):
    return json.loads(Path(text).name)


@pytest.mark.parametrize("answer", [calls_the_library, make_closure(1), lambda values: values, len])
def test_what_cannot_stand_alone_is_refused(answer):
    with pytest.raises(ValueError, match=r"library|closure|def or a class|stands alone"):
        answers.standalone_source(answer, "mean_and_spread")


def test_exercises_are_found_by_their_graded_cells(notebook):
    ((name, cell),) = demo.exercises_of(notebook)
    assert (name, cell["id"]) == ("mean_and_spread", "answer")
    assert demo.graded_exercise("check(") is None
    assert demo.graded_exercise("x = 1") is None


def test_every_exercise_of_the_demo_has_a_mistake_that_can_be_submitted():
    root = release.course_root()
    for path in release.source_notebooks(root)[: demo.NOTEBOOKS]:
        for exercise, _ in demo.exercises_of(json.loads(path.read_text("utf-8"))):
            assert any(_stands_alone(m, exercise) for m in answers.known_mistakes(exercise))


def _stands_alone(mistake, name):
    try:
        return bool(answers.standalone_source(mistake, name))
    except ValueError:
        return False
