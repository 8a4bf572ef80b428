"""The doctor says what is wrong, and stands up itself when almost everything is."""

import subprocess
import sys

import pytest

from course_lib import data, doctor

HIDE = """
import importlib.abc, importlib.metadata, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
version = importlib.metadata.version

def hidden_version(name):
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = hidden_version
from course_lib.doctor import report
sys.exit(1 if report() else 0)
"""


def with_hidden(*modules):
    code = f"HIDDEN = {set(modules)!r}\n{HIDE}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def lines_of(text):
    return {line[9:21].strip(): line for line in text.splitlines() if line[:2] in ("ok", "pr")}


@pytest.mark.parametrize(
    ("hidden", "topic"),
    [
        (("torch",), "torch"),
        (("nbgrader",), "nbgrader"),
        (("jupyter_core", "jupyter_server"), "nbgrader ext"),
    ],
)
def test_a_missing_package_is_a_problem_with_a_cure_and_the_rest_is_still_examined(hidden, topic):
    done = with_hidden(*hidden)
    assert "Traceback" not in done.stderr
    lines = lines_of(done.stdout)
    assert lines[topic].startswith("problem")
    assert "pip install" in lines[topic]
    assert len(lines) == len(doctor.PROBES)
    assert done.returncode == 1


def test_nothing_but_the_standard_library_is_needed():
    done = with_hidden(
        "torch", "nbgrader", "transformers", "datasets", "jupyterlab", "jupyter_core", "numpy",
        "jupyter_server", "psutil", "typer",
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert len(lines_of(done.stdout)) == len(doctor.PROBES)


def test_outside_a_clone_the_grading_tools_are_not_missed(monkeypatch):
    finding = doctor.Finding("nbgrader", "missing, needed for grading", "install it")
    assert not doctor._optional(finding).ok
    monkeypatch.setattr(doctor, "in_clone", lambda: False)
    assert doctor._optional(finding).ok


def test_a_broken_probe_is_a_problem_not_a_crash(monkeypatch):
    def _torch():
        raise RuntimeError("libcudart is broken")

    monkeypatch.setattr(doctor, "PROBES", (_torch,))
    (finding,) = doctor.examine()
    assert not finding.ok
    assert finding.topic == "torch"
    assert "libcudart is broken" in finding.detail


def test_a_missing_full_data_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "nowhere"))
    finding = doctor._full_data()
    assert not finding.ok
    assert "nowhere" in finding.detail
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    assert doctor._full_data().ok


def test_missing_empty_and_incomplete_data_are_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "course_lib" / "data.py"))
    assert not doctor._data().ok
    assert not doctor._checkpoint().ok
    model = tmp_path / "data" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    assert "empty: model/model.safetensors" in doctor._data().detail
    (model / "model.safetensors").write_bytes(b"weights")
    assert doctor._data().ok
    assert "config.json" in doctor._checkpoint().detail
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    assert doctor._checkpoint().ok


def test_an_unwritable_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_can_write", lambda folder: folder != tmp_path)
    monkeypatch.setattr(doctor.Path, "home", lambda: tmp_path)
    finding = doctor._writable()
    assert not finding.ok
    assert f"home ({tmp_path})" in finding.detail


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path):
    assert doctor._can_write(tmp_path)
    assert not doctor._can_write(tmp_path / "nowhere")


def test_a_switched_off_server_extension_is_a_problem(monkeypatch, tmp_path):
    paths = pytest.importorskip("jupyter_core.paths")
    monkeypatch.setattr(paths, "jupyter_config_path", lambda: [str(tmp_path)])
    finding = doctor._nbgrader_extension()
    assert not finding.ok
    assert "formgrader" in finding.detail


def test_nbgrader_is_enabled_by_installing_it():
    pytest.importorskip("nbgrader")
    assert doctor._nbgrader_extension().ok


def test_a_finding_is_one_line():
    line = str(doctor.Finding("torch", "missing", "install it"))
    assert line == "problem  torch        missing  ->  install it"
    assert str(doctor.Finding("torch", "2.13")).startswith("ok       torch")
