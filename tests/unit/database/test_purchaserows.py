"""The rows of purchases as statements: what only the database's own files show of them."""

from pathlib import Path

from proxy.database import keyrows, purchaserows
from proxy.database.engine import Database


def test_a_probe_writes_to_the_disk_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/imagegate.db")
    database.open()
    log = tmp_path / "imagegate.db-wal"
    before = log.stat().st_size
    with database.writing() as connection:
        revision = keyrows.revision(connection)
        purchaserows.probe(connection)
        assert keyrows.revision(connection) == revision
    assert log.stat().st_size > before, "on a full disk it has to fail"
    database.close()
