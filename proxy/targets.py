"""Which call of the Images API a path names: OpenAI's own paths, those without `/v1`, and Azure's two ways to write them.

    /v1/images/generations                                    and edits; also without /v1
    /openai/v1/images/generations                             Azure's newer API
    /openai/deployments/{model}/images/generations            Azure's older API: the path names the model

Pure. Source: OpenAI API reference; Azure OpenAI REST API reference; openai-python, lib/azure.py.
"""

import re
from dataclasses import dataclass

from proxy.model import Operation

_OPERATIONS = {operation.endpoint: operation for operation in Operation}
_PLAIN = re.compile(r"(?:/openai)?(?:/v1)?/images/(generations|edits)")
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/images/(generations|edits)")


@dataclass(frozen=True, slots=True)
class Target:
    """`deployment` is the model that the path names, if it names one: it goes before the body's."""

    operation: Operation
    deployment: str | None = None

    @property
    def route(self) -> str:
        """What it is called in logs, errors and documents."""
        return f"/v1/images/{self.operation.endpoint}"


_PLAIN_TARGETS = {operation: Target(operation) for operation in Operation}


def target_of(path: str) -> Target | None:
    """What a path, percent-decoded, asks for; None if it is no call of the Images API."""
    if (plain := _PLAIN.fullmatch(path)) is not None:
        return _PLAIN_TARGETS[_OPERATIONS[plain[1]]]
    if (deployed := _DEPLOYMENT.fullmatch(path)) is not None:
        return Target(_OPERATIONS[deployed[2]], deployed[1])
    return None
