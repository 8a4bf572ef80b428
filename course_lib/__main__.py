"""`python -m course_lib`: the course's commands."""

import sys

try:
    from course_lib.cli import main
except ModuleNotFoundError as error:
    if sys.argv[1:] == ["doctor"]:  # it is for just this, and needs nothing but Python
        from course_lib.doctor import report

        sys.exit(1 if report() else 0)
    sys.exit(
        f"{error.name} is not installed for {sys.executable}. Activate the course's environment, "
        "or run in its folder: make setup, then .venv/bin/python -m course_lib doctor"
    )

if __name__ == "__main__":
    main()
