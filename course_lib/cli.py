"""The course's commands: `python -m course_lib COMMAND`, or `course-lib COMMAND`.

What a command needs is imported inside it, so that `--help` answers at once and `doctor` works in
a broken environment. An error of the library is one sentence on stderr and exit code 1; a wrong
option is exit code 2.
"""

import enum
import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Pre-training and fine-tuning: the course's commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _fail(message):
    """End the command with a sentence on stderr."""
    print(message, file=sys.stderr)
    raise typer.Exit(1)


def _sentence(error):
    """An expected error as a sentence, an OSError without its number."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def command(function):
    """Register a command whose expected errors end in a sentence, not in a traceback."""

    @app.command()
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            _fail(f"{error.name} is not installed. Run: python -m course_lib doctor")
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(_sentence(error))
        except KeyboardInterrupt:
            _fail("Stopped.")

    return wrapper


@command
def doctor():
    """Print the environment, line by line, with a cure for what is wrong."""
    from course_lib.doctor import report

    if report():
        raise typer.Exit(1)


@command
def release(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail when notebooks/ is out of date.")
    ] = False,
):
    """Generate the student notebooks under notebooks/ from solutions/."""
    from course_lib.grading import release as releasing

    root = releasing.course_root()
    if check:
        problems = releasing.check(root)
        if problems:
            _fail("\n".join([*problems, "Run: python -m course_lib release"]))
        print(f"{root / 'notebooks'} is what solutions/ gives.")
        return
    changed = releasing.release(root)
    print("\n".join(f"wrote notebooks/{name}" for name in changed) or "Nothing had changed.")


@command
def leaks(
    wheel: Annotated[Path | None, typer.Option(help="Also look through a built wheel.")] = None,
    feedback: Annotated[Path | None, typer.Option(help="Also look through feedback.")] = None,
):
    """Look for solutions, hidden tests and stored outputs where learners would find them."""
    from course_lib.grading import leaks as scanning
    from course_lib.grading.release import course_root

    root = course_root()
    sources = root / "solutions"
    if feedback is not None and not feedback.is_dir():
        raise NotADirectoryError(f"There is no folder {feedback} with feedback.")
    found = scanning.scan_release(sources, root / "notebooks")
    found += scanning.scan_wheel(sources, wheel) if wheel else []
    found += scanning.scan_feedback(sources, feedback) if feedback else []
    if found:
        _fail("\n".join(map(str, found)))
    secrets = scanning.all_secrets(sources)
    print(f"None of the {len(secrets)} solutions, answers and hidden tests can be seen.")


@command
def demo(
    folder: Annotated[Path, typer.Option(help="Where to work; emptied first.")] = Path("demo"),
):
    """Grade a sample submission of notebooks 01 and 02 and write its feedback."""
    from course_lib.grading.demo import run

    run(folder)


@command
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the model and its tokenizer.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the weights, the data and the masks.")] = 0,
    documents: Annotated[int, typer.Option(min=1, help="Size of the corpus.")] = 100_000,
    finance_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the corpus that is finance news.")
    ] = 0.5,
    mask_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of tokens to predict.")
    ] = 0.3,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1.5e-3,
    resume: Annotated[bool, typer.Option(help="Go on from the state saved in OUT.")] = True,
):
    """Pre-train the tiny BERT on the generated language."""
    from course_lib.experiments.pretraining import pretrain as run

    history = run(
        out=out,
        steps=steps,
        seed=seed,
        documents=documents,
        finance_share=finance_share,
        mask_rate=mask_rate,
        batch_size=batch_size,
        learning_rate=learning_rate,
        resume=resume,
    )
    last = history[-1]
    print(
        f"{out}: step {last['step']}, loss {last['loss']} nats against a floor of {last['floor']}, "
        f"probe {last['probe_100']} with 100 labels."
    )


class Experiment(enum.StrEnum):
    """Measurements too long for a notebook; their results are shipped under data/experiments/."""

    MASK_RATES = "mask-rates"
    CONTRASTIVE_FEATURES = "contrastive-features"
    MOCO = "moco"
    TEMPERATURE_SCHEDULES = "temperature-schedules"
    BATCH_SIZES = "batch-sizes"
    FREEZING_STRATEGIES = "freezing-strategies"
    DATA_EFFICIENCY = "data-efficiency"


@command
def experiment(
    name: Annotated[Experiment, typer.Argument(help="Which one.")],
    out: Annotated[Path, typer.Option(help="JSON file; runs that it holds are not made again.")],
):
    """Measure what a notebook only draws because it takes too long (minutes to an hour)."""
    from course_lib.experiments.contrastive import compare_features, compare_moco
    from course_lib.experiments.fine_tuning import compare_methods
    from course_lib.experiments.freezing import compare_strategies
    from course_lib.experiments.mlm import mask_rates
    from course_lib.experiments.stability import compare_batch_sizes, compare_schedules

    runs = {
        Experiment.MASK_RATES: mask_rates,
        Experiment.CONTRASTIVE_FEATURES: compare_features,
        Experiment.MOCO: compare_moco,
        Experiment.TEMPERATURE_SCHEDULES: compare_schedules,
        Experiment.BATCH_SIZES: compare_batch_sizes,
        Experiment.FREEZING_STRATEGIES: compare_strategies,
        Experiment.DATA_EFFICIENCY: compare_methods,
    }
    result = runs[name](out)
    print(f"{out} holds {len(result['runs'])} runs.")


@command
def data(
    out: Annotated[Path, typer.Option(help="Folder for the corpora.")] = Path("data"),
):
    """Write the embedded corpora, the same documents on every machine."""
    from course_lib.data import write_embedded

    for file in write_embedded(out):
        print(file)


def main():
    """Run the command line."""
    app()
