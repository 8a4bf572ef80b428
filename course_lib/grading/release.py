"""Generate the student notebooks under notebooks/ from solutions/, the same bytes every time.

The work is done by nbgrader's own converter with the course's nbgrader_config.py, into a temporary
folder with a gradebook of its own. Only when every notebook came out and a leak scan found
nothing are the files moved into place, so a failure leaves the old release as it was.
"""

import difflib
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import traitlets.log
from nbgrader.converters import GenerateAssignment, NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config.loader import PyFileConfigLoader

from course_lib.grading.leaks import scan_release
from course_lib.grading.regions import cell_source
from course_lib.grading.source import check_source

CONFIG_FILE = "nbgrader_config.py"
LINES_OF_DIFF = 12


class ReleaseError(ValueError):
    """The student notebooks could not be generated, or are not what the sources give."""


def course_root(start=None):
    """The course's folder: the nearest one above `start` (or the library) with a configuration.

    Raises ReleaseError when there is none, as in an installed wheel, which holds no sources.
    """
    here = Path(start or Path.cwd()).resolve()
    library = Path(__file__).resolve()
    for folder in (here, *here.parents, *library.parents):
        if (folder / CONFIG_FILE).is_file() and (folder / "solutions").is_dir():
            return folder
    raise ReleaseError(
        f"There is no {CONFIG_FILE} with a solutions/ folder in {here} or above it. This command "
        "works in a clone of the course's repository."
    )


def source_notebooks(root):
    """The source notebooks of a course, sorted.

    Raises ReleaseError when there is none.
    """
    sources = sorted((Path(root) / "solutions").glob("*/*.ipynb"))
    if not sources:
        raise ReleaseError(f"There is no notebook under {Path(root) / 'solutions'}.")
    return sources


def course_config(root, work):
    """The configuration of the course at `root`, made to work in the folder `work` instead."""
    config = PyFileConfigLoader(CONFIG_FILE, path=str(Path(root).resolve())).load_config()
    config.CourseDirectory.root = str(Path(work).resolve())
    return config


@contextmanager
def programs_on_path():
    """Let nbgrader find `alembic`, which it calls by name, when no environment is activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def quiet_nbgrader():
    """Keep nbgrader's log off the screen; yields the list in which its errors are collected."""
    errors = []

    class Collect(logging.Handler):
        def emit(self, record):
            errors.append(record.getMessage())

    log, handler = traitlets.log.get_logger(), Collect(level=logging.ERROR)
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield errors
    finally:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def run_converter(converter_class, config, assignment, student="*"):
    """Run one of nbgrader's converters on an assignment, replacing what is there.

    Raises ReleaseError with nbgrader's reason in a sentence.
    """
    coursedir = CourseDirectory(config=config, assignment_id=assignment, student_id=student)
    with programs_on_path(), quiet_nbgrader() as errors:
        converter = converter_class(coursedir=coursedir, config=config)
        converter.force = True
        try:
            converter.start()
        except NbGraderException as error:
            traces = [text for text in errors if "Traceback" in text] or errors or [str(error)]
            reason = traces[-1].strip().splitlines()[-1]
            raise ReleaseError(
                f"nbgrader's {converter_class.__name__} failed on {assignment}: {reason}"
            ) from error


def generate(root, work, names=None):
    """Generate student notebooks under `work`/notebooks, with a gradebook beside it.

    names: the notebooks to generate; all of them when None.
    Returns the generated files. `work` gets a copy of the sources, so that nbgrader can treat it
    as the course.
    Raises ReleaseError, with a sentence for each thing that is wrong, when a source is refused or
    a result would leak.
    """
    root, work = Path(root), Path(work)
    sources = [path for path in source_notebooks(root) if names is None or path.stem in names]
    problems = [problem for source in sources for problem in check_source(source)]
    if problems:
        raise ReleaseError("\n".join(problems))
    config = course_config(root, work)
    for source in sources:
        copy = work / "solutions" / source.stem / source.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(source, copy)
        run_converter(GenerateAssignment, config, source.stem, student=".")
    leaks = scan_release(work / "solutions", work / "notebooks")
    if leaks:
        raise ReleaseError("\n".join(map(str, leaks)))
    return [work / "notebooks" / source.stem / source.name for source in sources]


def release(root):
    """Bring `root`/notebooks up to date; returns the names of the notebooks that changed.

    Raises ReleaseError, before anything is changed, when a source is refused, a result would leak,
    or notebooks/ holds a file that no source gives.
    """
    root = Path(root)
    with tempfile.TemporaryDirectory(prefix="course-release-") as work:
        generated = generate(root, work)
        strangers = _strangers(root, generated)
        if strangers:
            raise ReleaseError("\n".join(strangers))
        changed = []
        for new in generated:
            old = root / "notebooks" / new.parent.name / new.name
            if not old.is_file() or old.read_bytes() != new.read_bytes():
                _put(new, old)
                changed.append(new.stem)
        return changed


def check(root):
    """Sentences saying where `root`/notebooks differs from what the sources give; none when equal.

    Raises ReleaseError when a source is refused or a result would leak.
    """
    root = Path(root)
    with tempfile.TemporaryDirectory(prefix="course-release-") as work:
        generated = generate(root, work)
        problems = _strangers(root, generated)
        for new in generated:
            old = root / "notebooks" / new.parent.name / new.name
            if not old.is_file():
                problems.append(f"notebooks/{new.stem} has not been generated.")
            elif old.read_bytes() != new.read_bytes():
                problems.append(f"notebooks/{new.stem} is out of date: {_difference(old, new)}")
    return problems


def _put(new, old):
    """Move a generated file into place in one step."""
    old.parent.mkdir(parents=True, exist_ok=True)
    beside = old.with_name(f".{old.name}.new")
    shutil.copyfile(new, beside)
    os.replace(beside, old)


def _strangers(root, generated):
    """Sentences for the files of notebooks/ that no source gives."""
    expected = {Path(file.parent.name) / file.name for file in generated}
    found = {
        file.relative_to(root / "notebooks")
        for file in (root / "notebooks").rglob("*")
        if file.is_file() and ".ipynb_checkpoints" not in file.parts
    }
    return [
        f"notebooks/{file.as_posix()} is made from no source; move it elsewhere or delete it."
        for file in sorted(found - expected)
    ]


def _difference(old, new):
    """A few lines that show the first cell in which two notebook files differ."""
    try:
        before, after = (json.loads(file.read_text("utf-8"))["cells"] for file in (old, new))
    except (ValueError, KeyError, TypeError):
        return "the file there is not a notebook."
    pairs = list(zip(before, after, strict=False))
    differing = sum(one != other for one, other in pairs) + abs(len(before) - len(after))
    if not differing:
        return "the cells are equal, the notebook's metadata or layout is not."
    for one, other in pairs:
        if one != other:
            # The diff quotes the learner's version only, so nothing hidden can show.
            texts = [cell_source(cell).splitlines() for cell in (one, other)]
            if texts[0] == texts[1]:
                detail = ["(its text is equal, its metadata or outputs are not)"]
            else:
                detail = list(difflib.unified_diff(*texts, "there", "from source", lineterm=""))
            detail = "\n".join(f"    {line}" for line in detail[:LINES_OF_DIFF])
            return f"{differing} cell(s) differ, first {other.get('id')!r}:\n{detail}"
    return f"there are {len(before)} cells there, and {len(after)} from the source."
