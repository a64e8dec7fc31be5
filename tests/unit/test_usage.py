"""The ledger added up, on real databases of either kind: everything once, exactly, under the name it has now."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select

from proxy.database.engine import Database
from proxy.database.ledgerrows import Selection, purchase_sums
from proxy.database.tables import PURCHASES, TALLIES, TOKEN_COLUMNS
from proxy.errors import InvalidRequest, NotFound
from proxy.keyrecord import KeyRecord
from proxy.keystore import KeyStore
from proxy.usage import DIMENSIONS, EXPORT_COLUMNS, Filter, Usage, UsageSums
from proxy.usagepages import BucketQuery
from tests.support.clock import ManualClock
from tests.support.ledger import NOON, bought, buy, purchase, tallied

pytest_plugins = ["tests.support.databases"]
HOUR, DAY = 3600, 86_400
MIDNIGHT = NOON - 12 * HOUR
NICKEL = Decimal("0.05")


@pytest.fixture
def usage(database: Database) -> Usage:
    return Usage(database)


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database, ManualClock(NOON))


def everything(usage: Usage, narrowed: Filter | None = None) -> UsageSums:
    (row,) = usage.report([], 0, NOON + 365 * DAY, narrowed)
    return row.sums


def dimensions(usage: Usage, *by: str, since: float = 0, until: float = NOON + 365 * DAY) -> list[dict[str, Any]]:
    return [dict(row.dimensions) for row in usage.report(by, since, until)]


def a_key(store: KeyStore, alias: str, team: str | None = None) -> KeyRecord:
    return store.create_key({"key_alias": alias}, "test", team=team)[0]


# Sums


def test_an_empty_ledger_adds_up_to_nothing(usage: Usage) -> None:
    assert everything(usage) == UsageSums()
    assert usage.report(["model"], 0, NOON) == []


def test_what_was_bought_and_what_was_saved_are_told_apart(database: Database, usage: Usage) -> None:
    bought(database, n=2, images=2)
    tallied(database, answers=3, images=6, tokens=3000, saved=150_000_000)
    tallied(database, how="coalesced", answers=2, images=4, tokens=2000, saved=100_000_000)
    sums = everything(usage)
    assert (sums.calls, sums.images, sums.cost_usd) == (1, 2, NICKEL)
    assert (sums.hits, sums.coalesced, sums.cached_images) == (3, 2, 10)
    assert (sums.saved_tokens, sums.saved_usd) == (5000, Decimal("0.25"))


def test_a_report_of_more_rows_than_are_wanted_is_refused(database: Database, usage: Usage) -> None:
    for number in range(4):
        bought(database, model=f"painter-{number}")
    tallied(database, model="painter-9")
    assert len(usage.report(["model"], 0, 1e10, most_rows=5)) == 5
    with pytest.raises(InvalidRequest) as caught:
        usage.report(["model"], 0, 1e10, most_rows=4)
    assert (caught.value.param, caught.value.code) == ("by", "too_many_rows")


def test_every_class_of_tokens_has_its_own_column(database: Database, usage: Usage) -> None:
    counts = {name: 10**number for number, name in enumerate(TOKEN_COLUMNS)}
    bought(database, **counts)
    bought(database, **counts)
    sums = everything(usage)
    assert {name: getattr(sums, name) for name in TOKEN_COLUMNS} == {name: 2 * n for name, n in counts.items()}


def test_an_estimate_is_a_part_of_the_cost_and_the_unknown_is_not(database: Database, usage: Usage) -> None:
    bought(database)
    bought(database, outcome="estimated", cost=7)
    bought(database, outcome="unknown", cost=11, images=0)
    sums = everything(usage)
    assert (sums.calls, sums.images) == (3, 2)
    assert (sums.cost_usd, sums.estimated_usd) == (NICKEL + Decimal("7e-9"), Decimal("7e-9"))
    assert sums.unknown_usd == Decimal("11e-9")


def test_what_was_released_is_a_failure_and_nothing_else(database: Database, usage: Usage) -> None:
    bought(database, outcome="released", cost=0, images=0)
    bought(database, outcome="released", cost=None, images=5, text_in=5)
    assert everything(usage) == UsageSums(failed=2)


def test_what_is_on_its_way_is_reserved_and_nothing_else(database: Database, usage: Usage) -> None:
    bought(database, outcome="open", closed_at=None, cost=None, images=0)
    bought(database, outcome="open", closed_at=None, cost=None, images=0, estimate=None)
    assert everything(usage) == UsageSums(open_calls=2, reserved_usd=Decimal("0.06"))


def test_calls_without_a_price_are_counted(database: Database, usage: Usage) -> None:
    bought(database)
    for outcome in ("settled", "estimated", "unknown", "released", "open"):
        bought(database, outcome=outcome, cost=None, estimate=None)
    sums = everything(usage)
    assert (sums.calls, sums.unpriced_calls, sums.cost_usd) == (4, 3, NICKEL)


def test_sums_of_money_are_exact(database: Database, usage: Usage) -> None:
    buy(database, *(purchase(cost=1) for _ in range(10)), purchase(cost=999_999_999_999_999_999), purchase(cost=3))
    sums = everything(usage)
    assert sums.cost_usd == Decimal("1000000000.000000012")
    assert str(UsageSums(cost_usd=Decimal("0.1") + Decimal("0.2")).as_json()["cost_usd"]) == "0.3"


@given(nanos=st.integers(0, 8_000_000 * 10**9))
def test_money_as_a_number_is_exact_to_the_nano_dollar(nanos: int) -> None:
    told = UsageSums(cost_usd=Decimal(nanos) / 10**9).as_json()["cost_usd"]
    assert Decimal(repr(told)) == Decimal(nanos) / 10**9


# Groups


@pytest.mark.parametrize("name", ["model", "size", "quality", "operation"])
def test_each_dimension_parts_purchases_and_answers_from_the_cache_alike(
    name: str, database: Database, usage: Usage
) -> None:
    for value, count in (("a", 2), ("b", 1)):
        buy(database, *({**purchase(), name: value} for _ in range(count)))
    for value, answers in (("b", 4), ("c", 5)):
        fields: dict[str, Any] = {name: value, "answers": answers}
        tallied(database, **fields)
    rows = usage.report([name], 0, NOON + DAY)
    found = [(row.dimensions, row.sums.calls, row.sums.hits) for row in rows]
    assert found == [({name: "a"}, 2, 0), ({name: "b"}, 1, 4), ({name: "c"}, 0, 5)]


def test_keys_and_teams_have_their_present_names(database: Database, usage: Usage, store: KeyStore) -> None:
    web, app = a_key(store, "web", "design"), a_key(store, "app")
    bought(database, key_id=web.id, team_id=web.team_id)
    tallied(database, key_id=web.id, team_id=web.team_id or "")
    bought(database, key_id=app.id)
    bought(database)
    tallied(database)
    bought(database, key_id="key_of_another_database")
    store.update_key("web", {"key_alias": "www"}, "test")
    store.update_team("design", {"team_alias": "art"}, "test")
    assert dimensions(usage, "key", "team") == [
        {"key": "app", "key_id": app.id, "team": None, "team_id": None},
        {"key": "www", "key_id": web.id, "team": "art", "team_id": web.team_id},
        {"key": None, "key_id": "key_of_another_database", "team": None, "team_id": None},
        {"key": None, "key_id": None, "team": None, "team_id": None},
    ]
    assert [(row.sums.calls, row.sums.hits) for row in usage.report(["team"], 0, NOON + DAY)] == [(1, 1), (3, 1)]


def test_a_purchase_stays_with_the_team_that_paid_it(database: Database, usage: Usage, store: KeyStore) -> None:
    web = a_key(store, "web", "design")
    bought(database, key_id=web.id, team_id=web.team_id)
    store.update_key("web", {}, "test", team="sales")
    assert [row["team"] for row in dimensions(usage, "team")] == ["design"]


def test_any_dimensions_go_together_in_the_order_asked_for(database: Database, usage: Usage) -> None:
    bought(database)
    tallied(database)
    (row,) = usage.report(tuple(reversed(DIMENSIONS)), 0, NOON + DAY)
    names = ["operation", "quality", "size", "model", "team", "team_id", "key", "key_id", "hour", "day"]
    assert list(row.dimensions) == names
    assert (row.sums.calls, row.sums.hits) == (1, 1)
    assert dimensions(usage, "model", "model") == [{"model": "gpt-image-2"}]
    assert list(row.as_json()) == [*names, *UsageSums().as_json()]


def test_an_unknown_dimension_is_refused(usage: Usage) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no 'prompt'\. Supported values are: day, hour"):
        usage.report(["prompt"], 0, NOON)


# Time


def test_days_and_hours_are_those_of_utc(database: Database, usage: Usage) -> None:
    buy(database, *(purchase(at) for at in (MIDNIGHT - 0.001, MIDNIGHT, MIDNIGHT + 23.9999 * HOUR, MIDNIGHT + DAY)))
    tallied(database, MIDNIGHT + 23 * HOUR)
    rows = usage.report(["day"], 0, NOON + DAY)
    assert [(row.dimensions["day"], row.sums.calls, row.sums.hits) for row in rows] == [
        ("2026-11-21", 1, 0),
        ("2026-11-22", 2, 1),
        ("2026-11-23", 1, 0),
    ]
    assert [(row["day"], row["hour"]) for row in dimensions(usage, "day", "hour")] == [
        ("2026-11-21", "2026-11-21 23:00Z"),
        ("2026-11-22", "2026-11-22 00:00Z"),
        ("2026-11-22", "2026-11-22 23:00Z"),
        ("2026-11-23", "2026-11-23 00:00Z"),
    ]


@pytest.mark.parametrize("width", [60, 3600, 86_400])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments=st.lists(st.floats(0, 4e9), min_size=1, max_size=20))
def test_a_moment_is_in_the_bucket_that_begins_before_it(database: Database, width: int, moments: list[float]) -> None:
    with database.writing() as connection:
        connection.execute(delete(PURCHASES))
    edges = [moment // width * width for moment in moments]
    around = [*moments, *edges, *(edge + width - 1e-6 for edge in edges), *(edge + 0.5 for edge in edges)]
    buy(database, *(purchase(moment) for moment in around))
    with database.reading() as connection:
        sums = list(purchase_sums(connection, Selection(since=0, until=1e10), ["size"], width))
    expected: dict[int, int] = {}
    for moment in around:
        bucket = int(moment // width) * width
        expected[bucket] = expected.get(bucket, 0) + 1
    assert {each.bucket: each.sums["calls"] for each in sums} == expected


def test_a_range_has_its_beginning_and_not_its_end(database: Database, usage: Usage) -> None:
    buy(database, *(purchase(at) for at in (NOON - 0.001, NOON, NOON + 59.999, NOON + 60)))
    (row,) = usage.report([], NOON, NOON + 60)
    assert row.sums.calls == 2


def test_answers_from_the_cache_are_of_the_hours_of_the_range(database: Database, usage: Usage) -> None:
    for hours, answers in ((-1, 1), (0, 10), (1, 100), (2, 1000)):
        tallied(database, NOON + hours * HOUR, answers=answers)

    def hits(since: float, until: float) -> int:
        return usage.report([], since, until)[0].sums.hits

    assert hits(NOON, NOON + 2 * HOUR) == 110
    assert hits(NOON + 1800, NOON + 1801) == 10
    assert hits(NOON, NOON + HOUR + 0.4) == 110


# Filters


def test_a_report_is_narrowed_by_id_or_alias(database: Database, usage: Usage, store: KeyStore) -> None:
    web, app = a_key(store, "web", "design"), a_key(store, "app", "design")
    for key in (web, app):
        bought(database, key_id=key.id, team_id=key.team_id)
        tallied(database, key_id=key.id, team_id=key.team_id or "")
    bought(database, model="gpt-image-1")

    def calls(narrowed: Filter) -> tuple[int, int]:
        sums = everything(usage, narrowed)
        return sums.calls, sums.hits

    assert calls(Filter(key="web")) == calls(Filter(key=web.id)) == (1, 1)
    assert calls(Filter(team="design")) == calls(Filter(team=web.team_id)) == (2, 2)
    assert calls(Filter(model="gpt-image-1")) == (1, 0)
    assert calls(Filter(key="web", model="gpt-image-1")) == (0, 0)
    assert calls(Filter()) == (3, 2)


def test_a_key_that_was_revoked_is_still_found(database: Database, usage: Usage, store: KeyStore) -> None:
    bought(database, key_id=a_key(store, "web").id)
    store.revoke_key("web", "test")
    assert everything(usage, Filter(key="web")).calls == 1


@pytest.mark.parametrize("name", ["nobody", "", "a\0b", "\ud800"])
def test_nobody_is_said_to_be_nobody(usage: Usage, name: str) -> None:
    for narrowed in (Filter(key=name), Filter(team=name)):
        with pytest.raises(NotFound):
            usage.report([], 0, NOON, narrowed)
        with pytest.raises(NotFound):
            usage.export(0, NOON, narrowed)


def test_a_model_that_there_cannot_be_is_refused(usage: Usage) -> None:
    with pytest.raises(InvalidRequest, match="Invalid 'model'"):
        usage.report([], 0, NOON, Filter(model="a\0b"))
    assert everything(usage, Filter(model="'; DROP TABLE purchases;--")).calls == 0


# Export


def test_an_exported_row_holds_every_column(database: Database, usage: Usage, store: KeyStore) -> None:
    web = a_key(store, "web", "design")
    row = purchase(NOON + 0.25, key_id=web.id, team_id=web.team_id, tags=["a", "é"], image_out=4160)
    buy(database, row)
    (found,) = usage.export(0, NOON + DAY)
    assert tuple(found) == EXPORT_COLUMNS
    money = {"estimate_usd": Decimal("0.06"), "cost_usd": NICKEL}
    names = {"key": "web", "team": "design"}
    assert found == {**{n: v for n, v in row.items() if n not in ("estimate", "cost")}, **money, **names}


def test_every_purchase_is_exported_once_in_the_order_of_time(
    database: Database, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.usage._PAGE_ROWS", 4)
    rows = [purchase(NOON + number // 6 * 0.1) for number in range(21)]  # pages end among equals
    buy(database, *reversed(rows))
    assert [row["id"] for row in usage.export(0, NOON + DAY)] == [row["id"] for row in rows]
    assert [row["id"] for row in usage.export(NOON + 0.1, NOON + 0.3)] == [row["id"] for row in rows[6:18]]


def test_open_and_failed_purchases_are_exported_too_and_filters_hold(database: Database, usage: Usage) -> None:
    bought(database, outcome="open", closed_at=None, cost=None, estimate=None)
    bought(database, NOON + 1, outcome="released", cost=0)
    bought(database, NOON + 2, model="gpt-image-1")
    found = list(usage.export(0, NOON + DAY, Filter(model="gpt-image-2")))
    assert [(row["outcome"], row["cost_usd"]) for row in found] == [("open", None), ("released", 0)]


def test_an_export_reads_a_page_at_a_time_and_holds_no_transaction(
    database: Database, usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.usage._PAGE_ROWS", 10)
    buy(database, *(purchase(NOON + number) for number in range(100)))
    seen: list[str] = []
    event.listen(database._engine, "after_cursor_execute", lambda *happened: seen.append(happened[2]))
    rows = usage.export(0, NOON + DAY)
    next(rows)
    assert len([statement for statement in seen if "FROM purchases" in statement]) == 1
    bought(database, NOON + 50.5)  # would wait, and fail, for a transaction of the reader on some databases
    assert len(list(rows)) == 100


# Buckets


def buckets(**changes: Any) -> BucketQuery:
    return BucketQuery(**{"start": int(NOON), "end": int(NOON) + 2 * HOUR, "width_seconds": HOUR, **changes})


def filled(database: Database, store: KeyStore) -> KeyRecord:
    web = a_key(store, "web", "design")
    bought(database, NOON + 1, key_id=web.id, team_id=web.team_id, images=2)
    bought(database, NOON + HOUR, model="gpt-image-1", operation="image_edit", size="1536x1024", cost=1)
    bought(database, NOON + 2, outcome="unknown", images=0)
    bought(database, NOON + 3, cost=None)
    for outcome in ("released", "open"):
        bought(database, NOON + 4, outcome=outcome)
    bought(database, NOON + 2 * HOUR)
    tallied(database)
    return web


def shown(sums: Any) -> list[Mapping[str, Any]]:
    standard = dict.fromkeys(("project_id", "api_key_id", "model", "size", "operation")) | {"cost": 0}
    return [
        {name: value for name in each.__slots__ if (value := getattr(each, name)) != standard.get(name, 0)}
        for each in sums
    ]


def test_image_buckets_hold_what_models_were_asked_for(database: Database, usage: Usage, store: KeyStore) -> None:
    web = filled(database, store)
    noon, one = int(NOON), int(NOON) + HOUR
    assert sorted(shown(usage.image_buckets(buckets())), key=str) == [
        {"bucket": noon, "images": 3, "calls": 3},
        {"bucket": one, "images": 1, "calls": 1},
    ]
    grouped = usage.image_buckets(buckets(group_by=frozenset({"project_id", "api_key_id", "model", "size", "source"})))
    first, *_, last = sorted(grouped, key=lambda each: (each.bucket, each.api_key_id or "z"))
    assert (first.project_id, first.api_key_id, first.images) == (web.team_id, web.id, 2)
    assert (last.model, last.size, last.operation) == ("gpt-image-1", "1536x1024", "image_edit")


def test_cost_buckets_hold_what_is_known_to_be_spent(database: Database, usage: Usage, store: KeyStore) -> None:
    filled(database, store)
    day = {"width_seconds": DAY, "start": int(MIDNIGHT), "end": int(MIDNIGHT) + DAY}
    (total,) = usage.cost_buckets(buckets(**day))
    assert (total.bucket, total.cost) == (int(MIDNIGHT), 100_000_001)
    items = usage.cost_buckets(buckets(**day, group_by=frozenset({"line_item"})))
    assert {each.model: each.cost for each in items} == {"gpt-image-2": 100_000_000, "gpt-image-1": 1}
    assert usage.cost_buckets(buckets(start=int(NOON) + 3, end=int(NOON) + 4)) == []  # only what has no price


def test_buckets_are_narrowed(database: Database, usage: Usage, store: KeyStore) -> None:
    web = filled(database, store)

    def calls(**filters: Any) -> int:
        return sum(each.calls for each in usage.image_buckets(buckets(**filters)))

    assert calls() == 4
    assert calls(api_key_ids=(web.id,)) == calls(project_ids=(web.team_id,)) == 1
    assert calls(api_key_ids=("web",)) == 0  # by id, as with OpenAI
    assert calls(models=("gpt-image-1", "gpt-image-3")) == calls(sizes=("1536x1024",)) == 1
    assert calls(operations=("image_generation",)) == 3
    assert calls(operations=()) == calls(is_of_users=True) == calls(end=int(NOON)) == 0


def test_reading_changes_nothing(database: Database, usage: Usage, store: KeyStore) -> None:
    filled(database, store)

    def rows() -> list[Any]:
        with database.reading() as connection:
            return [connection.execute(select(table)).all() for table in (PURCHASES, TALLIES)]

    before = rows()
    usage.report(DIMENSIONS, 0, NOON + DAY)
    list(usage.export(0, NOON + DAY))
    usage.image_buckets(buckets())
    assert rows() == before
