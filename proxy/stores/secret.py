"""The secret that separates credentials and signs image addresses: the operator's, or one of our own making."""

import os
import secrets
import stat
from pathlib import Path

from proxy.errors import ConfigurationError
from proxy.settings import CacheSection
from proxy.stores.files import PrivateFile, make_private_directory

FILENAME = "secret"
SECRET_BYTES = 32


def cache_secret(settings: CacheSection) -> bytes:
    """`cache.secret`, else the contents of the file `secret` in the cache directory, created when it is missing.

    Where none can be created (a read-only disk) the secret lasts as long as the process: nothing can be stored there
    either. Raises ConfigurationError for a file that others may read, or that is not what was written.
    """
    if settings.secret is not None:
        return settings.secret.reveal().encode()
    path = settings.directory / FILENAME
    try:
        if not os.path.lexists(path):
            _create(path)
    except OSError:
        return secrets.token_bytes(SECRET_BYTES)
    return _read(path)


def _create(path: Path) -> None:
    """Written whole under another name first: of several processes that start at once, one wins, and all read the same."""
    make_private_directory(path.parent)
    file = PrivateFile(path.with_name(f"{FILENAME}.{secrets.token_hex(8)}"))
    try:
        os.write(file.fd, secrets.token_bytes(SECRET_BYTES))
        os.fsync(file.fd)
        try:
            os.link(file.path, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links: of two that start at once, the later wins, and the earlier learns it at its
            # next start.
            file.path.rename(path)
    finally:
        file.remove()


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError([f"cache.secret: {path} cannot be read: {error.strerror}"]) from error
    try:
        found = os.fstat(fd)
        content = os.read(fd, SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigurationError([f"cache.secret: {path} cannot be read: {error.strerror}"]) from error
    finally:
        os.close(fd)
    if not stat.S_ISREG(found.st_mode) or len(content) != SECRET_BYTES:
        raise ConfigurationError(
            [f"cache.secret: {path} is not a file of {SECRET_BYTES} bytes; restore it, or remove it to get a new one"]
        )
    if found.st_mode & 0o077:
        raise ConfigurationError([f"cache.secret: {path} may be read by others; run: chmod 600 {path}"])
    return content
