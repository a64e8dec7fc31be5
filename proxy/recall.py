"""What was believed of a call need not be found out again when the same call comes back.

The law: a belief follows from its question and from nothing else. A question is everything that is read of a call: the bytes
of its body, the headers that shape the answer, and whose share of the cache it may see. What may change while the process
runs, the rules in force and the record of the caller's key, is kept with the belief, and a belief formed under others is
none. Pure; bounded in bytes, the least recently used go first.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.model import Candidate, Holder, Operation
from proxy.policy import Directives
from proxy.validation import Validator

MAX_QUESTION_BYTES = 1 << 14
"""Of a body that is remembered; a longer prompt is rare, and read anew each time."""
LIMIT_BYTES = 8 << 20
_BELIEF_BYTES = 2000
"""What a belief takes beside its texts, about; measured."""
_COPIES = 4
"""How often the texts of a body are kept: as they came, parsed, in canonical form, and room for escapes."""


class Question(NamedTuple):
    """What a call says. `headers` are the values that shape the answer, in a fixed order, None for those not sent."""

    operation: Operation
    deployment: str | None
    """The model that the path names."""
    scope: str
    headers: tuple[str | None, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Belief:
    """What follows from a call, whoever makes it in this scope and whenever it comes."""

    candidates: tuple[Candidate, ...]
    directives: Directives
    tags: tuple[str, ...]


class _Kept(NamedTuple):
    belief: Belief
    validator: Validator
    holder: Holder | None
    weight: int


@dataclass(slots=True)
class Recall:
    """Belongs to the event loop's thread."""

    limit_bytes: int = LIMIT_BYTES
    _kept: OrderedDict[Question, _Kept] = field(default_factory=OrderedDict, init=False, repr=False)
    _bytes: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._kept)

    def belief(self, question: Question, validator: Validator, holder: Holder | None) -> Belief | None:
        """What was believed of this call under these very rules, for this very record of a key."""
        kept = self._kept.get(question)
        if kept is None or kept.validator is not validator or kept.holder is not holder:
            return None
        self._kept.move_to_end(question)
        return kept.belief

    def keep(self, question: Question, validator: Validator, holder: Holder | None, belief: Belief) -> None:
        """In place of what was believed before under other rules."""
        if len(question.body) > MAX_QUESTION_BYTES:
            return
        self._forget(question)
        weight = _BELIEF_BYTES + _COPIES * len(question.body)
        self._kept[question] = _Kept(belief, validator, holder, weight)
        self._bytes += weight
        while self._bytes > self.limit_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, question: Question) -> None:
        kept = self._kept.pop(question, None)
        if kept is not None:
            self._bytes -= kept.weight
