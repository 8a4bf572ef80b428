"""`python -m course_lib`: the course's commands."""

from course_lib.cli import main

if __name__ == "__main__":
    main()
