"""The command line: quick to answer, plain about errors."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib import cli
from course_lib.grading import release

REPOSITORY = Path(__file__).resolve().parent.parent
runner = CliRunner()


def python(*arguments, cwd=REPOSITORY):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_lists_the_commands_without_importing_what_they_need():
    code = (
        "import sys\nfrom course_lib.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'nbgrader', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for name in ("doctor", "release", "leaks", "demo", "pretrain", "data"):
        assert name in done.stdout


def test_module_and_script_are_the_same_program():
    done = python("-m", "course_lib", "release", "--help")
    assert done.returncode == 0
    assert "--check" in done.stdout


@pytest.mark.parametrize("arguments", [["nonsense"], ["release", "--nonsense"], ["pretrain"]])
def test_wrong_usage_ends_with_code_two(arguments):
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("steps", ["0", "many"])
def test_options_out_of_range_are_refused_by_name(steps):
    result = runner.invoke(cli.app, ["pretrain", "--out", "x", "--steps", steps])
    assert result.exit_code == 2
    assert "--steps" in result.output


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("temperature must be positive, got 0"), "temperature must be positive, got 0."),
        (OSError("disk full"), "disk full."),
        (
            FileNotFoundError(2, "No such file or directory", "x/y"),
            "x/y: No such file or directory.",
        ),
    ],
)
def test_an_error_of_the_library_is_one_sentence_on_stderr(monkeypatch, error, sentence):
    def broken():
        raise error

    monkeypatch.setattr(release, "course_root", broken)
    result = runner.invoke(cli.app, ["release"])
    assert result.exit_code == 1
    assert result.stderr == f"{sentence}\n"
    assert result.stdout == ""


def test_a_missing_package_is_a_sentence_that_names_the_doctor(monkeypatch):
    monkeypatch.setitem(sys.modules, "course_lib.grading.demo", None)
    result = runner.invoke(cli.app, ["demo"])
    assert result.exit_code == 1
    assert "python -m course_lib doctor" in result.stderr
    assert "Traceback" not in result.output


def test_without_typer_the_doctor_still_speaks_and_the_rest_says_what_to_do():
    hide = "import sys; sys.modules['typer'] = None; sys.argv = ['course_lib', {!r}]; "
    run = "import runpy; runpy.run_module('course_lib', run_name='__main__', alter_sys=False)"
    done = python("-c", hide.format("demo") + run)
    assert done.returncode == 1
    assert "typer is not installed" in done.stderr and "Traceback" not in done.stderr
    done = python("-c", hide.format("doctor") + run)
    assert "Python" in done.stdout and "Traceback" not in done.stderr


def test_outside_a_clone_the_release_says_where_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "__file__", str(tmp_path / "course_lib" / "release.py"))
    with pytest.raises(release.ReleaseError, match="works in a clone"):
        release.course_root(tmp_path)


def test_release_check_and_leaks_on_a_small_course(course, monkeypatch):
    monkeypatch.chdir(course)
    assert "out of date" not in runner.invoke(cli.app, ["release"]).output
    assert runner.invoke(cli.app, ["release", "--check"]).exit_code == 0
    assert "None of the 3" in runner.invoke(cli.app, ["leaks"]).output
    page = course / "notebooks/01_means/01_means.ipynb"
    page.write_text(page.read_text("utf-8").replace("What a mean is", "seed 48211"), "utf-8")
    result = runner.invoke(cli.app, ["release", "--check"])
    assert result.exit_code == 1
    assert "notebooks/01_means is out of date" in result.stderr
    result = runner.invoke(cli.app, ["leaks"])
    assert result.exit_code == 1
    assert "01_means.ipynb, cell 'title' gives away the hidden test" in result.stderr
    assert runner.invoke(cli.app, ["leaks", "--feedback", "nowhere"]).exit_code == 1


def test_pretrain_has_the_defaults_of_the_function_it_calls():
    pretraining = pytest.importorskip("course_lib.experiments.pretraining")
    function = inspect.signature(pretraining.pretrain).parameters
    for name, parameter in inspect.signature(cli.pretrain).parameters.items():
        assert name in function
        assert parameter.default == function[name].default, name
