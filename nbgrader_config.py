"""nbgrader's configuration: its own commands work in this repository as they are.

    nbgrader generate_assignment 01_bayesian_view      solutions/ -> notebooks/
    nbgrader autograde 01_bayesian_view                submitted/ -> autograded/, gradebook.db
    nbgrader generate_feedback 01_bayesian_view        autograded/ -> feedback/

What the course adds sits on nbgrader's extension points, in course_lib/grading.
"""

from pathlib import Path

from course_lib.grading.autograding import EXPERIMENT, SANITIZE_PREPROCESSORS
from course_lib.grading.feedback import FEEDBACK_PREPROCESSORS
from course_lib.grading.source import RELEASE_PREPROCESSORS

c = get_config()  # noqa: F821  (traitlets defines it while it reads this file)

# The course is where this file is, from wherever a command is started.
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.course_id = "pretraining-finetuning"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"

# Only notebooks travel (and the timestamp.txt of a submission). nbgrader copies every other file
# beside a notebook into the release, and at grading time into the feedback. Its ignore list is
# globs without negation, hence the odd spelling of "any ending but .ipynb and timestamp.txt".
c.CourseDirectory.ignore = [
    ".*",
    "__pycache__",
    "feedback",
    "*.[!it]*",
    "*.i[!p]*",
    "*.t[!x]*",
    "[!t]*.txt",
]

# An instructor who shares a server replaces this by a folder that everybody reaches.
c.Exchange.root = str(Path(__file__).resolve().parent / "exchange")

c.GenerateAssignment.preprocessors = RELEASE_PREPROCESSORS
c.ClearSolutions.code_stub = {
    "python": "# Write your answer here, then remove the next line.\n"
    'raise NotImplementedError("this exercise is still to do: write your answer in this cell")'
}
c.ClearSolutions.text_stub = "*Write your answer here.*"

c.Autograde.sanitize_preprocessors = SANITIZE_PREPROCESSORS
c.Execute.skip_cells_with_tag = EXPERIMENT
# Seconds a cell may take; each check takes less than one.
c.Execute.timeout = 120
c.Execute.startup_timeout = 120
c.Execute.extra_arguments = [
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.log_level=ERROR",  # not a warning about local TCP for every notebook
]
# A warning or a progress bar on stderr must not cost points.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"

c.GenerateFeedback.preprocessors = FEEDBACK_PREPROCESSORS
