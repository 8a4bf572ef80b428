"""What a source notebook under solutions/ must be like before anything is made from it.

nbgrader copies attachments, metadata and neighbouring files into the release, and gives cells
without an id a random one. So a source that would leak or would not come out the same twice is
refused, by our release command and by `nbgrader generate_assignment` alike.
"""

import ast
import json
import re
from collections import Counter
from pathlib import Path

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    NbGraderPreprocessor,
    SaveCells,
)

from course_lib.grading.regions import (
    HIDDEN_TESTS,
    MARK_SCHEME,
    MARKERS,
    SOLUTION,
    cell_source,
    nbgrader_metadata,
    split_regions,
)

KEPT_NOTEBOOK_METADATA = {"kernelspec", "language_info"}
KEPT_CELL_METADATA = {"nbgrader", "tags", "editable", "deletable", "jupyter"}
# What front ends leave behind. It is dropped, because it changes from run to run (times) or
# repeats an output (widget states).
DROPPED_NOTEBOOK_METADATA = {"widgets", "celltoolbar", "jupytext", "colab", "vscode", "toc"}
DROPPED_CELL_METADATA = {
    "execution", "ExecuteTime", "collapsed", "scrolled", "trusted", "colab", "outputId", "id",
    "vscode", "lines_to_next_cell",
}  # fmt: skip
NBGRADER_KEYS = {
    "grade", "grade_id", "locked", "solution", "task", "points", "schema_version", "cell_type",
    "checksum",
}  # fmt: skip
JUPYTER_KEYS = {"source_hidden", "outputs_hidden"}
TAG = re.compile(r"[a-z][a-z0-9_-]{0,39}")
# A shorter seed could not be told from the other numbers of a notebook when looking for leaks.
SMALLEST_HIDDEN_SEED = 1000


def read_notebook(path):
    """A notebook file as plain data, exactly as stored (nbformat would repair it on reading).

    Raises ValueError when the file is not a notebook of format 4.5 or newer.
    """
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a notebook: {error}.") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError(f"{path} is not a notebook: it has no list of cells.")
    version = (notebook.get("nbformat", 0), notebook.get("nbformat_minor", 0))
    if version < (4, 5):
        raise ValueError(
            f"{path} has notebook format {version[0]}.{version[1]}; cell ids need 4.5 or newer. "
            "Open and save it in JupyterLab."
        )
    return notebook


def check_source(path):
    """Sentences saying why a source notebook cannot be released; none when it can.

    Raises ValueError when the file is not a notebook at all.
    """
    path = Path(path)
    notebook = read_notebook(path)
    problems = [*_folder_problems(path), *_notebook_problems(notebook)]
    for index, cell in enumerate(notebook["cells"]):
        name = repr(cell["id"]) if cell.get("id") else f"number {index + 1}"
        problems += [f"cell {name}: {problem}" for problem in _cell_problems(cell)]
    return [f"{path.name}, {problem}" for problem in problems]


def _folder_problems(path):
    if path.parent.name != path.stem:
        yield f"folder: it must have the notebook's name, and is called {path.parent.name!r}."
    for other in sorted(path.parent.rglob("*")):
        if other != path and other.is_file() and ".ipynb_checkpoints" not in other.parts:
            yield (
                f"folder: {other.relative_to(path.parent)} lies beside the notebook, and nbgrader "
                "would hand it out; move it elsewhere."
            )


def _notebook_problems(notebook):
    metadata = notebook.get("metadata", {})
    for key in sorted(set(metadata) - KEPT_NOTEBOOK_METADATA - DROPPED_NOTEBOOK_METADATA):
        yield f"notebook metadata: {key!r} would be handed out; remove it."
    kernel = metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"notebook metadata: the kernel must be 'python3', and is {kernel!r}."
    cells = notebook["cells"]
    for kind, ids in {
        "cell id": [cell.get("id") for cell in cells],
        "grade_id": [nbgrader_metadata(cell).get("grade_id") for cell in cells],
    }.items():
        for name, count in Counter(identifier for identifier in ids if identifier).items():
            if count > 1:
                yield f"{kind} {name!r}: {count} cells have it; each needs its own."


def _cell_problems(cell):
    if not cell.get("id"):
        yield "it has no id, and would get a random one in each release; save it in JupyterLab."
    if cell.get("attachments"):
        yield f"its attachment {next(iter(cell['attachments']))!r} would be handed out; remove it."
    yield from _metadata_problems(cell.get("metadata", {}))
    yield from _region_problems(cell)


def _metadata_problems(metadata):
    for key in sorted(set(metadata) - KEPT_CELL_METADATA - DROPPED_CELL_METADATA):
        yield f"its metadata {key!r} would be handed out; remove it."
    for key in sorted(set(metadata.get("nbgrader", {})) - NBGRADER_KEYS):
        yield f"its nbgrader metadata {key!r} would be handed out; remove it."
    for key in sorted(set(metadata.get("jupyter", {})) - JUPYTER_KEYS):
        yield f"its jupyter metadata {key!r} would be handed out; remove it."
    for tag in metadata.get("tags", []):
        if not TAG.fullmatch(tag):
            yield f"its tag {tag!r} is not a short lower-case word and would be handed out."


def _region_problems(cell):
    source, role = cell_source(cell), nbgrader_metadata(cell)
    regions = {}
    for marker in MARKERS:
        try:
            regions[marker] = split_regions(source, marker)[1]
        except ValueError as error:
            yield f"{error}."
            return
    if regions[SOLUTION] and not role.get("solution"):
        yield "it has a solution region but is not a solution cell, so the region would stay."
    if regions[HIDDEN_TESTS] and not role.get("grade"):
        yield "it has a hidden test but is not a graded cell, so the test would stay."
    if regions[MARK_SCHEME] and not role.get("task"):
        yield "it has a mark scheme but is not a task cell, so the scheme would stay."
    for region in regions[HIDDEN_TESTS]:
        yield from _seed_problems(region)


def _seed_problems(region):
    try:
        nodes = list(ast.walk(ast.parse(region)))
    except SyntaxError as error:
        yield f"its hidden test is not valid Python: {error.msg}."
        return
    for seed in _seeds(nodes):
        if not isinstance(seed, int) or seed < SMALLEST_HIDDEN_SEED:
            yield (
                f"its hidden seed {seed!r} cannot be told from an ordinary number when looking for "
                f"leaks; take one of at least {SMALLEST_HIDDEN_SEED}."
            )


def _seeds(nodes):
    """The constants given to the name `seed`, by an assignment or as a keyword of a call."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            names = {name.id for name in node.targets if isinstance(name, ast.Name)}
        elif isinstance(node, ast.keyword):
            names = {node.arg}
        else:
            continue
        if "seed" in names and isinstance(node.value, ast.Constant):
            yield node.value.value


class CheckSource(NbGraderPreprocessor):
    """Refuse a source that would leak, and drop what would differ from run to run."""

    def preprocess(self, notebook, resources):
        folder, name = resources["metadata"]["path"], resources["metadata"]["name"]
        problems = check_source(Path(folder) / f"{name}.ipynb")
        if problems:
            raise ValueError("\n".join(problems))
        for key in set(notebook.metadata) - KEPT_NOTEBOOK_METADATA:
            del notebook.metadata[key]
        for cell in notebook.cells:
            for key in set(cell.metadata) - KEPT_CELL_METADATA:
                del cell.metadata[key]
        return notebook, resources


# nbgrader's own list, with the check of the source put first and without headers, footers and
# generated tests, which the course does not use.
RELEASE_PREPROCESSORS = [
    CheckSource,
    LockCells,
    ClearSolutions,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
]
