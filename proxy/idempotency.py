"""`Idempotency-Key`: the same key with the same request within 24 hours gets the same success, for its owner alone.

A key is *claimed* by the first request that bears it, before anything is looked up or bought; *settled* once there is a
success; *freed* by a failure. The success itself is an ordinary entry of the cache: a claim only knows which.
"""

import asyncio
import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from proxy.clock import Clock
from proxy.errors import IdempotencyMismatch, InvalidRequest
from proxy.model import Metadata, Principal
from proxy.stores import claims
from proxy.stores.claims import LIFETIME_SECONDS, Claims

_KEY = re.compile(r"[\x20-\x7e]{1,255}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """One request's hold on its key."""

    held: claims.Claim

    @property
    def flight_key(self) -> str:
        """Names the flight that duplicates join where the cache key may not: `no-store` shares with nobody else."""
        return hashlib.sha256(b"imagegate flight" + self.held.name + self.held.fingerprint).hexdigest()

    def replays(self, metadata: Metadata) -> bool:
        """Whether an entry under the request's cache key is the success to give again, whatever its age.

        Either the very purchase that was given, or, where nobody came to say which that was (a crash, a caller who left)
        or it has been replaced since, one that was stored after the first request with this key had come.
        """
        if self.held.is_first:
            return False
        is_the_one = bool(self.held.purchase_id) and metadata.purchase_id == self.held.purchase_id
        return is_the_one or 0 <= metadata.stored_at - self.held.arrived < LIFETIME_SECONDS


class Idempotency:
    """Claims keys, on an executor's threads. A broken disk is no failure: keys then hold for this process."""

    def __init__(self, claims: Claims, executor: Executor, clock: Clock) -> None:
        self._claims = claims
        self._executor = executor
        self._clock = clock

    @staticmethod
    def key_of(headers: Mapping[str, str]) -> str | None:
        """The caller's key, if there is one. Raises InvalidRequest for one that cannot be a key."""
        key = headers.get("idempotency-key")
        if key is not None and _KEY.fullmatch(key) is None:
            raise InvalidRequest(
                "Invalid 'Idempotency-Key': expected 1 to 255 printable ASCII characters.", code="invalid_header"
            )
        return key

    async def claim(self, principal: Principal, key: str, fingerprint: str) -> Claim:
        """Claim a key for the request that `fingerprint` names, or find it claimed by the same request before.

        Raises IdempotencyMismatch if another request of this caller has it.
        """
        wanted = claims.fresh(_name(principal, key), bytes.fromhex(fingerprint), self._clock.wall())
        held = await self._run(self._claims.take, wanted)
        if held.fingerprint != wanted.fingerprint:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used with another request in the last 24 hours. "
                "Use a new key for a new request."
            )
        return Claim(held)

    async def settle(self, claim: Claim, purchase_id: str) -> None:
        """`purchase_id` is the success that was given: duplicates get it again."""
        await self._run(self._claims.settle, claim.held, purchase_id, self._clock.wall())

    async def free(self, claim: Claim) -> None:
        """It failed: the key may be used for anything, unless a duplicate has succeeded with it. Idempotent."""
        await self._run(self._claims.free, claim.held, self._clock.wall())

    async def _run(self, work: Callable[..., T], *values: object) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._executor, work, *values)
        except RuntimeError:
            return work(*values)  # the executor has been shut down: nobody is left to be held up
        return await running


def _name(principal: Principal, key: str) -> bytes:
    parts = [part.encode() for part in ("imagegate claim", principal.scope, principal.name, key)]
    return hashlib.sha256(b"".join(struct.pack(">Q", len(part)) + part for part in parts)).digest()
