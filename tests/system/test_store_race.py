"""Two processes at the same entry: one publishes a reply while another opens an index that is still empty."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PosixPath

from proxy.clock import SystemClock
from proxy.envelope import MAGIC
from proxy.errors import StoreError
from proxy.stores.directory import CacheDirectory
from proxy.stores.disk import DiskTier, Verdict
from proxy.stores.eviction import Limits
from proxy.stores.files import PrivateFile, write_all
from proxy.stores.purges import PurgeLog
from tests.support.store import body_of, key, metadata


def _tier(directory: Path, executor: ThreadPoolExecutor, busy_timeout_seconds: float = 5.0) -> DiskTier:
    limits = Limits(10**9, 0, busy_timeout_seconds)
    return DiskTier(directory, limits, SystemClock(), PurgeLog(directory), executor, lambda reason, count: None)


class SeenAtOnce(PosixPath):
    """A spool's path: as soon as its file has an entry's name, another process opens the directory and finds it."""

    def rename(self, target: object) -> "SeenAtOnce":
        renamed = super().rename(str(target))
        with ThreadPoolExecutor(1) as executor:
            successor = _tier(self.parents[1], executor, busy_timeout_seconds=0.05)
            with suppress(StoreError):
                # The publisher may hold the index; then the successor tries again later, as `tend` does.
                successor.open()
            successor.close()
        return renamed


def test_an_entry_that_is_seen_while_it_is_published_keeps_its_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        tier = _tier(tmp_path, executor)
        tier.open()
        file = PrivateFile(SeenAtOnce(tmp_path / "tmp" / "one.spool"))
        write_all(file.fd, MAGIC + body_of(1), 0)
        now = SystemClock().wall()
        stored = metadata(1, stored_at=now, expires_at=now + 1000)
        assert tier.put(file, stored, len(body_of(1)), 0) is Verdict.STORED
        file.remove()
        successor = _tier(tmp_path, executor)
        successor.open()
        for process in (tier, successor):
            found = process.find(key(1))
            assert found is not None
            assert process.load(found, None).key == key(1)
            process.close()
        report = CacheDirectory(tmp_path).verify()
        assert (report.sound, report.passed, report.orphans) == (1, True, ())
