"""Releasing, grading and giving feedback on the course's notebooks, on top of nbgrader."""
