"""Checks of a learner's code: they accept every right answer and name the known mistakes.

    check("mlm_loss", mlm_loss)                 # under the stub: everything about the first failure
    grade("mlm_loss", mlm_loss, seed=2024)      # when grading: points and hints, no numbers
    require("mlm_loss", mlm_loss)               # in plain tests: raises CheckFailed

An exercise has three pure parts (see `exercise`): cases(seed) -> observe(answer, case) ->
judge(cases, observations). Its bank of known mistakes lives beside it, one module a topic.
"""

from course_lib.checks.report import CheckFailed, check, get_exercise, grade, require

__all__ = ["CheckFailed", "check", "get_exercise", "grade", "require"]
