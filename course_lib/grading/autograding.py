"""Which cells of a submission run when it is graded.

Experiments take minutes and earn no points, so cells with the tag "experiment" are skipped. For
nbgrader a skipped test has no error and earns full marks, so graded cells lose the tag first.
"""

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    DeduplicateIds,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
)

EXPERIMENT = "experiment"


class RunGradedCells(NbGraderPreprocessor):
    """Take all tags off the cells that nbgrader knows, so that a submission can skip none."""

    def preprocess(self, notebook, resources):
        for cell in notebook.cells:
            if "nbgrader" in cell.metadata:
                cell.metadata.pop("tags", None)
        return notebook, resources


# nbgrader's own list, with the tags taken off at the end.
SANITIZE_PREPROCESSORS = [
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
    RunGradedCells,
]
