"""The schema: what the steps make is what the tables say, two at once both succeed, and the future is not touched."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import proxy.database.migrations
from proxy.database import schema
from proxy.database.engine import Database
from proxy.database.tables import METADATA
from proxy.errors import ConfigurationError, DatabaseUnavailable, StatementRefused

pytest_plugins = ["tests.support.databases"]
ROOT = Path(__file__).parents[3]


def in_fresh_processes(program: str, url: str, count: int) -> Sequence[tuple[int, str]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(count)
    ]
    spoken = [each.communicate(timeout=60)[0] for each in started]
    return [(each.returncode, said) for each, said in zip(started, spoken, strict=True)]


def test_the_steps_make_what_the_tables_say(database: Database) -> None:
    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return not (kind == "table" and name == "schema_version")

    with database.reading() as connection:
        options = {"compare_type": True, "include_name": is_ours}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []


def test_the_newest_step_is_the_one_that_the_code_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(proxy.database.migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    steps = ScriptDirectory.from_config(config)
    assert steps.get_current_head() == schema.HEAD
    assert all(step.revision.isdecimal() and len(step.revision) == 4 for step in steps.walk_revisions())


def test_opening_twice_is_no_matter(empty_url: str) -> None:
    for _ in range(2):
        database = Database(empty_url)
        database.open()
        database.check()
        database.close()


def test_threads_that_open_at_once_all_succeed(empty_url: str) -> None:
    databases = [Database(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(Database.open, databases))
    for database in databases:
        database.check()
        database.close()


def test_processes_that_open_at_once_all_succeed(empty_url: str) -> None:
    program = "import sys; from proxy.database.engine import Database; d = Database(sys.argv[1]); d.open(); d.check()"
    assert in_fresh_processes(program, empty_url, 3) == [(0, "")] * 3


def test_alembic_is_imported_only_when_there_is_something_to_do(empty_url: str) -> None:
    program = (
        "import sys; from proxy.database.engine import Database; Database(sys.argv[1]).open();"
        " print('alembic' in sys.modules)"
    )
    assert in_fresh_processes(program, empty_url, 1) == [(0, "True\n")]
    assert in_fresh_processes(program, empty_url, 1) == [(0, "False\n")]


def test_the_package_itself_and_what_is_pure_import_no_sqlalchemy() -> None:
    program = (
        "import sys, proxy.database, proxy.keyrecord, proxy.keyfields, proxy.virtualkey, proxy.period;"
        " print('sqlalchemy' in sys.modules)"
    )
    assert in_fresh_processes(program, "", 1) == [(0, "False\n")]


@pytest.mark.parametrize("version", ["0003", "9999", "4f3a"])
def test_a_database_from_the_future_is_refused_and_left_alone(database: Database, version: str) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE schema_version SET version_num = :version"), {"version": version})
    with pytest.raises(ConfigurationError, match=f"newer imagegate .schema {version}"):
        database.open()
    with database.reading() as connection:
        assert connection.execute(text("SELECT version_num FROM schema_version")).scalar() == version


def test_a_failed_step_leaves_nothing_behind(empty_url: str) -> None:
    database = Database(empty_url)
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).touch()
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE audit (id INTEGER)"))  # the last that the first step makes
    with pytest.raises((DatabaseUnavailable, StatementRefused)) as caught:
        database.open()
    assert "audit" in vars(caught.value)["reason"]
    with database.writing() as connection:
        connection.execute(text("DROP TABLE audit"))
    database.open()
    database.check()
    database.close()
