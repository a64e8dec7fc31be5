"""What was believed of a call need not be found out again when the same call comes back.

The law: a belief follows from its question and from nothing else. A question is everything that is read of a call: the bytes
of its body, the headers that shape the answer, and whose share of the cache it may see. What may change while the process
runs, the rules in force and the record of the caller's key, is kept with the belief, and a belief formed under others is
none. Pure; bounded in bytes, the least recently used go first.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.memo import Memo
from proxy.model import Candidate, Holder, Operation
from proxy.policy import Directives
from proxy.validation import Validator

MAX_QUESTION_BYTES = 1 << 14
"""Of a body that is remembered; a longer prompt is rare, and read anew each time."""
LIMIT_BYTES = 8 << 20
_BELIEF_BYTES = 2000
"""What a belief takes beside its texts, about."""
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


@dataclass(frozen=True, slots=True)
class Recall:
    """Belongs to the event loop's thread."""

    kept: Memo[Question, _Kept] = field(default_factory=lambda: Memo(LIMIT_BYTES), repr=False)

    def belief(self, question: Question, validator: Validator, holder: Holder | None) -> Belief | None:
        """What was believed of this call under these very rules, for this very record of a key."""
        kept = self.kept.get(question)
        if kept is None or kept.validator is not validator or kept.holder is not holder:
            return None
        return kept.belief

    def keep(self, question: Question, validator: Validator, holder: Holder | None, belief: Belief) -> None:
        """In place of what was believed before under other rules."""
        if len(question.body) <= MAX_QUESTION_BYTES:
            words = sum([len(word) for word in (question.deployment, *question.headers) if word])
            weight = _BELIEF_BYTES + words + _COPIES * len(question.body)
            self.kept.keep(question, _Kept(belief, validator, holder), weight)
