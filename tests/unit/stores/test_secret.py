"""The secret is the operator's, or made once and read by all."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError
from proxy.secret import Secret
from proxy.stores.secret import cache_secret
from tests.support.store import section


def test_the_operators_own_is_taken_and_no_file_is_made(tmp_path: Path) -> None:
    assert cache_secret(section(tmp_path, secret=Secret("shared"))) == b"shared"
    assert list(tmp_path.iterdir()) == []


def test_one_is_made_once_and_kept_private(tmp_path: Path) -> None:
    made = cache_secret(section(tmp_path / "new" / "cache"))
    assert len(made) == 32 and len(set(made)) > 8
    assert cache_secret(section(tmp_path / "new" / "cache")) == made
    (file,) = (tmp_path / "new" / "cache").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_all_who_start_at_once_read_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        found = set(executor.map(lambda _: cache_secret(section(tmp_path)), range(50)))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    (tmp_path / "secret").chmod(0o600)
    with pytest.raises(ConfigurationError, match="not a file of 32 bytes"):
        cache_secret(section(tmp_path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    cache_secret(section(tmp_path))
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        cache_secret(section(tmp_path))


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        cache_secret(section(tmp_path))


def test_where_none_can_be_made_one_serves_for_the_life_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert len(cache_secret(section(tmp_path / "cache"))) == 32
