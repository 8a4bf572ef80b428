"""The check framework: observing leaves no trace, judging is fair, messages are for people."""

import builtins
import importlib
import json
import math
import os
import random
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from answers_contrastive import UNNAMED

from course_lib import bayes
from course_lib.checks import CheckFailed, check, get_exercise, grade, report, require
from course_lib.checks.exercise import Case, Chance, Exercise, Failure, Foreign, Observation
from course_lib.checks.judge import judge
from course_lib.checks.observe import TWO_CALLS, leaves, observe_call, plain, preserved_state, same
from course_lib.checks.properties import (
    compare,
    dtype,
    gradient,
    ignores_generator,
    own_generator,
    returns,
    unchanged_inputs,
    value,
)
from course_lib.checks.report import examine, message

FILE = bayes.__file__


def cases(seed):
    generator = torch.Generator().manual_seed(seed)
    params = {"w": torch.randn(3, generator=generator), "b": torch.randn(2, 2, generator=generator)}
    anchor = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
    arguments = {"params": params, "anchor": anchor, "strength": 0.5}
    return [Case("ordinary", arguments, differentiate=("params", "anchor"))]


def hidden_cases(seed):
    arguments = {"params": {"w": torch.ones(2)}, "anchor": {"w": torch.zeros(2)}, "strength": 0.0}
    return [Case("no strength", arguments)]


def make_exercise():
    exercise = Exercise(
        name="l2_anchor",
        reference=bayes.l2_anchor,
        cases=cases,
        hidden_cases=hidden_cases,
        properties=(
            returns(1, kinds=("ordinary",)),
            value(1, kinds=("ordinary",)),
            gradient(1, kinds=("ordinary",)),
            unchanged_inputs(0.5),
            value(0.5, kinds=("no strength",), name="a strength of 0"),
        ),
        observe=observe_call,
    )

    @exercise.mistake("it halves the sum", why="the definition has no 1/2.", look_at="the factor.")
    def adds_a_half(params, anchor, strength):
        return right(params, anchor, strength) / 2

    @exercise.mistake("it pulls the anchor along", why="both move.", look_at="the anchor's graph.")
    def moves_the_anchor(params, anchor, strength):
        return strength * sum(((params[name] - anchor[name]) ** 2).sum() for name in anchor)

    return exercise


def right(params, anchor, strength):
    return strength * sum(((params[name] - anchor[name].detach()) ** 2).sum() for name in anchor)


@pytest.fixture
def exercise():
    return make_exercise()


def verdict_of(exercise, answer, seed=0):
    return examine(exercise, answer, exercise.cases(seed) + exercise.hidden_cases(seed))


# Judging


def test_the_reference_and_a_right_answer_have_full_points(exercise):
    given = exercise.cases(1) + exercise.hidden_cases(1)
    seen = [exercise.observe(exercise.reference, case) for case in given]
    assert judge(exercise, given, seen).points == exercise.max_points == 4.0
    verdict = verdict_of(exercise, right)
    assert (verdict.points, verdict.outcome, verdict.mistake) == (4.0, "right", None)


def test_an_untouched_stub_has_no_points_and_is_told_apart_from_a_wrong_answer(exercise):
    def stub(params, anchor, strength):
        raise NotImplementedError("this exercise is still to do")

    verdict = verdict_of(exercise, stub)
    assert (verdict.points, verdict.outcome) == (0.0, "not attempted")
    assert "still to do" in message(verdict, seed=0)


def test_a_known_mistake_is_named_and_the_rest_keeps_its_points(exercise):
    verdict = verdict_of(exercise, lambda p, a, s: 0.5 * right(p, a, s))
    assert verdict.mistake.name == "adds_a_half"
    assert verdict.properties == {
        "shape": True,
        "value": False,
        "gradient": False,
        "inputs left alone": True,
        "a strength of 0": True,
    }
    assert verdict.points == 2.0


def test_a_mistake_is_recognised_by_the_aspect_in_which_the_answer_fails(exercise):
    def live_anchor(params, anchor, strength):
        total = 0
        for name, target in anchor.items():
            total = total + (target - params[name]).pow(2).sum()
        return total * strength

    assert verdict_of(exercise, live_anchor).mistake.name == "moves_the_anchor"


def test_an_unknown_mistake_gets_the_first_failing_property_and_no_name(exercise):
    verdict = verdict_of(exercise, lambda p, a, s: 3 * right(p, a, s))
    assert verdict.mistake is None
    assert verdict.failed == "value"
    assert verdict.failure.expected != verdict.failure.got


@pytest.mark.parametrize(
    "answer",
    [
        lambda p, a, s: None,
        lambda p, a, s: "a string",
        lambda p, a, s: torch.zeros(3),
        lambda p, a, s: object(),
        lambda p, a, s: [],
        lambda p, a, s: 1 / 0,
        lambda p: p,
        lambda p, a, s: sys.exit(0),
        lambda p, a, s: (lambda f: f(f))(lambda f: f(f)),
    ],
)
def test_a_result_of_another_kind_or_an_error_has_no_points(exercise, answer):
    verdict = verdict_of(exercise, answer)
    assert (verdict.points, verdict.outcome) == (0.0, "wrong")
    text = message(verdict, seed=0)
    assert "Traceback" not in text and len(text.splitlines()) <= 10


def test_an_answer_that_returns_nothing_is_asked_for_its_return(exercise):
    text = message(verdict_of(exercise, lambda p, a, s: print("computed")), seed=0)
    assert "nothing (None)" in text and '"return"' in text


def test_without_the_first_property_nothing_counts(exercise):
    verdict = verdict_of(exercise, lambda p, a, s: torch.zeros(2))
    assert verdict.properties["inputs left alone"]
    assert verdict.points == 0.0


def test_what_no_visible_case_examines_counts_only_with_everything_else_right(exercise):
    assert examine(exercise, right, exercise.cases(0)).points == 4.0
    half = examine(exercise, lambda p, a, s: right(p, a, s) / 2, exercise.cases(0))
    assert "a strength of 0" not in half.properties
    assert half.points == 1.5


def test_writing_into_the_arguments_costs_points_but_not_all(exercise):
    def writes(params, anchor, strength):
        result = right(params, anchor, strength)
        with torch.no_grad():
            anchor["w"].zero_()
        return result

    verdict = verdict_of(exercise, writes)
    assert verdict.failed == "inputs left alone"
    assert verdict.failure.got == "changed: anchor"
    assert verdict.points == 3.5


def test_an_error_says_which_of_the_learners_lines_stopped(exercise):
    def stops(params, anchor, strength):
        return params["missing"]

    verdict = verdict_of(exercise, stops)
    assert verdict.error == "KeyError: 'missing'"
    assert 'return params["missing"]' in verdict.error_line
    assert 'params["missing"]' in message(verdict, seed=0)


def test_the_line_that_failed_is_found_in_a_class_and_beneath_a_decorator():
    class Queue:
        def __init__(self, size, dim):
            self.slots = [None] * missing_in_the_class  # noqa: F821

    @torch.no_grad()
    def decorated(key_encoder, query_encoder, m):
        return missing_in_the_function  # noqa: F821

    for name, answer, word in (
        ("KeyQueue", Queue, "missing_in_the_class"),
        ("momentum_update", decorated, "missing_in_the_function"),
    ):
        exercise = get_exercise(name)
        assert word in examine(exercise, answer, exercise.cases(0)).error_line


def test_as_many_observations_as_cases_are_wanted(exercise):
    with pytest.raises(ValueError, match="1 cases need as many observations, got 0"):
        judge(exercise, exercise.cases(0), [])


def test_a_mistake_that_says_what_it_fails_is_named_only_then(exercise):
    @exercise.mistake("it triples", why="w", look_at="l", fails="gradient")
    def triples(params, anchor, strength):
        return 3 * right(params, anchor, strength)

    assert verdict_of(exercise, lambda p, a, s: 3 * right(p, a, s)).mistake is None
    exercise.mistakes[-1] = replace(exercise.mistakes[-1], fails="value")
    assert verdict_of(exercise, lambda p, a, s: 3 * right(p, a, s)).mistake.name == "triples"


# The course's own implementation


def through_the_module(params, anchor, strength):
    return bayes.l2_anchor(params, anchor, strength)


def in_disguise(params, anchor, strength):
    name = "".join(["l2", "_anchor"])
    return getattr(sys.modules["course_lib." + "bayes"], name)(params, anchor, strength)


def swallowing_the_refusal(params, anchor, strength):
    try:
        return bayes.l2_anchor(params, anchor, strength)
    except Exception:
        return right(params, anchor, strength)


@pytest.mark.parametrize(
    "answer", [bayes.l2_anchor, through_the_module, in_disguise, swallowing_the_refusal]
)
def test_calling_the_reference_is_refused(exercise, answer):
    verdict = verdict_of(exercise, answer)
    assert (verdict.points, verdict.outcome) == (0.0, "refused")
    assert "the course's own implementation" in message(verdict, seed=0)


def test_calling_the_trainer_behind_a_wrapped_reference_is_refused():
    from course_lib.checks.layerwise import accumulated_step

    verdict = examine(accumulated_step, accumulated_step.reference, accumulated_step.cases(0))
    assert (verdict.points, verdict.outcome) == (0.0, "refused")


@pytest.mark.parametrize("name", ["info_nce_bound", "temperature_at", "prior_share"])
def test_an_integer_beyond_every_float_is_a_wrong_number_like_others(name):
    exercise = get_exercise(name)
    verdict = examine(exercise, lambda *_: -(10**400), exercise.cases(0))
    assert verdict.outcome in ("wrong", "partly")


def test_calling_the_reference_only_the_second_time_is_refused_too():
    calls = []

    def answer(generator):
        calls.append(1)
        bayes.prior_share(1, 1.0, 1.0) if len(calls) == 2 else None
        return torch.rand(2, generator=generator)

    seen = observe_call(answer, Case("chance", {"generator": Chance(3)}), frozenset({FILE}))
    assert seen.called_reference


# Observing


def observe(answer, differentiate=(), **arguments):
    return observe_call(answer, Case("ordinary", arguments, differentiate))


def test_an_observation_is_plain_data():
    parameter = torch.nn.Parameter(torch.ones(2))
    seen = observe(lambda: {"a": (parameter, np.float64(2.0)), "b": np.arange(3), 1: object})
    assert type(seen.output["a"][0]) is torch.Tensor and not seen.output["a"][0].requires_grad
    assert type(seen.output["a"][1]) is float
    assert torch.equal(seen.output["b"], torch.arange(3))
    assert seen.output[1] == Foreign("type")


@pytest.mark.parametrize("kind, value", [(str, "x"), (int, 3), (float, 0.5)])
def test_a_number_or_a_text_that_equals_everything_is_reduced_to_its_value(kind, value):
    class Agreeable(kind):
        def __eq__(self, other):
            return True

        def __abs__(self):
            raise SystemExit

        __hash__ = kind.__hash__

    seen = observe(lambda: Agreeable(value))
    assert type(seen.output) is kind and seen.output == value != kind(7)


def test_an_answer_gets_copies_and_each_run_gets_fresh_ones():
    given = torch.zeros(3)

    def adds(x):
        x += 1
        return x

    assert observe(adds, x=given).changed == ("x",)
    assert torch.equal(given, torch.zeros(3))


def test_gradients_are_of_a_weighted_sum_so_that_permuted_rows_show():
    x = torch.tensor([1.0, 2.0, 3.0])
    forwards = observe(lambda x: x * 2, ("x",), x=x).gradients["x"]
    backwards = observe(lambda x: (x * 2).flip(0), ("x",), x=x).gradients["x"]
    assert not torch.allclose(forwards, backwards)
    assert observe(lambda x: x.detach(), ("x",), x=x).gradients is None


def test_chance_is_run_twice_from_the_same_generator():
    seen = observe(lambda g: torch.rand(2, generator=g), generator=Chance(5))
    assert torch.equal(seen.output, seen.again)
    assert torch.equal(seen.output, torch.rand(2, generator=torch.Generator().manual_seed(5)))
    assert not seen.used_global_random


@pytest.mark.parametrize(
    "draw", [lambda g: torch.rand(2), lambda g: np.random.rand(), lambda g: random.random()]
)
def test_global_random_numbers_are_noticed(draw):
    case = Case("ordinary", {"generator": Chance(5)})
    seen = observe_call(draw, case)
    assert seen.used_global_random
    assert own_generator(1).test(case, seen, seen).got == "it was used"


def test_reseeding_the_global_generator_does_not_pass_for_using_the_given_one():
    def reseeds(generator):
        torch.manual_seed(0)
        return torch.rand(2)

    seen = observe(reseeds, generator=Chance(5))
    assert seen.used_global_random


def test_a_seed_of_its_own_shows_when_a_generator_is_used_twice():
    def own_seed(generator):
        return torch.rand(2, generator=torch.Generator().manual_seed(1))

    def honest(generator):
        return torch.rand(2, generator=generator)

    case = Case(TWO_CALLS, {"generator": Chance(5)})
    for answer, wrong in ((own_seed, True), (honest, False)):
        seen = observe_call(answer, case)
        assert (own_generator(1).test(case, seen, seen) is not None) is wrong
        assert ignores_generator([case], [seen]) is wrong


def test_a_check_runs_under_a_profiler(tmp_path):
    script = tmp_path / "profiled.py"
    script.write_text(UNDER_A_PROFILER, "utf-8")
    command = [sys.executable, "-m", "cProfile", "-o", os.devnull, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


UNDER_A_PROFILER = """
from course_lib.checks import require
require("prior_share", lambda n, prior_var, noise_var: noise_var / (noise_var + n * prior_var))
"""


def hostile(x):
    """Changes everything that a later cell would trip over."""
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_autocast_enabled("cpu", True)
    torch.allclose = lambda *_, **__: True
    torch.Tensor.__eq__ = lambda *_: True
    builtins.print = None
    builtins.sabotage = 1
    math.pi = 3
    sys.modules["json"] = None
    os.environ["SABOTAGE"] = "1"
    os.environ.pop("PATH", None)
    os.chdir("/")
    sys.path.insert(0, "nowhere")
    sys.stdout = sys.stderr = None
    sys.setprofile(lambda *_: None)
    sys.setrecursionlimit(5000)
    np.seterr(all="raise")
    np.set_printoptions(precision=1)
    warnings.simplefilter("error")
    raise RuntimeError("and now it stops")


def global_state():
    return {
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
        "types": (torch.get_default_dtype(), torch.get_default_device()),
        "modes": (
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_anomaly_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "names": (torch.allclose, torch.Tensor.__eq__, print, math.pi),
        "added": hasattr(builtins, "sabotage"),
        "process": (dict(os.environ), os.getcwd(), list(sys.path), sys.modules["json"]),
        "streams": (sys.stdout, sys.stderr, sys.getprofile(), sys.getrecursionlimit()),
        "numpy": (np.geterr(), np.get_printoptions()),
        "warnings": list(warnings.filters),
    }


def test_global_state_is_restored_after_hostile_code():
    before = global_state()
    seen = observe(hostile, x=torch.ones(2))
    after = global_state()
    assert seen.error == "RuntimeError: and now it stops"
    for topic, state in before.items():
        if topic == "random":
            assert torch.equal(state[-1], after[topic][-1])
            state, after[topic] = state[:-1], after[topic][:-1]
        assert after[topic] == state, topic


def test_a_submodule_imported_by_an_answer_stays_usable():
    def imports():
        importlib.import_module("torch.utils.benchmark")
        return 1.0

    observe(imports)
    assert torch.utils is sys.modules["torch.utils"]


def test_warnings_and_progress_bars_cost_nothing(capfd):
    def noisy(x):
        warnings.warn("careful", stacklevel=1)
        print("50%|#####", file=sys.stderr)
        return x

    assert observe(noisy, x=1.0).output == 1.0
    assert capfd.readouterr().err == ""


def test_a_keyboard_interrupt_stops_the_check_and_still_restores():
    def interrupted():
        torch.set_default_dtype(torch.float64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe(interrupted)
    assert torch.get_default_dtype() == torch.float32


def test_preserved_state_costs_little():
    started = time.process_time()  # of the processor, since CI machines are shared
    for _ in range(20):
        with preserved_state():
            pass
    assert (time.process_time() - started) / 20 < 0.02


def test_trees():
    tree = {"a": [1, (2.0, torch.ones(1))], "b": None}
    assert leaves(tree) == [1, 2.0, torch.ones(1), None]
    assert same(plain(tree), tree)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (torch.tensor(2.0), 2, True),
        (torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), True),
        (float("nan"), float("nan"), True),
        ([1, 2], (1, 2), True),
        ([1, 2], [1, 2, 3], False),
        ({"a": 1}, {"b": 1}, False),
        (torch.ones(2), torch.ones(2, 1), False),
        (True, 1, False),
        ("1", 1, False),
        (None, None, True),
        (None, 0.0, False),
        (torch.tensor(1 + 1j), 1, False),
        (torch.tensor(1 + 0j), 1, True),
    ],
)
def test_same(left, right, equal):
    assert same(left, right) is equal


# Properties


def seen(output=None, **fields):
    return Observation(output=output, **fields)


def test_compare_reports_the_entry_with_the_largest_error():
    left = torch.zeros(3, 3)
    right = left.clone()
    right[1, 2], right[0, 0] = 5.0, 0.1
    failure = compare(left, right, 1e-4, 1e-6)
    assert failure == Failure("0 at [1, 2]", "5 at [1, 2]")
    right[2, 2] = float("nan")
    assert compare(left, right, 1e-4, 1e-6).got == "nan at [2, 2]"


def test_compare_shows_small_results_and_says_which_of_several_differs():
    assert compare(1.0, torch.tensor(2.5), 1e-4, 0.0) == Failure("1", "2.5")
    failure = compare([1.0, torch.ones(2)], [1.0, torch.zeros(2)], 1e-4, 0.0)
    assert failure == Failure("[1, 1] in result 2 of 2", "[0, 0] in result 2 of 2")
    assert compare([1.0, 2.0], [1.0], 1e-4, 0.0).got == "(a number)"
    assert compare(1.0, torch.tensor(1 + 1j), 1e-4, 0.0).got == "a number (complex)"


def test_dtype_and_gradient_say_what_differs():
    case = Case("ordinary", {"x": torch.ones(2)}, ("x",))
    failure = dtype(1).test(case, seen(torch.ones(1).double()), seen(torch.ones(1)))
    assert failure == Failure("float32", "float64")
    wanted = seen(gradients={"x": torch.ones(2)})
    assert "gradient of x" in gradient(1).test(case, seen(gradients=None), wanted).got
    zero = seen(gradients={"x": torch.zeros(2)})
    assert gradient(1).test(case, seen(gradients={"x": None}), zero) is None


@pytest.mark.parametrize(
    ("name", "fails", "which"),
    [
        (name, fails, which)
        for name, properties in UNNAMED.items()
        for fails, wrong in properties.items()
        for which in range(len(wrong))
    ],
)
def test_a_wrong_answer_without_a_name_fails_where_it_is_wrong(name, fails, which):
    asked, answer = get_exercise(name), UNNAMED[name][fails][which]
    for seed in (1, 71_943):
        verdict = examine(asked, answer, asked.cases(seed) + asked.hidden_cases(seed))
        assert verdict.failed == fails and verdict.mistake is None, message(verdict, seed)
        assert verdict.points < asked.max_points


# What people see


def test_a_message_is_one_screen_with_the_numbers_of_the_smallest_case(exercise):
    verdict = verdict_of(exercise, lambda p, a, s: right(p, a, s) / 2)
    text = message(verdict, seed=3)
    lines = text.splitlines()
    assert lines[0] == "l2_anchor: not yet. This is a known mistake: it halves the sum."
    assert "expected" in text and "got" in text and "seed 3" in text
    assert "Why it matters" in text and "Look at" in text
    assert lines[-1].startswith("  2 of 4 points: shape, inputs left alone and")
    assert len(lines) <= 12 and max(map(len, lines)) <= report.WIDTH


def test_a_graded_message_names_the_mistake_but_no_numbers_of_the_case(exercise):
    text = message(verdict_of(exercise, lambda p, a, s: right(p, a, s) / 2))
    assert "known mistake: it halves the sum" in text
    assert "expected" not in text and "seed" not in text


def test_html_is_escaped_and_announced(exercise):
    def stops(params, anchor, strength):
        raise ValueError("<script>alert(1)</script>")

    verdict = verdict_of(exercise, stops)
    page = report.as_html(verdict, message(verdict, seed=0))
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert 'role="status"' in page


def test_the_verdict_is_json(exercise):
    verdict = verdict_of(exercise, lambda p, a, s: right(p, a, s) / 2)
    data = json.loads(json.dumps(report.as_data(verdict, "text")))
    assert data["mistake"] == "adds_a_half" and data["points"] == 2.0
    assert type(verdict.points) is float


def test_an_unknown_exercise_and_an_answer_that_is_no_function_get_a_sentence():
    with pytest.raises(ValueError, match="no exercise 'mlm_los'; there are: .*prior_share"):
        get_exercise("mlm_los")
    with pytest.raises(TypeError, match="prior_share must be a function, got float"):
        check("prior_share", 0.5)


def share(n, prior_var, noise_var):
    return noise_var / (noise_var + n * prior_var)


def test_require_raises_an_assertion_error_with_the_whole_message():
    require("prior_share", share)
    with pytest.raises(AssertionError, match="prior_share: not yet") as caught:
        require("prior_share", lambda n, prior_var, noise_var: 0.3)
    assert isinstance(caught.value, CheckFailed)
    assert "Traceback" not in "\n".join(caught.value._render_traceback_())


def test_outside_a_notebook_the_message_is_printed_plainly(capsys):
    points = check("prior_share", share)
    assert points == get_exercise("prior_share").max_points
    printed = capsys.readouterr().out
    assert printed.startswith("prior_share: right.") and "\x1b" not in printed
    assert grade("prior_share", share, seed=90_001) == points


def test_importing_the_package_loads_no_torch():
    code = "import sys, course_lib; assert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_topic_modules_import_neither_checks_nor_notebook_code():
    library = Path(bayes.__file__).parent
    for path in library.glob("*.py"):
        if path.stem in {"cli", "doctor", "widgets", "plots", "__main__"}:
            continue
        text = path.read_text("utf-8")
        for layer in ("checks", "experiments", "widgets", "grading"):
            assert f"course_lib.{layer}" not in text, f"{path.name} imports {layer}"
