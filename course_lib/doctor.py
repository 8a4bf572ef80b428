"""Look at the environment and say, one line each, what is fine and how to cure what is not.

It works when packages are missing, since that is what it is for: nothing but the standard library
is imported until it is looked for.
"""

import importlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from course_lib.data import data_folder

DISTRIBUTION = "pretraining-finetuning-course"
OLDEST_PYTHON = (3, 11)
SMALLEST_MEMORY_GIB = 4
SMALLEST_DISK_GIB = 2
INSTALL = "python -m pip install -c constraints.txt -e '.[lab,grading,test]'"
NBGRADER_EXTENSIONS = (
    "nbgrader.server_extensions.formgrader",
    "nbgrader.server_extensions.validate_assignment",
    "nbgrader.server_extensions.assignment_list",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report; it is a problem when there is a cure."""

    topic: str
    detail: str
    cure: str = ""

    @property
    def ok(self):
        return not self.cure

    def __str__(self):
        line = f"{'ok     ' if self.ok else 'problem'}  {self.topic:<12} {self.detail}"
        return line if self.ok else f"{line}  ->  {self.cure}"


def examine():
    """All findings about this environment, in the order in which they are worth reading.

    A probe that itself fails becomes a problem with the error's text, never an exception.
    """
    findings = []
    for probe in PROBES:
        try:
            findings.append(probe())
        except Exception as error:  # a report must not stop at a broken package
            topic = probe.__name__.lstrip("_")
            detail = f"could not be examined: {type(error).__name__}: {error}"
            findings.append(Finding(topic, detail, f"reinstall: {INSTALL}"))
    return findings


def report():
    """Print the findings; returns the number of problems."""
    findings = examine()
    for finding in findings:
        print(finding, flush=True)
    problems = sum(not finding.ok for finding in findings)
    print(f"{problems} problem(s) found." if problems else "Everything the course needs is here.")
    return problems


def _course_lib():
    here = Path(__file__).resolve().parent
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return Finding("course_lib", f"not installed, imported from {here}", INSTALL)
    kind = "wheel" if "site-packages" in here.parts else "editable"
    return Finding("course_lib", f"{version} ({kind}), {here}")


def _python():
    version, where = platform.python_version(), sys.executable
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", f"{version}, {where}", "install Python 3.11 or newer")
    return Finding("Python", f"{version}, {where}")


def _system():
    return Finding("system", platform.platform())


def _cores():
    # A container may grant fewer cores than the machine has.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", f"{usable} usable of {os.cpu_count()}")


def _memory():
    size = _memory_bytes()
    if size is None:
        return Finding("memory", "size unknown on this system")
    gib = size / 2**30
    cure = "close other programs or use a larger machine" if gib < SMALLEST_MEMORY_GIB else ""
    return Finding("memory", f"{gib:.1f} GiB", cure)


def _memory_bytes():
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import psutil  # on Windows; comes with ipykernel
    except ImportError:
        return None
    return psutil.virtual_memory().total


def _version(distribution, needed_for="the notebooks"):
    """A distribution's version as a finding, without importing it."""
    try:
        return Finding(distribution, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(distribution, f"missing, needed for {needed_for}", INSTALL)


def _torch():
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return Finding("torch", f"cannot be imported ({error})", INSTALL)
    if torch.cuda.is_available():
        device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name(0)}"
    elif getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        device = "Apple GPU (mps)"
    else:
        device = "CPU, which is enough for every notebook"
    return Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} thread(s), {device}")


def _importable(name, needed_for):
    finding = _version(name, needed_for)
    if finding.ok and importlib.util.find_spec(name) is None:
        return Finding(name, f"{finding.detail} is installed but cannot be found", INSTALL)
    return finding


def _transformers():
    return _importable("transformers", "the notebooks")


def _datasets():
    return _importable("datasets", "the full-size data")


def in_clone():
    """Whether the library runs from a clone of the repository, where the grading tools belong."""
    return (Path(__file__).resolve().parent.parent / "nbgrader_config.py").is_file()


def _optional(finding):
    """A finding that is a problem in a clone only; a learner in Colab does without."""
    return (
        finding if finding.ok or in_clone() else Finding(finding.topic, f"{finding.detail}; fine")
    )


def _jupyterlab():
    return _optional(_version("jupyterlab", "make lab"))


def _nbgrader():
    return _optional(_version("nbgrader", "grading"))


def _extension():
    return _optional(_nbgrader_extension())


def _nbgrader_extension():
    """nbgrader's server and JupyterLab extensions; installing nbgrader enables both."""
    topic = "nbgrader ext"
    cure = "python -m jupyter server extension enable --sys-prefix --py nbgrader"
    try:
        from jupyter_core.paths import jupyter_config_path, jupyter_path
        from jupyter_server.extension.config import ExtensionConfigManager
    except ImportError as error:
        return Finding(topic, f"no Jupyter server ({error.name} is missing)", INSTALL)
    enabled = {}
    for folder in reversed(jupyter_config_path()):
        manager = ExtensionConfigManager(read_config_path=[folder])
        enabled |= manager.get_jpserver_extensions()
    missing = [name for name in NBGRADER_EXTENSIONS if not enabled.get(name)]
    if missing:
        return Finding(topic, f"server extension not enabled: {', '.join(missing)}", cure)
    folders = [Path(path) / "labextensions/@jupyter/nbgrader" for path in jupyter_path()]
    found = next((folder for folder in folders if (folder / "package.json").is_file()), None)
    if found is None:
        return Finding(topic, "JupyterLab extension not found", INSTALL)
    disabled = _disabled_lab_extensions(jupyter_config_path())
    if "@jupyter/nbgrader" in disabled:
        cure = "python -m jupyter labextension enable @jupyter/nbgrader"
        return Finding(topic, "JupyterLab extension switched off", cure)
    return Finding(topic, "enabled in the server and in JupyterLab")


def _disabled_lab_extensions(folders):
    disabled = {}
    for folder in reversed(folders):
        path = Path(folder) / "labconfig/page_config.json"
        if path.is_file():
            listed = json.loads(path.read_text(encoding="utf-8")).get("disabledExtensions", {})
            disabled |= dict.fromkeys(listed, True) if isinstance(listed, list) else listed
    return {name for name, value in disabled.items() if value}


def _data():
    try:
        folder = data_folder()
    except FileNotFoundError as error:
        return Finding("data", str(error), f"clone again, then {INSTALL}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    empty = [path.relative_to(folder).as_posix() for path in files if not path.stat().st_size]
    size = sum(path.stat().st_size for path in files) / 1e6
    detail = f"{len(files)} files, {size:.1f} MB in {folder}"
    if empty:
        return Finding("data", f"{detail}; empty: {', '.join(empty)}", "git checkout -- data")
    return Finding("data", detail)


def _checkpoint():
    """The shipped model, by its files only: loading it is the tests' job."""
    try:
        folder = data_folder()
    except FileNotFoundError:
        return Finding("checkpoint", "no data, no checkpoint", f"see data: {INSTALL}")
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        return Finding("checkpoint", f"no *.safetensors under {folder}", "git checkout -- data")
    missing = [
        name
        for name in ("config.json", "tokenizer_config.json")
        if not (weights[0].parent / name).is_file()
    ]
    if missing:
        detail = f"{weights[0].parent} lacks {', '.join(missing)}"
        return Finding("checkpoint", detail, "git checkout -- data")
    return Finding("checkpoint", f"{weights[0].name}, {weights[0].stat().st_size / 1e6:.1f} MB")


def _full_data():
    value = os.environ.get("COURSE_DATA_DIR")
    if not value:
        return Finding("full data", "COURSE_DATA_DIR is not set; only scale 'full' would use it")
    if not Path(value).is_dir():
        cure = "set COURSE_DATA_DIR to an existing folder or unset it"
        return Finding("full data", f"COURSE_DATA_DIR names no folder: {value}", cure)
    return Finding("full data", f"COURSE_DATA_DIR = {value}")


def _writable():
    places = {"here": Path.cwd(), "home": Path.home(), "temporary": Path(tempfile.gettempdir())}
    closed = [f"{name} ({path})" for name, path in places.items() if not _can_write(path)]
    if closed:
        return Finding("writable", f"cannot write: {', '.join(closed)}", "change its permissions")
    return Finding("writable", f"{', '.join(places)}")


def _can_write(folder):
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"course")
    except OSError:
        return False
    return True


def _disk():
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    cure = "make room" if free < SMALLEST_DISK_GIB else ""
    return Finding("disk", f"{free:.0f} GiB free here", cure)


PROBES = (
    _course_lib, _python, _system, _cores, _memory, _disk, _torch, _transformers, _datasets,
    _jupyterlab, _nbgrader, _extension, _data, _checkpoint, _full_data, _writable,
)  # fmt: skip
