"""The banks test the checks: wrong answers are rejected by name, right ones accepted."""

import importlib
import inspect
import json
import time
from pathlib import Path

import pytest

from course_lib.checks.judge import judge
from course_lib.checks.report import TOPICS, as_data, examine, get_exercise, message

REPOSITORY = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 20_260, 71_943)  # 0 is the visible one
SECONDS = 1.0


def exercises():
    for topic in TOPICS:
        yield from importlib.import_module(f"course_lib.checks.{topic}").EXERCISES


def answers(table, name):
    """The extra answers of tests/answers_<topic>.py for an exercise."""
    for topic in TOPICS:
        bank = importlib.import_module(f"course_lib.checks.{topic}")
        if any(exercise.name == name for exercise in bank.EXERCISES):
            return getattr(importlib.import_module(f"answers_{topic}"), table).get(name, ())
    raise AssertionError(name)


def all_cases(exercise, seed):
    return exercise.cases(seed) + exercise.hidden_cases(seed)


NAMES = [exercise.name for exercise in exercises()]
MISTAKES = [(e.name, mistake.name) for e in exercises() for mistake in e.mistakes]
RIGHT = [(name, i) for name in NAMES for i in range(len(answers("RIGHT", name)))]
VARIANTS = [
    (name, mistake, i)
    for name in NAMES
    for mistake, wordings in dict(answers("VARIANTS", name)).items()
    for i in range(len(wordings))
]


def find(name, mistake):
    return next(m for m in get_exercise(name).mistakes if m.name == mistake)


def assert_rejected_by_name(exercise, answer, mistake, cases, seed):
    verdict = examine(exercise, answer, cases)
    found = verdict.mistake.name if verdict.mistake else f"no name ({message(verdict, seed)})"
    assert found == mistake, f"seed {seed}"
    assert verdict.points < exercise.max_points


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_full_points(name):
    exercise = get_exercise(name)
    for seed in SEEDS:
        cases = all_cases(exercise, seed)
        seen = [exercise.observe(exercise.reference, case) for case in cases]
        verdict = judge(exercise, cases, seen)
        assert verdict.points == exercise.max_points, message(verdict, seed)
        assert set(verdict.properties) == {item.name for item in exercise.properties}


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_stub_has_no_points(name):
    def stub(*arguments):
        raise NotImplementedError("this exercise is still to do: write your answer in this cell")

    exercise = get_exercise(name)
    verdict = examine(exercise, stub, all_cases(exercise, 0))
    assert (verdict.points, verdict.outcome) == (0.0, "not attempted")


@pytest.mark.parametrize("name", NAMES)
def test_there_are_at_least_three_differently_written_right_answers(name):
    texts = {inspect.getsource(answer) for answer in answers("RIGHT", name)}
    assert len(texts) >= 3


@pytest.mark.parametrize(("name", "which"), RIGHT)
def test_a_right_answer_has_full_points_for_every_seed(name, which):
    exercise = get_exercise(name)
    for seed in range(8):
        verdict = examine(exercise, answers("RIGHT", name)[which], all_cases(exercise, seed))
        assert verdict.points == exercise.max_points, message(verdict, seed)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_known_mistake_is_rejected_under_its_own_name(name, mistake):
    exercise, known = get_exercise(name), find(name, mistake)
    for seed in SEEDS:
        cases = all_cases(exercise, seed)
        assert_rejected_by_name(exercise, known.answer, mistake, cases, seed)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_the_visible_check_names_the_mistake_too(name, mistake):
    exercise, known = get_exercise(name), find(name, mistake)
    assert_rejected_by_name(exercise, known.answer, mistake, exercise.cases(0), 0)


@pytest.mark.parametrize(("name", "mistake", "which"), VARIANTS)
def test_a_known_mistake_in_other_words_is_recognised(name, mistake, which):
    exercise = get_exercise(name)
    answer = dict(answers("VARIANTS", name))[mistake][which]
    for seed in SEEDS:
        assert_rejected_by_name(exercise, answer, mistake, all_cases(exercise, seed), seed)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_message_fits_one_screen_and_gives_away_no_line_of_the_answer(name, mistake):
    exercise, known = get_exercise(name), find(name, mistake)
    verdict = examine(exercise, known.answer, exercise.cases(0))
    text = message(verdict, seed=0)
    assert len(text.splitlines()) <= 14, text
    code = inspect.getsource(exercise.reference).split('"""')[-1].splitlines()
    for line in (line.strip() for line in code):
        assert len(line) < 16 or line not in text
    json.dumps(as_data(verdict, text))


@pytest.mark.parametrize("name", NAMES)
def test_hidden_cases_have_other_shapes_and_kinds_than_the_visible_ones(name):
    exercise = get_exercise(name)
    visible, hidden = exercise.cases(0), exercise.hidden_cases(SEEDS[-1])
    assert {case.kind for case in hidden} - {case.kind for case in visible}


@pytest.mark.parametrize("name", NAMES)
def test_a_check_takes_less_than_a_second(name):
    """Of a right answer and of every mistake; processor time, since CI machines are shared."""
    exercise = get_exercise(name)
    candidates = [answers("RIGHT", name)[0], *(mistake.answer for mistake in exercise.mistakes)]
    for answer in candidates:
        started = time.process_time()
        examine(exercise, answer, all_cases(exercise, 0))
        assert time.process_time() - started < SECONDS, answer.__name__


@pytest.mark.parametrize("name", NAMES)
def test_points_are_whole_in_sum_and_halves_in_parts(name):
    exercise = get_exercise(name)
    assert exercise.max_points == int(exercise.max_points)
    assert all(item.points * 2 == int(item.points * 2) > 0 for item in exercise.properties)
    names = [item.name for item in exercise.properties]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "solutions").glob("*/*.ipynb")), ids=str)
def test_a_notebooks_points_are_the_banks(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    for cell in cells:
        role, source = cell["metadata"].get("nbgrader", {}), "".join(cell["source"])
        if role.get("grade") and source.startswith("check("):
            name = source.split('"')[1]
            assert role["points"] == get_exercise(name).max_points, name
