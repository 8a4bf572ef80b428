"""Feedback that shows a learner their marks and messages, but not the hidden tests.

nbgrader's feedback prints the hidden test regions and the tracebacks that quote them
(jupyter/nbgrader#917, #1363). This step of GenerateFeedback takes both out and keeps the message
of the check.
"""

import ast
import re

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import GetGrades, NbGraderPreprocessor

from course_lib.grading.regions import HIDDEN_TESTS, MARK_SCHEME, split_regions

HIDDEN = "(hidden)"
TIMED_OUT = "The time limit stopped this cell: something in it, or in your function, never ends."
# What an error of a graded cell means to the learner.
EXPLANATIONS = {
    "NameError": "The check did not find your function. Was it renamed, or did its own cell stop "
    "with an error? See the cell above.",
    "KeyboardInterrupt": TIMED_OUT,
    "CellTimeoutError": TIMED_OUT,
}
SMALLEST_HIDDEN_NUMBER = 1000
SHORTEST_HIDDEN_LINE = 8


def hidden_numbers(region):
    """The numbers in a hidden test that are large enough to be told from ordinary ones (seeds)."""
    try:
        nodes = list(ast.walk(ast.parse(region)))
    except SyntaxError:
        return {int(digits) for digits in re.findall(r"\b\d{4,}\b", region)}
    values = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return {
        value
        for value in values
        if isinstance(value, int) and not isinstance(value, bool)
        if value >= SMALLEST_HIDDEN_NUMBER
    }


def number_pattern(number):
    """Match a number, also as written with separators (48_211), but not inside a longer one."""
    return re.compile(rf"(?<![\w.]){'[_,]?'.join(str(number))}(?![\w])(?!\.\d)")


def hide(value, patterns):
    """Replace every match of the patterns in a string, or in the strings of nested plain data."""
    if isinstance(value, str):
        for pattern in patterns:
            value = pattern.sub(HIDDEN, value)
        return value
    if isinstance(value, list):
        return [hide(item, patterns) for item in value]
    if isinstance(value, dict):
        return {key: hide(item, patterns) for key, item in value.items()}
    if isinstance(value, int | float) and any(p.fullmatch(str(value)) for p in patterns):
        return HIDDEN
    return value


class HideTests(NbGraderPreprocessor):
    """Remove hidden tests from the cells, and what outputs quote of them."""

    def preprocess(self, notebook, resources):
        patterns = []
        for cell in notebook.cells:
            for marker in (HIDDEN_TESTS, MARK_SCHEME):
                cell.source, regions = split_regions(cell.source, marker)
                for region in regions:
                    patterns += self._patterns(region)
        for cell in notebook.cells:
            graded = cell.metadata.get("nbgrader", {}).get("grade", False)
            for output in cell.get("outputs", []):
                self._clean(output, graded, patterns)
        return notebook, resources

    def _patterns(self, region):
        lines = [line.strip() for line in region.split("\n")]
        lines = [line for line in lines if len(line) >= SHORTEST_HIDDEN_LINE]
        numbers = [number_pattern(number) for number in hidden_numbers(region)]
        return [re.compile(re.escape(line)) for line in lines] + numbers

    def _clean(self, output, graded, patterns):
        if output.output_type == "error":
            if graded:
                # The frames of a graded cell quote its source; the message is what helps.
                output.traceback = [f"{output.ename}: {output.evalue}".rstrip(": ")]
                if output.ename in EXPLANATIONS:
                    output.traceback.append(EXPLANATIONS[output.ename])
            output.traceback = [hide_in_colours(line, patterns) for line in output.traceback]
            output.evalue = hide(output.evalue, patterns)
        elif output.output_type == "stream":
            output.text = hide(output.text, patterns)
        else:
            for mime, data in output.get("data", {}).items():
                if not mime.startswith("image/") or mime == "image/svg+xml":
                    output.data[mime] = hide(data, patterns)


def hide_in_colours(text, patterns):
    """Hide matches in a coloured text; colour codes would split them, so they go where one is."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    hidden = hide(plain, patterns)
    return text if hidden == plain else hidden


FEEDBACK_PREPROCESSORS = [GetGrades, HideTests, CSSHTMLHeaderPreprocessor]
