"""What an exercise is: cases, an observation of an answer on each, properties and mistakes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Chance:
    """Stands in a case for a `torch.Generator` with this seed, so that a case is plain data."""

    seed: int


@dataclass(frozen=True)
class Foreign:
    """Stands in an observation for a value that is not plain data."""

    type_name: str


@dataclass(frozen=True)
class Case:
    """One input: plain tensors, numbers, strings, and lists or dicts of them.

    kind: what the case is for; a property looks at the kinds it names.
    arguments: passed by position, in this order; the names are for the message.
    differentiate: the arguments whose gradients are observed.
    text: how the message describes the case; made from the arguments when empty.
    """

    kind: str
    arguments: dict[str, Any]
    differentiate: tuple[str, ...] = ()
    text: str = ""


@dataclass
class Observation:
    """What an answer did on a case, as plain data (detached tensors on the CPU)."""

    output: Any = None
    again: Any = None  # of a second run with the same generator, if the case has one
    gradients: dict[str, Any] | None = None  # of a fixed weighted sum of the output
    changed: tuple[str, ...] = ()  # arguments that are not what they were
    used_global_random: bool = False
    error: str = ""  # "ValueError: ..." when it stopped
    error_line: str = ""  # where in the answer
    called_reference: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """How a property fails: what was wanted and what came, as the message shows them."""

    expected: str
    got: str


@dataclass(frozen=True)
class Property:
    """Something that a right answer does, worth points of its own.

    test: (case, observed, expected by the reference) -> Failure, or None when it holds. It is
    only asked where the answer returned something.
    aspect: the field of the observation it looks at; a known mistake is recognised by it.
    kinds: of the cases it looks at; all when empty.
    """

    name: str
    points: float
    test: Callable[[Case, Observation, Observation], Failure | None]
    aspect: str = "output"
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that learners really give.

    sentence: completes "This is a known mistake: ...".  why: why it matters.  look_at: a question
    or a place to look, not the line itself.
    recognise: (cases, observations) -> bool where comparing with what `answer` gives on the same
    cases would not do, because of chance.
    fails: the property that has to fail first for this mistake to be named; any when empty.
    """

    name: str
    answer: Callable
    sentence: str
    why: str
    look_at: str
    recognise: Callable[[Sequence[Case], Sequence[Observation]], bool] | None = None
    fails: str = ""


@dataclass
class Exercise:
    """A function or class that the learner writes.

    reference: the library's implementation; calling it from an answer is refused.
    cases: seed -> the cases of the visible check, smallest first.
    hidden_cases: seed -> what grading tries on top: other shapes, other properties.
    properties: in the order in which they are reported. Without the first one nothing counts.
    observe: (answer, case, forbidden files) -> Observation.
    home: the module whose functions an answer may not call; the reference's own when None.
    """

    name: str
    reference: Callable
    cases: Callable[[int], list[Case]]
    hidden_cases: Callable[[int], list[Case]]
    properties: tuple[Property, ...]
    observe: Callable[..., Observation]
    home: ModuleType | None = None
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def max_points(self) -> float:
        return float(sum(item.points for item in self.properties))

    def mistake(self, sentence: str, why: str, look_at: str, recognise=None, fails: str = ""):
        """Decorator: add the wrong answer below to the bank, under its own name."""

        def add(answer):
            known = Mistake(answer.__name__, answer, sentence, why, look_at, recognise, fails)
            self.mistakes.append(known)
            return answer

        return add


@dataclass
class Verdict:
    """The result of a check; everything in it is plain data."""

    exercise: str
    points: float
    max_points: float
    outcome: str  # "right", "partly", "wrong", "not attempted" or "refused"
    properties: dict[str, bool]  # those that were examined
    mistake: Mistake | None = None
    failed: str = ""  # the property that fails first
    failure: Failure | None = None
    case: Case | None = None  # the smallest case on which it fails
    error: str = ""
    error_line: str = ""
