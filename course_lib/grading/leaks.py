"""Look for what learners must not get: solutions, hidden tests, stored outputs.

The scan knows the secrets of the source notebooks and looks for them in the student notebooks, in
a built wheel and in feedback. It compares text without white space, so re-indented or re-wrapped
copies count.

A solution's line may also be ordinary code: `with torch.no_grad():` gives nothing away. So short
lines do not count; in comments, prose, metadata and outputs any other line of a solution is a
leak; in running code of a visible cell it takes half of a solution's lines.
"""

import base64
import contextlib
import html
import io
import re
import tokenize
import zipfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from course_lib.grading.feedback import hidden_numbers, number_pattern
from course_lib.grading.regions import (
    HIDDEN_TESTS,
    MARK_SCHEME,
    MARKERS,
    SOLUTION,
    cell_source,
    nbgrader_metadata,
    split_regions,
)
from course_lib.grading.source import read_notebook

SHORTEST_LINE = 20
SHORTEST_WRITTEN_LINE = 24
SHORTEST_WHOLE = 12


@dataclass(frozen=True)
class Secret:
    """What one cell of a source notebook must not give away."""

    kind: str
    notebook: str
    cell: str
    lines: frozenset = frozenset()
    numbers: frozenset = frozenset()

    def __str__(self):
        return f"the {self.kind} of {self.notebook}, cell {self.cell!r}"


@dataclass(frozen=True)
class Leak:
    """A place where something leaks, as a sentence."""

    place: str
    what: str

    def __str__(self):
        return f"{self.place} gives away {self.what}."


def squeeze(text):
    """A text without white space and without the marks of comments and lists at line starts."""
    return re.sub(r"\s+", "", text)


def telling_lines(text, shortest=SHORTEST_LINE):
    """The squeezed lines of a text that are long enough to be recognised."""
    lines = (squeeze(line.strip().lstrip("#>*- ")) for line in text.splitlines())
    return frozenset(line for line in lines if len(line) >= shortest)


def secrets_of(path):
    """Every secret of a source notebook.

    Raises ValueError when it is not a notebook or its regions are malformed.
    """
    path = Path(path)
    secrets = []
    for cell in read_notebook(path)["cells"]:
        source, role = cell_source(cell), nbgrader_metadata(cell)
        name, code = cell.get("id", "?"), cell.get("cell_type") == "code"
        visible, solutions = split_regions(source, SOLUTION)
        if role.get("solution") and not solutions:
            solutions = [source]  # nbgrader replaces the whole cell
        kind, shortest = ("solution", SHORTEST_LINE)
        if not code:
            kind, shortest = ("written answer", SHORTEST_WRITTEN_LINE)
        for text in solutions:
            # What the learner is given around the region, such as a docstring, is no secret.
            given = telling_lines(split_comments(visible)[0]) if code else frozenset()
            lines = telling_lines(text, shortest) - given or _as_a_whole(text)
            secrets.append(Secret(kind, path.stem, name, lines))
        for marker, hidden in ((HIDDEN_TESTS, "hidden test"), (MARK_SCHEME, "mark scheme")):
            visible, regions = split_regions(source, marker)
            for text in regions:
                lines = telling_lines(text) - telling_lines(visible)
                numbers = frozenset(hidden_numbers(text))
                secrets.append(Secret(hidden, path.stem, name, lines, numbers))
    return [secret for secret in secrets if secret.lines or secret.numbers]


def _as_a_whole(text):
    """A solution of short lines only, as one; nothing when even that could be chance."""
    whole = squeeze(text)
    return frozenset({whole} if len(whole) >= SHORTEST_WHOLE else ())


def all_secrets(sources):
    """The secrets of every notebook under `sources`."""
    return [
        secret for path in sorted(Path(sources).glob("*/*.ipynb")) for secret in secrets_of(path)
    ]


def _is_hidden(secret):
    return secret.kind in {"hidden test", "mark scheme"}


def found_in_text(secret, text):
    """Whether a text holds a line or a number of a secret."""
    squeezed = squeeze(text)
    return any(line in squeezed for line in secret.lines) or any(
        number_pattern(number).search(text) for number in secret.numbers
    )


def found_in_code(secret, code):
    """Whether running code holds half of a solution's lines, or anything of a hidden test."""
    if _is_hidden(secret) or secret.kind == "written answer":
        return found_in_text(secret, code)
    squeezed = squeeze(code)
    found = sum(line in squeezed for line in secret.lines)
    return bool(found) and 2 * found >= len(secret.lines)


def split_comments(code):
    """A cell's code as `(statements, comments)`; magics and broken code count as statements."""
    comments, lines = [], code.splitlines()
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
                comments.append(token.string.lstrip("# "))
    except (tokenize.TokenError, SyntaxError):
        comments += [line.strip().lstrip("# ") for line in code.splitlines() if "#" in line]
    return "\n".join(lines), "\n".join(comments)


def scan_release(sources, release):
    """Leaks in the student notebooks under `release`, given the source notebooks.

    Returns a list of Leak. Raises ValueError when a file there or in `sources` is no notebook.
    """
    sources, release = Path(sources), Path(release)
    secrets, leaks = all_secrets(sources), []
    expected = {Path(path.stem) / path.name for path in sources.glob("*/*.ipynb")}
    for file in sorted(path for path in release.rglob("*") if path.is_file()):
        name = file.relative_to(release)
        if ".ipynb_checkpoints" in name.parts:
            continue
        if name not in expected:
            leaks.append(Leak(f"{release.name}/{name.as_posix()}", "a file that is no release"))
            continue
        leaks += _scan_notebook(file, secrets)
    return leaks


def _scan_notebook(file, secrets):
    notebook = read_notebook(file)
    if "widgets" in notebook.get("metadata", {}):
        yield Leak(f"{file.name}, its metadata", "stored widget states")
    for secret in secrets:
        if found_in_text(secret, _strings(notebook.get("metadata", {}))):
            yield Leak(f"{file.name}, its metadata", str(secret))
    for cell in notebook["cells"]:
        yield from _scan_cell(f"{file.name}, cell {cell.get('id')!r}", cell, secrets)


def _scan_cell(place, cell, secrets):
    if cell.get("outputs") or cell.get("execution_count"):
        yield Leak(place, "a stored output")
    if cell.get("attachments"):
        yield Leak(place, "an attachment")
    source = cell_source(cell)
    for marker in MARKERS:
        if marker.begin in source or marker.end in source:
            yield Leak(place, f"the mark of a {marker.name.lower()} region")
    code, text = split_comments(source) if cell.get("cell_type") == "code" else ("", source)
    rest = _strings({key: value for key, value in cell.items() if key != "source"})
    for secret in secrets:
        if found_in_code(secret, code) or found_in_text(secret, f"{text}\n{rest}"):
            yield Leak(place, str(secret))


def _strings(data):
    """All strings and numbers of nested plain data, one a line, base64 attachments decoded."""
    if isinstance(data, dict):
        return "\n".join(f"{key}\n{_strings(value)}" for key, value in data.items())
    if isinstance(data, list):
        return "\n".join(map(_strings, data))
    text = str(data)
    if len(text) > 40 and re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", text):
        with contextlib.suppress(ValueError):
            text += "\n" + base64.b64decode(text).decode("utf-8", "ignore")
    return text


def scan_wheel(sources, wheel):
    """Leaks in a built wheel: notebooks, tests, stored images, hidden tests, written answers.

    The library's reference implementations are allowed to look like the solutions.
    Raises ValueError when the file is not a wheel.
    """
    secrets = [secret for secret in all_secrets(sources) if secret.kind != "solution"]
    images, leaks = stored_images(sources), []
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            contents = {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{wheel} is not a wheel: {error}.") from error
    for name, content in contents.items():
        if name.endswith(".ipynb"):
            leaks.append(Leak(name, "a notebook"))
        if name.split("/")[0] in {"solutions", "tests"}:
            leaks.append(Leak(name, "a file of the repository that is not for learners"))
        if content in images:
            leaks.append(Leak(name, f"a stored output of {images[content]}"))
        # Data files and file sizes are arbitrary numbers, among which a seed may be by chance.
        text = content.decode("utf-8", "ignore")
        lines_only = "/_data/" in name or name.endswith("/RECORD")
        for secret in secrets:
            looked_for = Secret(secret.kind, secret.notebook, secret.cell, secret.lines)
            if found_in_text(looked_for if lines_only else secret, text):
                leaks.append(Leak(name, str(secret)))
    return leaks


def stored_images(sources):
    """The images stored as outputs in the source notebooks: content -> the notebook's name."""
    images = {}
    for path in sorted(Path(sources).glob("*/*.ipynb")):
        for cell in read_notebook(path)["cells"]:
            for output in cell.get("outputs", []):
                for picture in _pictures(output.get("data", {})):
                    images[base64.b64decode(picture)] = path.stem
    return images


def _pictures(data):
    """The base64 texts of an output's images, also of those inside its HTML."""
    for mime, content in data.items():
        text = content if isinstance(content, str) else "".join(map(str, content))
        if mime == "text/html":
            yield from re.findall(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", text)
        elif mime.startswith("image/") and "svg" not in mime:
            yield text


class _Text(HTMLParser):
    """Collect the text of a page as it is read, without the tags of the highlighting."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []

    def handle_data(self, data):
        self.parts.append(data)


def scan_feedback(sources, feedback):
    """Leaks in the feedback under a folder: hidden tests, mark schemes and written answers.

    What a learner's own answer shares with the solution is theirs, so solutions are not looked for.
    """
    secrets = [secret for secret in all_secrets(sources) if secret.kind != "solution"]
    leaks = []
    for file in sorted(path for path in Path(feedback).rglob("*") if path.is_file()):
        raw = file.read_text(encoding="utf-8", errors="ignore")
        page = _Text()
        page.feed(raw)
        text = "".join(page.parts) + "\n" + html.unescape(raw)
        for marker in MARKERS:
            if marker is not SOLUTION and marker.begin in text:
                leaks.append(Leak(file.name, f"the mark of a {marker.name.lower()} region"))
        leaks += [Leak(file.name, str(secret)) for secret in secrets if found_in_text(secret, text)]
    return leaks
