"""A noun that is made for every request: frozen to the type checker, and at run time as cheap to make as a class can be.

`@dataclass(frozen=True)` sets each field by way of `object.__setattr__`, which takes three times as long, and a hit makes
half a dozen of them.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def noun(kind: type[T]) -> type[T]:
    """A dataclass with slots whose fields are set once, when it is made; the type checker sees to that."""
    return dataclass(slots=True)(kind)
