"""Results of experiments that take longer than a notebook may: written run by run, then shipped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from course_lib.data import data_folder
from course_lib.files import replacing


def shipped(path: str):
    """A measurement that comes with the course, by its path under data/.

    Raises FileNotFoundError if it is missing, ValueError if it is damaged.
    """
    file = data_folder() / path
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; install the course again.")
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged; install the course again.") from error


def run_missing(
    out: str | Path,
    settings: dict,
    wanted: Sequence[dict],
    measure: Callable[[dict], dict],
    progress: bool = True,
) -> dict:
    """Measure every wanted run that `out` does not hold yet, and write it after each.

    out: a JSON file, replaced after each run.  settings: what all runs have in common.
    wanted: what tells the runs apart, with the same keys in each.  measure: one of them -> results.
    Returns {"settings": ..., "runs": [...]}; a run holds what was wanted and what was measured.
    Raises ValueError for an `out` that is no such file or one with other settings.
    """
    out = Path(out)
    result = _read(out, settings, wanted) if out.exists() else {"settings": settings, "runs": []}
    done = [{key: run[key] for key in wanted[0]} for run in result["runs"]]
    missing = [run for run in wanted if run not in done]
    bar = tqdm(missing, desc=out.stem, disable=not progress or not missing)
    for run in bar:
        bar.set_postfix(run)
        result["runs"].append(run | measure(run))
        _write(out, result)
    return result


def runs_of(result: dict, **setting) -> list[dict]:
    """The runs with these values, by seed. Raises ValueError if there are none."""
    found = [run for run in result["runs"] if setting.items() <= run.items()]
    if not found:
        raise ValueError(f"there is no run with {setting}.")
    return sorted(found, key=lambda run: run["seed"])


def _read(path: Path, settings: dict, wanted: Sequence[dict]) -> dict:
    try:
        result = json.loads(path.read_text("utf-8"))
        found = result["settings"]
        complete = all(wanted[0].keys() <= run.keys() for run in result["runs"])
    except (ValueError, LookupError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is no result of this experiment; give another file.")
    if found != settings:
        raise ValueError(
            f"{path} holds runs with the settings {found}, not {settings}; give another file."
        )
    return result


def _write(path: Path, result: dict) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
