"""Student notebooks come out the same every time, and nothing secret comes out with them."""

import base64
import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import SOLUTION, VISIBLE, WRITTEN, cell, role, small_notebook, write_notebook

from course_lib.grading import leaks, release, source
from course_lib.grading.feedback import HideTests, hidden_numbers, number_pattern
from course_lib.grading.regions import HIDDEN_TESTS, split_regions
from course_lib.grading.regions import SOLUTION as REGION

REPOSITORY = Path(__file__).resolve().parent.parent
STUDENT = "notebooks/01_means/01_means.ipynb"
SOURCE = "solutions/01_means/01_means.ipynb"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A small course with its release, generated once; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("released") / "course"
    write_notebook(root / SOURCE, small_notebook())
    shutil.copy(REPOSITORY / "nbgrader_config.py", root)
    release.release(root)
    return root


@pytest.fixture
def own(released, tmp_path):
    return Path(shutil.copytree(released, tmp_path / "own"))


def edit(path, change):
    """Apply a change to a notebook file's data."""
    notebook = json.loads(path.read_text("utf-8"))
    change(notebook)
    write_notebook(path, notebook)


def scan(root):
    return [str(leak) for leak in leaks.scan_release(root / "solutions", root / "notebooks")]


# Generation


def test_a_release_is_in_sync_and_the_same_bytes_again(released, tmp_path):
    assert release.check(released) == []
    (again,) = release.generate(released, tmp_path)
    assert again.read_bytes() == (released / STUDENT).read_bytes()


def test_a_release_writes_the_student_notebooks_and_nothing_else(released):
    files = {p.relative_to(released).as_posix() for p in released.rglob("*") if p.is_file()}
    assert files == {"nbgrader_config.py", SOURCE, STUDENT}


def test_a_student_notebook_has_stubs_tests_and_no_outputs(released):
    notebook = json.loads((released / STUDENT).read_text("utf-8"))
    text = {c["id"]: "".join(c["source"]) for c in notebook["cells"]}
    assert "raise NotImplementedError(" in text["answer"]
    assert "Return the mean" in text["answer"]
    assert text["graded"] == VISIBLE
    assert text["question"] == "*Write your answer here.*"
    assert all(not c.get("outputs") for c in notebook["cells"])
    nbformat.validate(nbformat.from_dict(notebook))


def test_what_front_ends_leave_behind_does_not_change_the_release(released, tmp_path):
    root = Path(shutil.copytree(released, tmp_path / "course"))

    def leave_traces(notebook):
        notebook["metadata"]["widgets"] = {"state": {"x": "a slider"}}
        notebook["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01"}
        notebook["cells"][1]["metadata"]["scrolled"] = True

    edit(root / SOURCE, leave_traces)
    assert release.check(root) == []


def test_an_edited_student_notebook_is_named_with_the_difference(own):
    edit(own / STUDENT, lambda n: n["cells"][0].update(source="# Means\nEdited."))
    (problem,) = release.check(own)
    assert "notebooks/01_means is out of date: 1 cell(s) differ, first 'title'" in problem
    assert "-Edited." in problem and "+What a mean is." in problem
    (own / STUDENT).unlink()
    assert release.check(own) == ["notebooks/01_means has not been generated."]


def test_a_file_without_a_source_is_reported_and_never_deleted(own):
    stranger = own / "notebooks" / "mine.ipynb"
    stranger.write_text("{}")
    assert release.check(own) == [
        "notebooks/mine.ipynb is made from no source; move it elsewhere or delete it."
    ]
    with pytest.raises(release.ReleaseError, match="made from no source"):
        release.release(own)
    assert stranger.exists()


REFUSED = {
    "has no id": lambda n: n["cells"][1].pop("id"),
    "cell id 'title': 2 cells": lambda n: n["cells"][1].update(id="title"),
    "grade_id 'mean_grade': 2 cells": lambda n: n["cells"][2]["metadata"]["nbgrader"].update(
        grade_id="mean_grade"
    ),
    "attachment 'plan.png'": lambda n: n["cells"][0].update(
        attachments={"plan.png": {"image/png": "AAAA"}}
    ),
    "its metadata 'answer'": lambda n: n["cells"][0]["metadata"].update(answer="the mean"),
    "notebook metadata: 'answers'": lambda n: n["metadata"].update(answers=[1]),
    "nbgrader metadata 'comment'": lambda n: n["cells"][2]["metadata"]["nbgrader"].update(
        comment="use sum"
    ),
    "its tag 'Use sum() here'": lambda n: n["cells"][0]["metadata"].update(tags=["Use sum() here"]),
    "has no END SOLUTION": lambda n: n["cells"][2].update(
        source=SOLUTION.replace("### END SOLUTION", "")
    ),
    "not a solution cell": lambda n: n["cells"][2].update(metadata={}),
    "not a graded cell": lambda n: n["cells"][3].update(metadata={}),
    "hidden seed 7": lambda n: n["cells"][3].update(
        source=n["cells"][3]["source"].replace("48211", "7")
    ),
    "kernel must be 'python3'": lambda n: n["metadata"].pop("kernelspec"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_source_that_would_leak_or_vary_is_refused_and_the_release_stays(own, words):
    before = (own / STUDENT).read_bytes()
    edit(own / SOURCE, REFUSED[words])
    with pytest.raises(release.ReleaseError) as refusal:
        release.release(own)
    assert words in str(refusal.value)
    assert "01_means.ipynb" in str(refusal.value)
    assert (own / STUDENT).read_bytes() == before


def test_a_file_beside_a_source_is_refused(own):
    (own / "solutions/01_means/helper.py").write_text("answer = 42")
    with pytest.raises(release.ReleaseError, match="helper.py lies beside the notebook"):
        release.release(own)


@pytest.mark.parametrize("text", ["not json", "[]", '{"cells": 3}', '{"cells": [], "nbformat": 4}'])
def test_what_is_no_notebook_is_refused_in_a_sentence(own, text):
    (own / SOURCE).write_text(text)
    with pytest.raises(ValueError, match="01_means.ipynb"):
        release.release(own)


def test_a_reason_of_nbgrader_is_passed_on(own):
    def not_an_exercise(notebook):
        del notebook["cells"][3]["metadata"]["nbgrader"]["points"]

    edit(own / SOURCE, not_an_exercise)
    with pytest.raises(release.ReleaseError, match="GenerateAssignment failed on 01_means"):
        release.release(own)


def nbgrader(root, *arguments, **variables):
    """Run nbgrader's own command in a course folder."""
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"} | variables
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-m", "nbgrader", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_nbgraders_own_command_gives_the_same_bytes(own):
    before = (own / STUDENT).read_bytes()
    # From another folder: the configuration and not the current folder says where the course is.
    arguments = ["generate_assignment", "01_means", "--force"]
    done = nbgrader(own / "notebooks", *arguments, JUPYTER_CONFIG_PATH=str(own))
    assert done.returncode == 0, done.stderr
    assert (own / STUDENT).read_bytes() == before
    assert (own / "gradebook.db").exists()


def test_nbgraders_own_command_refuses_a_leaking_source_too(own):
    (own / "solutions/01_means/answers.txt").write_text("42")
    done = nbgrader(own, "generate_assignment", "01_means", "--force")
    assert done.returncode != 0
    assert "answers.txt lies beside the notebook" in done.stderr


# Leaks in a release: one of each kind is planted, and found


def plant_in(index, change):
    return lambda notebook: change(notebook["cells"][index])


KEY_LINE = "largest_distance = max(abs(value - centre) for value in values)"
PLANTED = {
    "a comment in a cell": (
        plant_in(1, lambda c: c.update(source=f"x = 1\n#   {KEY_LINE}")),
        "the solution of 01_means, cell 'answer'",
    ),
    "prose, wrapped differently": (
        plant_in(
            0,
            lambda c: c.update(
                source="Try `largest_distance =\nmax(abs(value - centre) for value in values)`"
            ),
        ),
        "the solution of 01_means, cell 'answer'",
    ),
    "the whole solution as code": (
        plant_in(4, lambda c: c.update(source=SOLUTION.replace("###", "# --"))),
        "the solution of 01_means, cell 'answer'",
    ),
    "metadata": (
        plant_in(2, lambda c: c["metadata"].update(hint=[{"text": KEY_LINE}])),
        "the solution of 01_means, cell 'answer'",
    ),
    "notebook metadata": (
        lambda n: n["metadata"].update(notes=WRITTEN),
        "the written answer of 01_means, cell 'question'",
    ),
    "an attachment": (
        plant_in(
            0,
            lambda c: c.update(
                attachments={"a.txt": {"text/plain": base64.b64encode(KEY_LINE.encode()).decode()}}
            ),
        ),
        "the solution of 01_means, cell 'answer'",
    ),
    "any attachment": (
        plant_in(0, lambda c: c.update(attachments={"a.png": {"image/png": "AAAA"}})),
        "an attachment",
    ),
    "a stored output": (
        plant_in(
            4,
            lambda c: c.update(
                outputs=[{"output_type": "stream", "name": "stdout", "text": "0.93"}]
            ),
        ),
        "a stored output",
    ),
    "an execution count": (plant_in(4, lambda c: c.update(execution_count=3)), "a stored output"),
    "widget states": (lambda n: n["metadata"].update(widgets={}), "stored widget states"),
    "the hidden seed": (
        plant_in(1, lambda c: c.update(source="check(seed=48_211)")),
        "the hidden test of 01_means, cell 'graded'",
    ),
    "the written answer": (
        plant_in(5, lambda c: c.update(source=f"> {WRITTEN}")),
        "the written answer of 01_means, cell 'question'",
    ),
    "a region's mark": (
        plant_in(1, lambda c: c.update(source="### BEGIN HIDDEN TESTS")),
        "the mark of a hidden tests region",
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_leak_is_found_and_named(own, kind):
    change, secret = PLANTED[kind]
    assert scan(own) == []
    edit(own / STUDENT, change)
    found = scan(own)
    assert any(line.startswith("01_means.ipynb, ") and secret in line for line in found), found


def test_an_extra_file_in_the_release_is_found(own):
    (own / "notebooks/01_means/helper.py").write_text("pass")
    assert scan(own) == ["notebooks/01_means/helper.py gives away a file that is no release."]


def test_ordinary_code_that_a_solution_shares_is_no_leak(own):
    line = "    centre = sum(values) / len(values)"
    edit(own / STUDENT, plant_in(4, lambda c: c.update(source=f"def other(values):\n{line}")))
    long = SOLUTION.replace("    ### END", "    extra = sorted(values, reverse=True)\n    ### END")
    edit(own / SOURCE, plant_in(2, lambda c: c.update(source=long)))
    assert scan(own) == []


def test_a_release_that_leaks_is_not_put_in_place(own):
    """A solution's line in a visible comment of the source passes nbgrader, but not the scan."""
    before = (own / STUDENT).read_bytes()
    edit(own / SOURCE, plant_in(1, lambda c: c.update(source=f"{c['source']}\n# {KEY_LINE}")))
    with pytest.raises(release.ReleaseError, match="cell 'setup' gives away the solution"):
        release.release(own)
    assert (own / STUDENT).read_bytes() == before


# Leaks in a wheel


def make_wheel(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("course_lib__x.ipynb", "{}", "a notebook"),
        ("solutions__x.py", "", "not for learners"),
        ("tests__test_x.py", "", "not for learners"),
        ("course_lib__x.py", "SEED = 48211", "the hidden test"),
        ("course_lib__x.md", WRITTEN, "the written answer"),
        ("course_lib__x.png", b"\x89PNG a stored figure", "a stored output"),
        ("course_lib__y.png", b"\x89PNG a figure in a page", "a stored output"),
    ],
)
def test_a_leak_in_a_wheel_is_found(released, tmp_path, name, content, words):
    clean = make_wheel(tmp_path / "clean.whl", course_lib__mean=KEY_LINE)
    assert leaks.scan_wheel(released / "solutions", clean) == []
    wheel = make_wheel(tmp_path / "leaking.whl", **{name: content})
    found = [str(leak) for leak in leaks.scan_wheel(released / "solutions", wheel)]
    assert any(words in line and name.replace("__", "/") in line for line in found), found


def test_what_is_no_wheel_is_a_sentence(released, tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="broken.whl is not a wheel"):
        leaks.scan_wheel(released / "solutions", tmp_path / "broken.whl")


# Leaks in feedback


@pytest.mark.parametrize(
    "page",
    [
        "<p>checked with seed 48211</p>",
        "<span>seed</span> <span>=</span> <span class='mi'>48_211</span>",
        "<pre># BEGIN HIDDEN TESTS</pre>",
        f"<p>{WRITTEN.replace(' ', '</i> <i>')}</p>",
    ],
)
def test_a_leak_in_feedback_is_found(released, tmp_path, page):
    file = tmp_path / "learner" / "01_means.html"
    file.parent.mkdir()
    file.write_text(f"<html><body>{SOLUTION}</body></html>")
    assert leaks.scan_feedback(released / "solutions", tmp_path) == []
    file.write_text(f"<html><body>{page}</body></html>")
    assert leaks.scan_feedback(released / "solutions", tmp_path) != []


def graded_notebook(outputs):
    notebook = small_notebook()
    notebook["cells"][3]["outputs"] = copy.deepcopy(outputs)
    return nbformat.from_dict(notebook)


def test_feedback_keeps_the_message_and_hides_the_test():
    coloured = "\x1b[0;32m----> 3\x1b[0m seed \x1b[0;34m=\x1b[0m 48211"
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "not yet (seed 48211): off by one\n"},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {
                "application/vnd.course.verdict+json": {"message": "seed 48211", "seed": 48211},
                "image/png": "48211",
            },
        },
        {
            "output_type": "error",
            "ename": "CheckError",
            "evalue": "expected 4.849 got 5.133 (seed 48211)",
            "traceback": [coloured, "CheckError: expected 4.849 got 5.133"],
        },
    ]
    notebook, _ = HideTests().preprocess(graded_notebook(outputs), {})
    graded = notebook.cells[3]
    assert graded.source == VISIBLE
    stream, verdict, error = graded.outputs
    assert stream.text == "not yet (seed (hidden)): off by one\n"
    assert verdict.data["application/vnd.course.verdict+json"] == {
        "message": "seed (hidden)",
        "seed": "(hidden)",
    }
    assert verdict.data["image/png"] == "48211"
    assert error.traceback == ["CheckError: expected 4.849 got 5.133 (seed (hidden))"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NameError", "name 'mean_and_spread' is not defined", "did not find your function"),
        ("CellTimeoutError", "", "time limit"),
        ("KeyboardInterrupt", "", "time limit"),
    ],
)
def test_feedback_explains_an_error_that_is_not_the_checks(name, value, words):
    error = {"output_type": "error", "ename": name, "evalue": value, "traceback": ["a frame"]}
    notebook, _ = HideTests().preprocess(graded_notebook([error]), {})
    first, explanation = notebook.cells[3].outputs[0].traceback
    assert first == f"{name}: {value}".rstrip(": ")
    assert words in explanation


def test_feedback_keeps_a_learners_own_traceback_but_for_quotes_of_the_test():
    notebook = graded_notebook([])
    own, quoting = "\x1b[31mZeroDivisionError\x1b[0m: line 3", "called with \x1b[34m48211\x1b[0m"
    notebook.cells[4].outputs = [
        nbformat.from_dict(
            {
                "output_type": "error",
                "ename": "ZeroDivisionError",
                "evalue": "",
                "traceback": [own, quoting],
            }
        )
    ]
    notebook, _ = HideTests().preprocess(notebook, {})
    assert notebook.cells[4].outputs[0].traceback == [own, "called with (hidden)"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seed 48211.", True),
        ("seed=48_211", True),
        ("48,211 rows", True),
        ("148211", False),
        ("0.48211", False),
        ("48211.5", False),
        ("a48211b", False),
    ],
)
def test_a_hidden_number_is_told_from_other_numbers(text, found):
    assert bool(number_pattern(48211).search(text)) is found


def test_hidden_numbers_are_the_large_ones():
    assert hidden_numbers("seed = 48_211\nrows = 7\nflag = True\nscale = 2048.5") == {48211}
    assert hidden_numbers("this is no python 48211 12") == {48211}


def test_regions_are_split_and_malformed_ones_refused():
    visible, regions = split_regions(
        "a\n# BEGIN HIDDEN TESTS\nb\n# END HIDDEN TESTS\nc", HIDDEN_TESTS
    )
    assert (visible, regions) == ("a\nc", ["b"])
    for broken in ("# BEGIN SOLUTION", "# END SOLUTION", "# BEGIN SOLUTION\n# BEGIN SOLUTION"):
        with pytest.raises(ValueError, match="SOLUTION"):
            split_regions(broken, REGION)


def test_a_cell_that_is_replaced_as_a_whole_is_a_secret_as_a_whole(course, notebook):
    notebook["cells"].append(cell("free", "total = sum(range(10))", **role("f", solution=True)))
    path = write_notebook(course / SOURCE, notebook)
    assert any(secret.cell == "free" for secret in leaks.secrets_of(path))


# The course's own notebooks


def real_sources():
    return sorted((REPOSITORY / "solutions").glob("*/*.ipynb"))


def test_the_courses_own_release_is_in_sync_and_gives_nothing_away():
    assert release.check(REPOSITORY) == []
    assert scan(REPOSITORY) == []


@pytest.mark.parametrize("path", real_sources(), ids=lambda path: path.stem)
def test_every_exercise_of_the_course_has_a_secret_to_look_for(path):
    found = leaks.secrets_of(path)
    notebook = source.read_notebook(path)
    graded = [c for c in notebook["cells"] if source.nbgrader_metadata(c).get("grade")]
    assert graded
    for c in graded:
        assert any(secret.cell == c["id"] for secret in found), f"{c['id']} has no hidden test"
