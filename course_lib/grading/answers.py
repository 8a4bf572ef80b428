"""The text of a known mistake, as a learner would have written it in a notebook cell."""

import ast
import builtins
import inspect
import re
import textwrap
import types


def known_mistakes(exercise):
    """The wrong answers in the check bank of an exercise."""
    from course_lib.checks import get_exercise

    return [mistake.answer for mistake in get_exercise(exercise).mistakes]


def standalone_source(answer, name):
    """The source of a function or class under another name, with the imports and helpers it needs.

    Raises ValueError when it is made of something that has no text of its own (a closure, a
    lambda, a part of the library).
    """
    needed = {}
    source = _definition(answer)
    _collect(answer, needed)
    source = re.sub(rf"^(async def|def|class) {answer.__name__}\b", rf"\1 {name}", source)
    before = "\n".join(text for text in needed.values() if "\n" not in text)
    helpers = [text for text in needed.values() if "\n" in text]
    return "\n\n\n".join(part for part in [before, *helpers, source] if part)


def _definition(thing):
    """A definition's source without its decorators."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
        node = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError) as error:
        raise ValueError(f"{thing!r} has no source that stands alone") from error
    # A lambda's source is the statement around it.
    if getattr(node, "name", None) != thing.__name__:
        raise ValueError(f"{thing!r} is not defined by a def or a class")
    return "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])


def _collect(thing, needed):
    """Fill `needed` (name -> text) with the imports, constants and helpers of a definition."""
    for base in getattr(thing, "__bases__", ()):
        if base.__module__ == thing.__module__ and base.__name__ not in needed:
            needed[base.__name__] = _text(base.__name__, base, thing.__module__, needed)
    functions = [thing] if inspect.isfunction(thing) else _methods(thing)
    for function in functions:
        if function.__code__.co_freevars not in ((), ("__class__",)):
            raise ValueError(f"{thing.__name__} is a closure")
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__ and name not in needed and name != thing.__name__:
                needed[name] = ""  # against helpers that call each other
                needed[name] = _text(name, function.__globals__[name], function.__module__, needed)


def _methods(thing):
    return [value for value in vars(thing).values() if inspect.isfunction(value)]


def _names(code):
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _text(name, value, module, needed):
    if isinstance(value, types.ModuleType):
        _refuse_library(value.__name__)
        return f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    home = getattr(value, "__module__", None)
    if inspect.isfunction(value) or inspect.isclass(value):
        if home == module:
            _collect(value, needed)
            return _definition(value)
        if getattr(builtins, name, None) is value:
            return ""
        _refuse_library(home)
        return f"from {home} import {name}"
    if isinstance(value, int | float | str | tuple | bool | type(None)):
        return f"{name} = {value!r}"
    raise ValueError(f"{name} cannot be written down")


def _refuse_library(module):
    if module.split(".")[0] == "course_lib":
        raise ValueError(f"{module} is part of the library")
