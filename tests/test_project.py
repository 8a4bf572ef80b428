"""The project's files agree with each other, and hold nothing of the machine they were made on."""

import json
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from course_lib.grading.leaks import scan_wheel

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
MADE_HERE = re.compile(r"/(?:work|root|home/\w+|opt|Users/\w+|tmp)/|file://|index-url|find-links")


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements():
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def makefile_extras():
    return re.search(r"^EXTRAS\s*:=\s*(\S+)$", MAKEFILE, re.MULTILINE)[1].split(",")


def test_constraints_are_exact_versions_that_satisfy_every_requirement():
    exact = {canonical(name): version for name, version in constraints().items()}
    for requirement in requirements():
        version = exact[canonical(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"
        assert any(part.operator == ">=" for part in requirement.specifier), requirement


def test_constraints_name_no_build_of_one_machine():
    assert all("+" not in version for version in constraints().values())


def test_conda_environment_installs_the_same_package_extras_and_constraints():
    text = (REPOSITORY / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    assert environment["name"] == PROJECT["name"]
    python = next(d for d in environment["dependencies"] if str(d).startswith("python"))
    assert python == f"python{PROJECT['requires-python']}"
    assert "pip" in environment["dependencies"]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    options = dict(line.split(maxsplit=1) for line in pip)
    assert set(options) == {"--constraint", "--editable"}
    assert (REPOSITORY / options["--constraint"]).is_file()
    extras = re.fullmatch(r"\.\[(.*)\]", options["--editable"])[1].split(",")
    assert extras == makefile_extras()
    assert set(extras) == set(PROJECT["optional-dependencies"])


def tracked_files():
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git clone")
    return [REPOSITORY / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_path_or_a_package_index_of_some_machine():
    for file in tracked_files():
        if file.suffix in {".parquet", ".safetensors", ".png"} or not file.is_file():
            continue
        if file == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert not MADE_HERE.search(line), f"{file.relative_to(REPOSITORY)}:{number}: {line}"


def test_repository_address_is_written_down_once():
    address = PROJECT["urls"]["Repository"]
    holders = [
        file.relative_to(REPOSITORY).as_posix()
        for file in tracked_files()
        if file.suffix in {".py", ".toml", ".yml", ".cfg", ".txt"} or file.name == "Makefile"
        if address in file.read_text(encoding="utf-8")
    ]
    assert holders == ["pyproject.toml"]


def test_learners_work_and_marks_are_ignored_by_git():
    private = [
        "submitted/x",
        "autograded/x",
        "feedback/x",
        "gradebook.db",
        "grades.csv",
        "demo/x",
        "exchange/x",
    ]
    done = subprocess.run(
        ["git", "check-ignore", *private], cwd=REPOSITORY, capture_output=True, text=True
    )
    if done.returncode == 128:
        pytest.skip("not a git clone")
    assert done.stdout.split() == private


def test_ci_runs_the_documented_test_command():
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert re.search(r"^make test\b", script, re.MULTILINE)


def test_every_make_target_is_described():
    targets = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE))
    assert targets == described
    assert {"lab", "demo", "test", "notebooks", "lint", "format", "clean", "help"} <= targets


def test_the_readme_lists_ten_notebooks_and_links_those_that_exist():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \|.*$", readme, re.MULTILINE)
    assert rows == [f"{number:02d}" for number in range(1, 11)]
    owner = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    paths = [f"notebooks/{p.stem}/{p.name}" for p in (REPOSITORY / "solutions").glob("*/*.ipynb")]
    for path in paths:
        assert f"]({path})" in readme
        assert f"https://colab.research.google.com/github/{owner}/blob/main/{path}" in readme
    assert readme.count("in preparation |") == 10 - len(paths)


def test_the_readme_names_files_and_targets_that_exist():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (REPOSITORY / link).exists(), link
    for target in re.findall(r"`make ([a-z]+)`", readme):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_both_licences_are_stated():
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in text
    assert "creativecommons.org/licenses/by/4.0" in text
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree without a network."""
    build = pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return folder / build.build_wheel(str(folder))


def test_wheel_holds_library_and_data_but_no_solutions_or_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    data = [path for path in (REPOSITORY / "data").rglob("*") if path.is_file()]
    assert "course_lib/cli.py" in names
    for path in data:
        assert f"course_lib/_data/{path.relative_to(REPOSITORY / 'data').as_posix()}" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"course_lib"}


def test_wheel_gives_nothing_away(wheel):
    assert [str(leak) for leak in scan_wheel(REPOSITORY / "solutions", wheel)] == []


def test_notebook_kernels_and_versions_are_the_ones_the_commands_expect():
    for path in sorted((REPOSITORY / "solutions").glob("*/*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert notebook["metadata"]["kernelspec"]["name"] == "python3", path
