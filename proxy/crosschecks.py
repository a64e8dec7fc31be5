"""Rules between settings, and between settings and the catalogue: what one value alone cannot show."""

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from proxy.addresses import is_loopback, listen_address
from proxy.errors import ConfigurationError
from proxy.problems import Problems, did_you_mean
from proxy.settings import MetricsSection, ServerSection, Settings, UpstreamSection

SHIPPED_VENDORS = ("apiyi", "azure", "generic", "openai", "together", "xai")
"""The vendors of the catalogue that is shipped; `rules.catalogue` may add others."""

_LEAST_SECRET = 16
_WILDCARD = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


def check(
    settings: Settings, upstreams: Mapping[int, UpstreamSection], problems: Problems, *, needs_secrets: bool = True
) -> None:
    """Adds what is wrong to `problems`. A rule is judged only where all that it looks at was read.

    `upstreams` are those that could be read, by their index in the file; without `needs_secrets` nobody buys.
    """
    _check_server(settings.server, settings.metrics, problems)
    _check_reach(settings, problems)
    for path, secret in (("cache.secret", settings.cache.secret), ("auth.admin_token", settings.auth.admin_token)):
        if secret is not None and len(secret.reveal()) < _LEAST_SECRET:
            problems.add(path, f"must be at least {_LEAST_SECRET} characters")
    names: dict[str, int] = {}
    for index, upstream in upstreams.items():
        _check_upstream(f"upstreams.{index}", upstream, settings, problems)
        if needs_secrets:
            _check_key(f"upstreams.{index}", upstream, settings, problems)
        first = names.setdefault(upstream.name, index)
        if first != index:
            problems.add(f"upstreams.{index}.name", f"{upstream.name!r} is already the name of upstreams.{first}")
    if settings.auth.mode == "passthrough" and problems.sound("auth.mode"):
        _check_one_payee(upstreams, problems)


def check_vendors(upstreams: Iterable[UpstreamSection], vendors: Sequence[str]) -> None:
    """Every upstream's vendor is one of the loaded catalogue's. Raises ConfigurationError."""
    strangers = [
        f"upstreams.{index}.vendor: {upstream.vendor!r} is not in the catalogue ({', '.join(vendors)})"
        for index, upstream in enumerate(upstreams)
        if upstream.vendor not in vendors
    ]
    if strangers:
        raise ConfigurationError(strangers)


def _check_server(server: ServerSection, metrics: MetricsSection, problems: Problems) -> None:
    if (server.tls_certificate is None) != (server.tls_key is None) and problems.sound(
        "server.tls_key", "server.tls_certificate"
    ):
        missing, present = ("tls_key", "tls_certificate") if server.tls_certificate else ("tls_certificate", "tls_key")
        problems.add(f"server.{missing}", f"must be set when server.{present} is")
    if metrics.listen and listen_address(metrics.listen) == (server.host, server.port) and server.port:
        problems.add("metrics.listen", "is the server's own address; leave it empty to serve /metrics there")


def _check_reach(settings: Settings, problems: Problems) -> None:
    auth, host = settings.auth, settings.server.host
    exposed = auth.mode == "open" and not auth.allow_open and not is_loopback(host)
    if exposed and problems.sound("auth.mode", "auth.allow_open", "server.host"):
        problems.add(
            "auth.mode", f"open on {host} would let anyone pay with your key; auth.allow_open = true if you mean it"
        )


def _check_upstream(path: str, upstream: UpstreamSection, settings: Settings, problems: Problems) -> None:
    total, connect = f"{path}.total_timeout_seconds", f"{path}.connect_timeout_seconds"
    if upstream.total_timeout_seconds <= upstream.connect_timeout_seconds and problems.sound(total, connect):
        problems.add(total, "must be greater than connect_timeout_seconds")
    shipped_only = not settings.rules.catalogue and problems.sound("rules.catalogue")
    if upstream.vendor not in SHIPPED_VENDORS and shipped_only:
        near = did_you_mean(upstream.vendor, SHIPPED_VENDORS)
        problems.add(
            f"{path}.vendor", f"must be one of {', '.join(SHIPPED_VENDORS)}, or come from rules.catalogue{near}"
        )
    if leads_to(settings.server, upstream) and problems.sound("server.host", "server.port"):
        problems.add(f"{path}.base_url", "is this proxy's own address")


def _check_key(path: str, upstream: UpstreamSection, settings: Settings, problems: Problems) -> None:
    host = urlsplit(upstream.base_url).hostname or ""
    needs_key = settings.auth.mode != "passthrough" and not is_loopback(host)
    if needs_key and upstream.api_key is None and problems.sound("auth.mode", f"{path}.api_key"):
        problems.add(f"{path}.api_key", f"must be set in mode {settings.auth.mode}, and the variable it names too")


def _check_one_payee(upstreams: Mapping[int, UpstreamSection], problems: Problems) -> None:
    for (one, first), (other, second) in itertools.combinations(upstreams.items(), 2):
        paths = f"upstreams.{one}.models", f"upstreams.{other}.models"
        if problems.sound(*paths) and any(may_overlap(a, b) for a in first.models for b in second.models):
            problems.add(
                paths[1],
                f"overlaps {paths[0]}: in mode passthrough only one upstream may serve a model, "
                "or a caller's credential would reach another vendor",
            )


def may_overlap(one: str, other: str) -> bool:
    """Whether some name could match both globs; a `[set]` is taken for any character."""
    first, second = (re.sub(r"\[[^\]]+\]", "?", pattern) for pattern in (one, other))

    @functools.cache
    def meet(i: int, j: int) -> bool:
        if i == len(first) and j == len(second):
            return True
        if i < len(first) and first[i] == "*":
            return meet(i + 1, j) or (j < len(second) and meet(i, j + 1))
        if j < len(second) and second[j] == "*":
            return meet(i, j + 1) or (i < len(first) and meet(i + 1, j))
        if i == len(first) or j == len(second):
            return False
        return ("?" in (first[i], second[j]) or first[i] == second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def leads_to(server: ServerSection, upstream: UpstreamSection) -> bool:
    """Whether a call to the upstream would arrive at this proxy itself."""
    parts = urlsplit(upstream.base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if port != server.port:
        return False
    return host == server.host or (is_loopback(host) and (is_loopback(server.host) or server.host in _WILDCARD))
