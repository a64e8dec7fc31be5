"""Two processes at the same entry: one publishes a reply while another opens an index that is still empty."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath

import pytest

from proxy.clock import SystemClock
from proxy.envelope import MAGIC
from proxy.stores.disk import DiskTier, Verdict
from proxy.stores.eviction import Limits
from proxy.stores.files import PrivateFile, write_all
from proxy.stores.purges import PurgeLog
from tests.support.store import body_of, key, metadata


def _tier(directory: Path, executor: ThreadPoolExecutor) -> DiskTier:
    limits = Limits(10**9, 0)
    return DiskTier(directory, limits, SystemClock(), PurgeLog(directory), executor, lambda reason, count: None)


class SeenAtOnce(PosixPath):
    """A spool's path: as soon as its file has an entry's name, another process opens the directory and finds it."""

    def rename(self, target: object) -> "SeenAtOnce":
        renamed = super().rename(str(target))
        with ThreadPoolExecutor(1) as executor:
            successor = _tier(self.parents[1], executor)
            successor.open()
            successor.close()
        return renamed


@pytest.mark.xfail(
    strict=True,
    reason="DiskTier._publish unlinks the file of the row it replaces, which is its own when it was adopted meanwhile",
)
def test_an_entry_that_is_adopted_while_it_is_published_keeps_its_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        tier = _tier(tmp_path, executor)
        tier.open()
        file = PrivateFile(SeenAtOnce(tmp_path / "tmp" / "one.spool"))
        write_all(file.fd, MAGIC + body_of(1), 0)
        now = SystemClock().wall()
        stored = metadata(1, stored_at=now, expires_at=now + 1000)
        assert tier.put(file, stored, len(body_of(1)), 0) is Verdict.STORED
        found = tier.find(key(1))
        assert found is not None
        assert tier.load(found, None).key == key(1)
        tier.close()
        file.remove()
