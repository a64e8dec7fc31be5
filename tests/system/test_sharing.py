"""Who may see what: no-store, credentials, the metrics page, and two processes on one cache directory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.caller import ask, asking
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]

NO_STORE = {"cache-control": "no-store"}
SOMEBODY_ELSE = {"authorization": "Bearer sk-somebody-else"}


def test_no_store_never_shares_a_purchase_and_leaves_nothing(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("no-store", {"hold": True})
    with asking(proxy, [prompt] * 3, headers=NO_STORE) as answers:
        eventually(lambda: upstream.held(prompt) == 3, what="a call for each of three")
        upstream.release(prompt)
        assert [answer.result().cache for answer in answers] == ["BYPASS"] * 3
    assert upstream.calls(prompt) == 3
    assert ask(proxy, prompt).cache == "MISS"
    assert ask(proxy, prompt, headers=NO_STORE).cache == "BYPASS"
    assert upstream.calls(prompt) == 5


def test_another_credential_never_sees_the_entry(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "one prompt, several credentials"
    assert ask(proxy, prompt).cache == "MISS"
    callers: list[dict[str, str | None]] = [
        {**SOMEBODY_ELSE},
        {"authorization": None, "api-key": "sk-test-of-the-system"},
        {"openai-organization": "org-1"},
        {"openai-project": "proj-1"},
    ]
    for number, headers in enumerate(callers):
        assert ask(proxy, prompt, headers={**headers, "cache-control": "only-if-cached"}).status == 504
        assert ask(proxy, prompt, headers=headers).cache == "MISS"
        assert ask(proxy, prompt, headers=headers).cache == "HIT"
        assert upstream.calls(prompt) == number + 2
    assert ask(proxy, prompt).cache == "HIT"
    assert upstream.credentials(prompt) == [
        "Bearer sk-test-of-the-system",
        "Bearer sk-somebody-else",
        "sk-test-of-the-system",
        "Bearer sk-test-of-the-system",
        "Bearer sk-test-of-the-system",
    ], "each paid with their own"


def test_another_credential_does_not_join_a_flight(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("two credentials at once", {"hold": True})
    with asking(proxy, [prompt]) as first, asking(proxy, [prompt], headers=SOMEBODY_ELSE) as second:
        eventually(lambda: upstream.held(prompt) == 2)
        upstream.release(prompt)
        assert {first[0].result().cache, second[0].result().cache} == {"MISS"}


def test_the_metrics_page_is_for_this_machine_only(proxy: Proxy) -> None:
    assert proxy.get("/metrics")[0] == 200
    for forwarded in ("x-forwarded-for", "forwarded", "x-real-ip"):
        status, _, body = proxy.get("/metrics", {forwarded: "for=203.0.113.9"})
        assert (status, b"imagegate_" in body) == (401, False)
    assert proxy.get("/metrics", {"authorization": "Bearer guess"})[0] == 401


def test_the_metrics_page_is_for_who_has_the_token(start: Start) -> None:
    proxy = start({"metrics": {"token": {"env": "TOKEN"}}}, TOKEN="let-me-read-the-numbers")
    far = {"x-forwarded-for": "203.0.113.9"}
    assert proxy.get("/metrics", far)[0] == 401
    assert proxy.get("/metrics", {**far, "authorization": "Bearer let-me-read-the-number"})[0] == 401
    status, headers, body = proxy.get("/metrics", {**far, "authorization": "Bearer let-me-read-the-numbers"})
    assert (status, b"imagegate_build_info{" in body) == (200, True)
    assert headers["content-type"].startswith("text/plain; version=0.0.4")


def test_two_processes_share_one_cache_directory(start: Start, upstream: UpstreamProcess) -> None:
    one, other = start(), start()
    prompts = [upstream.plan(f"two processes {number}", {"blocks": number % 4}) for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        pairs = [(one if number % 2 else other, prompt) for number, prompt in enumerate(prompts)]
        bought = list(pool.map(lambda pair: ask(*pair), pairs))
        assert {(reply.status, reply.cache, reply.is_stored) for reply in bought} == {(200, "MISS", True)}
        crossed = [(other if number % 2 else one, prompt) for number, prompt in enumerate(prompts)]
        found = list(pool.map(lambda pair: ask(*pair), crossed))
    for number, (prompt, reply) in enumerate(zip(prompts, found, strict=True)):
        assert (reply.cache, reply.body) == ("HIT", body_of(prompt, number % 4))
    assert sum(upstream.calls(prompt) for prompt in prompts) == 40
    assert one.stop() == 0
    assert ask(other, prompts[1]).cache == "HIT", "the one that leaves takes nothing with it"


def test_a_successor_serves_while_its_predecessor_drains(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("handed over", {"hold": True})
    old = start()
    ask(old, "stored by the old one")
    with asking(old, [prompt]) as answers:
        eventually(lambda: upstream.held(prompt) == 1)
        old.terminate()
        new = start()
        assert ask(new, "stored by the old one").cache == "HIT"
        assert ask(new, "bought by the new one").cache == "MISS"
        upstream.release(prompt)
        assert answers[0].result().is_stored
    assert old.wait() == 0
    hit = ask(new, prompt)
    assert (hit.cache, hit.body, upstream.calls(prompt)) == ("HIT", body_of(prompt), 1)
