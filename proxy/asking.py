"""Who asks what: a call as it arrived becomes an Ask that is believed, or the error that says why not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy import allowance, policy, strictjson, validation, vendors
from proxy.admission import Admission
from proxy.auth import Authenticator
from proxy.cachekey import cache_key
from proxy.clock import Clock, midnight
from proxy.errors import Forbidden, RequestError, Unauthenticated, forget_frames
from proxy.eventlog import Listener
from proxy.idempotency import Claim, Idempotency
from proxy.keyring import KeyRefused
from proxy.metrics import Metrics
from proxy.model import Candidate, Document, ImageRequest, Inbound, Principal, Progress, Unparsed
from proxy.noun import noun
from proxy.recall import Belief, Question, Recall
from proxy.routing import eligible
from proxy.settings import UpstreamSection
from proxy.upstream import Caller

logger = logging.getLogger("imagegate")

_SHAPING = ("x-imagegate-variant", "openai-beta", "cache-control", "x-imagegate-cache-ttl", "x-imagegate-tags")
"""Headers of which a belief is formed, beside the body."""


@noun
class Ask:
    """A call that was believed: valid at every candidate, of which there is at least one, the most preferred first."""

    principal: Principal
    candidates: tuple[Candidate, ...]
    directives: policy.Directives
    arrived: float
    """Wall clock, seconds."""
    progress: Progress = field(default_factory=Progress)
    openai_beta: str = ""
    idempotency_key: str | None = field(default=None, repr=False)
    claim: Claim | None = None
    """What the idempotency key stands for, once that is known."""
    request_id: str = ""
    tags: tuple[str, ...] = ()
    """What the caller wants its purchase to be found by in the ledger."""
    listener: Listener = field(default_factory=Listener)
    """Hears what its flight tells before it lands."""

    @property
    def bypasses_cache(self) -> bool:
        """Neither looked up, nor stored, nor shared: by the caller's wish, or because nobody can name its pictures."""
        return self.directives.no_store or self.first.request.is_by_reference

    @property
    def first(self) -> Candidate:
        return self.candidates[0]

    @property
    def caller(self) -> Caller:
        return Caller(self.principal.credential, self.openai_beta)


@dataclass(slots=True)
class Doorkeeper:
    """Authenticates, admits, then validates. `validator` is exchanged whole on a reload."""

    authenticator: Authenticator
    validator: validation.Validator
    upstreams: tuple[UpstreamSection, ...]
    admission: Admission
    metrics: Metrics
    clock: Clock
    recall: Recall = field(default_factory=Recall)

    async def believe(self, inbound: Inbound) -> Ask:
        """Raises RequestError or RateLimited, and counts it."""
        principal = self.authenticate(inbound.headers)
        inbound.progress.team, inbound.progress.key_id = principal.team, principal.name
        self.admission.admit(principal)
        try:
            belief = self._belief(inbound, principal, await inbound.read())
            idempotency_key = Idempotency.key_of(inbound.headers)
        except RequestError as error:
            self.metrics.rejected(error.param, error.code)
            raise
        self._note(inbound, belief.candidates[0])
        return Ask(
            principal,
            belief.candidates,
            belief.directives,
            inbound.arrived,
            inbound.progress,
            openai_beta=inbound.headers.get("openai-beta", ""),
            idempotency_key=idempotency_key,
            request_id=inbound.request_id,
            tags=belief.tags,
        )

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated or Forbidden, and counts it."""
        try:
            return self.authenticator.authenticate(headers)
        except KeyRefused as refused:
            self.metrics.auth_failed(refused.reason)
            raise
        except Unauthenticated:
            self.metrics.auth_failed("missing")
            raise
        except Forbidden:
            self.metrics.auth_failed("origin")
            raise

    def _belief(self, inbound: Inbound, principal: Principal, body: Document | Unparsed) -> Belief:
        """What follows from the call; recalled if the same one has come before. Raises RequestError."""
        if isinstance(body, Document):
            return self._formed(inbound, principal, body)
        shaping = tuple([inbound.headers.get(name) for name in _SHAPING])
        question = Question(inbound.operation, body.deployment, principal.scope, shaping, body.content)
        belief = self.recall.belief(question, self.validator, principal.holder)
        if belief is None:
            document = Document(strictjson.parse_object(body.content)).deployed(body.deployment)
            belief = self._formed(inbound, principal, document)
            self.recall.keep(question, self.validator, principal.holder, belief)
        return belief

    def _formed(self, inbound: Inbound, principal: Principal, document: Document) -> Belief:
        candidates = self._candidates(inbound, principal, document)
        return Belief(candidates, policy.directives(inbound.headers), policy.tags(inbound.headers))

    def _candidates(self, inbound: Inbound, principal: Principal, document: Document) -> tuple[Candidate, ...]:
        """The preferred upstream judges the request; another one is a candidate if it would take it too."""
        found: list[Candidate] = []
        for section in eligible(self.upstreams, self.validator.model_of(document)):
            try:
                request = self.validator.validate(document, inbound.operation, section.vendor)
                # For its exception only: it raises for a name that the path cannot carry.
                vendors.of(section.vendor).target(section, request.operation, request.model)
                if principal.holder is not None:
                    allowance.check(principal.holder, request)
            except RequestError as fault:
                if not found:
                    raise
                forget_frames(fault)
                continue
            request = _varied(request, inbound.headers.get("x-imagegate-variant"))
            key = cache_key(
                request,
                scope=principal.scope,
                cache_group=section.cache_group,
                openai_beta=inbound.headers.get("openai-beta", ""),
            )
            found.append(Candidate(section.name, section.cache_group, request, key))
        return tuple(found)

    def _note(self, inbound: Inbound, candidate: Candidate) -> None:
        """What the log line and the metrics of this call need, however it ends."""
        request, progress = candidate.request, inbound.progress
        progress.model, progress.key = request.model, candidate.key
        progress.size, progress.quality = request.size, request.quality
        progress.prompt_characters = len(request.prompt)
        for param, code in request.violations:
            self.metrics.let_through(param, code)
        if request.shutdown_date is not None and self.clock.wall() > midnight(request.shutdown_date).timestamp():
            self.metrics.past_shutdown(request.model)
            logger.warning("a model is used after its shutdown date", extra={"model": request.model})


def _varied(request: ImageRequest, header: str | None) -> ImageRequest:
    """With the variant of the header `X-Imagegate-Variant`, which goes before the field of the body."""
    return request if header is None else replace(request, variant=validation.variant(header))
