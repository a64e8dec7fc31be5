"""The admin API on a running application: a key that it makes buys, and what it changes holds at once."""

from pathlib import Path

import pytest

from proxy.secret import Secret
from proxy.settings import AuthSection
from tests.support.counting import CountingUpstream
from tests.support.keyed import keyed_gate

pytestmark = pytest.mark.anyio

TOKEN = "an-admin-token-of-the-tests"
ADMIN = {"authorization": f"Bearer {TOKEN}"}


async def test_from_nothing_to_a_bill_over_http(tmp_path: Path, upstream: CountingUpstream) -> None:
    auth = AuthSection(mode="keys", admin_token=Secret(TOKEN))
    async with keyed_gate(tmp_path, upstream, auth=auth) as keyed:
        client = keyed.gate.client
        fields = {"key_alias": "alice", "team": "red", "max_budget": 0.5}
        made = (await client.post("/admin/v1/keys", json=fields, headers=ADMIN)).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        assert (await keyed.gate.ask(headers=headers)).status_code == 200
        assert (await keyed.gate.ask(headers=headers)).headers["x-imagegate-cache"] == "HIT"
        await keyed.gate.app.ledger.tend()
        [row] = (await client.get("/admin/v1/usage?by=key", headers=ADMIN)).json()["data"]
        assert (row["key"], row["calls"], row["hits"], row["cost_usd"]) == ("alice", 1, 1, 0.031735)
        shown = (await client.get("/admin/v1/keys/alice", headers=ADMIN)).json()
        assert (shown["spent_usd"], shown["reserved_usd"], shown["remaining_usd"]) == (0.031735, 0, 0.468265)
        since = {"start_time": int(keyed.gate.clock.wall()) - 3600}
        page = (await client.get("/v1/organization/usage/images", params=since, headers=ADMIN)).json()
        assert [r["images"] for bucket in page["data"] for r in bucket["results"]] == [1]
        costs = (await client.get("/v1/organization/costs", params=since, headers=ADMIN)).json()
        assert [r["amount"]["value"] for b in costs["data"] for r in b["results"]] == [pytest.approx(0.031735)]
        await client.patch(f"/admin/v1/keys/{made['id']}", json={"blocked": True}, headers=ADMIN)
        assert (await keyed.gate.ask(headers=headers)).status_code == 401
        actions = (await client.get("/admin/v1/audit", headers=ADMIN)).json()["data"]
        assert [each["action"] for each in actions] == ["update", "create", "create"]
        assert (await client.get("/admin/v1/keys", headers=headers)).status_code == 401
