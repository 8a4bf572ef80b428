"""Run a learner's answer on a case, and record what it did without letting it leave traces."""

import builtins
import contextlib
import inspect
import io
import linecache
import math
import os
import random
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from course_lib.checks.exercise import Case, Chance, Foreign, Observation

LONGEST_ERROR = 300
TWO_CALLS = "two calls"  # kind of a case that shows whether chance comes from the given generator
GLOBAL_SEED = 20_190_524  # of the global generators while an answer runs
# Names that a careless or hostile answer may rebind; they are put back afterwards.
GUARDED = (builtins, math, random, np, torch, torch.linalg, torch.nn.functional, torch.Tensor)


class ReferenceCalled(RuntimeError):
    """Raised inside an answer that calls the course's own implementation."""


@dataclass
class Watch:
    called_reference: bool = False


def map_tree(function: Callable, tree):
    """Apply a function to the leaves of nested dicts, lists and tuples; tuples become lists."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [map_tree(function, value) for value in tree]
    return function(tree)


def leaves(tree) -> list:
    """The leaves of nested dicts, lists and tuples, in order."""
    found = []
    map_tree(found.append, tree)
    return found


def plain(value):
    """A value as plain data: detached CPU tensors, numbers, strings, lists and dicts."""
    return map_tree(_plain_leaf, value)


def _plain_leaf(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().cpu().as_subclass(torch.Tensor)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) is bool:
        return value
    # An object of a subclass might say that it equals anything, so only its value is kept.
    for kind, value_of in ((int, int.__int__), (float, float.__float__), (str, str.__str__)):
        if issubclass(type(value), kind):
            value = value_of(value)
            break
    else:
        return Foreign(type(value).__name__)
    if type(value) is int and abs(value) > sys.float_info.max:
        return math.copysign(math.inf, 1 if value > 0 else -1)  # nobody can compute with it
    return value


def same(left, right, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two pieces of plain data are equal; NaN equals NaN, dtypes do not matter.

    A number and a tensor of shape () are the same thing, and so are a list and a tuple.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            same(left[key], right[key], rtol, atol) for key in left
        )
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(*pair, rtol, atol) for pair in pairs)
    left, right = as_tensor(left), as_tensor(right)
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        wide = torch.complex128 if left.is_complex() or right.is_complex() else torch.float64
        return left.shape == right.shape and torch.allclose(
            left.to(wide), right.to(wide), rtol, atol, equal_nan=True
        )
    return type(left) is type(right) and left == right


def as_tensor(leaf):
    """A number as a tensor of shape (); anything else as it is."""
    number = isinstance(leaf, int | float) and not isinstance(leaf, bool)
    return torch.tensor(leaf, dtype=torch.float64) if number else leaf


@contextlib.contextmanager
def preserved_state():
    """Put back whatever global state runs inside: random numbers, modes, names, environment."""
    names = [(thing, dict(vars(thing))) for thing in GUARDED]
    modules = dict(sys.modules)
    gradients, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    default_type, threads = torch.get_default_dtype(), torch.get_num_threads()
    device = torch.get_default_device()
    deterministic = torch.are_deterministic_algorithms_enabled()
    anomaly = torch.is_anomaly_enabled()
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    numpy_errors, print_options = np.geterr(), np.get_printoptions()
    environment, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    recursion, streams = sys.getrecursionlimit(), (sys.stdout, sys.stderr)
    hooks = sys.getprofile(), sys.gettrace()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            yield
    finally:
        if sys.getprofile() is not hooks[0]:  # a profiler written in C cannot be put back
            sys.setprofile(hooks[0] if callable(hooks[0]) else None)
        if sys.gettrace() is not hooks[1]:
            sys.settrace(hooks[1])
        for thing, before in names:
            _restore_names(thing, before)
        sys.stdout, sys.stderr = streams
        for name, module in modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        torch.set_grad_enabled(gradients)
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_default_dtype(default_type)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # the setter is slow
            torch.use_deterministic_algorithms(deterministic)
        torch.autograd.set_detect_anomaly(anomaly)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        np.seterr(**numpy_errors)
        np.set_printoptions(**print_options)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.path[:] = path
        sys.setrecursionlimit(recursion)
        os.chdir(folder)


def _restore_names(thing, before):
    """Put back the names of a module or class that were rebound or added."""
    now = dict(vars(thing))
    for name in now.keys() - before.keys():
        # A module fills in private names by itself, and an import adds submodules.
        by_itself = name.startswith("_") or isinstance(now[name], types.ModuleType)
        if isinstance(thing, type) or not by_itself:
            delattr(thing, name)
    for name, value in before.items():
        if now.get(name, thing) is not value:
            setattr(thing, name, value)


@contextlib.contextmanager
def watched(forbidden: frozenset[str]):
    """Refuse calls of functions defined in the forbidden files, however they are reached."""
    watch = Watch()

    def on_call(frame, event, _):
        if event == "call" and frame.f_code.co_filename in forbidden:
            watch.called_reference = True
            raise ReferenceCalled("an answer may not call the course's own implementation")

    if forbidden:
        sys.setprofile(on_call)
    try:
        yield watch
    finally:
        sys.setprofile(None)


def observe_call(answer: Callable, case: Case, forbidden: frozenset[str] = frozenset()):
    """Call an answer with copies of a case's arguments.

    A case of kind TWO_CALLS calls it twice, the second time with the generator as the first left
    it; the output is a list of both results then.

    forbidden: files whose functions it may not call.
    Returns an Observation; whatever the answer raises (but a keyboard interrupt) is recorded.
    """

    def steps(arguments):
        if case.kind == TWO_CALLS:
            return [answer(*arguments.values()), answer(*arguments.values())]
        return answer(*arguments.values())

    return observe_steps(steps, answer, case, forbidden)


def observe_steps(
    steps: Callable, answer: Callable, case: Case, forbidden: frozenset[str] = frozenset()
) -> Observation:
    """Like `observe_call` for what is more than one call: `steps` gets the copied arguments."""
    seen = Observation()
    watch = Watch()
    chance = any(isinstance(leaf, Chance) for leaf in leaves(case.arguments))
    with preserved_state(), contextlib.redirect_stderr(io.StringIO()):
        _seed_global_generators()
        before = _global_random_state()
        arguments = _live(case)
        started = time.perf_counter()
        try:
            with watched(forbidden) as watch:
                output = steps(arguments)
            seen.seconds = time.perf_counter() - started
            seen.output = plain(output)
            seen.used_global_random = before != _global_random_state()
            seen.changed = _changed(case, arguments)
            if case.differentiate:
                seen.gradients = _gradients(output, arguments, case.differentiate)
            if chance:
                with watched(forbidden) as watch:
                    seen.again = plain(steps(_live(case)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit in an answer is an error like others
            seen.seconds = time.perf_counter() - started
            seen.error, seen.error_line = _describe(error, answer)
        seen.called_reference = watch.called_reference
    return seen


def _seed_global_generators():
    random.seed(GLOBAL_SEED)
    np.random.seed(GLOBAL_SEED)
    torch.manual_seed(GLOBAL_SEED)


def _global_random_state() -> tuple:
    words, position = np.random.get_state()[1:3]
    return random.getstate(), words.tobytes(), position, torch.get_rng_state().numpy().tobytes()


def _live(case: Case) -> dict:
    """Copies of the arguments as the answer gets them."""

    def live(value):
        if isinstance(value, torch.Tensor):
            return value.clone()
        return torch.Generator().manual_seed(value.seed) if isinstance(value, Chance) else value

    arguments = {name: _copy_tree(live, value) for name, value in case.arguments.items()}
    for name in case.differentiate:
        for leaf in leaves(arguments[name]):
            leaf.requires_grad_()
    return arguments


def _copy_tree(function, tree):
    """Like `map_tree`, but tuples stay tuples."""
    if isinstance(tree, dict):
        return {key: _copy_tree(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copy_tree(function, value) for value in tree)
    return function(tree)


def _changed(case: Case, arguments: dict) -> tuple[str, ...]:
    """The names of the arguments that no longer hold what the case gave; generators may move on."""

    def value(leaf):
        return None if isinstance(leaf, Chance | torch.Generator) else leaf

    return tuple(
        name
        for name, given in case.arguments.items()
        if not same(map_tree(value, given), plain(map_tree(value, arguments[name])))
    )


def _gradients(output, arguments: dict, names: tuple[str, ...]) -> dict | None:
    """Gradients of a fixed weighted sum of the output; None where the graph does not reach."""
    total = sum(
        (leaf.double() * _weights(leaf)).sum()
        for leaf in leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    )
    inputs = [leaf for name in names for leaf in leaves(arguments[name])]
    if not isinstance(total, torch.Tensor) or not total.requires_grad:
        return None
    found = iter(torch.autograd.grad(total, inputs, allow_unused=True))
    return {name: plain(map_tree(lambda _: next(found), arguments[name])) for name in names}


def _weights(tensor: torch.Tensor) -> torch.Tensor:
    """Weights that tell the entries of an output apart; 1 for a scalar."""
    return torch.cos(torch.arange(tensor.numel(), dtype=torch.float64)).reshape(tensor.shape)


def _describe(error: BaseException, answer: Callable) -> tuple[str, str]:
    """An error as "Type: first line", and the answer's own line that raised it."""
    text = next(iter(str(error).strip().splitlines()), "")
    described = f"{type(error).__name__}: {text}".rstrip(": ")[:LONGEST_ERROR]
    file = _source_file(answer)
    lines = [
        (frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == file
    ]
    return described, f"line {lines[-1][0]}: {lines[-1][1]}" if lines else ""


def _source_file(answer: Callable) -> str | None:
    """The file of a function, beneath its decorators, or of a class's methods."""
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    codes = (getattr(inspect.unwrap(function), "__code__", None) for function in functions)
    return next((code.co_filename for code in codes if code is not None), None)
