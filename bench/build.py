"""Compiles the two C programs of the bench, the upstream and the load, when a source of theirs is newer than they are."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.system import Skipped

SOURCES = Path(__file__).parent
FOLDER = SOURCES / "build"
OPTIONS = ("-O2",)
STRICT = ("-std=c11", "-Wall", "-Wextra")
NO_COMPILER = "no C compiler: apt-get install gcc libc6-dev"
COMPILE_SECONDS = 120


@dataclass(frozen=True)
class Programs:
    """Where the two executables are."""

    upstream: Path
    load: Path


def build(folder: Path = FOLDER, options: Sequence[str] = OPTIONS) -> Programs:
    """Raises Skipped where there is no compiler; RuntimeError, with what the compiler says, where it refuses a source."""
    folder.mkdir(parents=True, exist_ok=True)
    return Programs(_program("upstream", folder, options), _program("load", folder, options))


def _program(name: str, folder: Path, options: Sequence[str]) -> Path:
    source, program = SOURCES / f"{name}.c", folder / name
    # Every header counts for both: there is one, and both include it.
    newest_ns = max(each.stat().st_mtime_ns for each in (source, *SOURCES.glob("*.h")))
    if not program.exists() or program.stat().st_mtime_ns < newest_ns:
        _compile(source, program, options)
    return program


def _compile(source: Path, program: Path, options: Sequence[str]) -> None:
    """Published by rename, for others may compile or start the same program at this moment."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Skipped(NO_COMPILER)
    unfinished = program.with_name(f"{program.name}.{os.getpid()}")
    command = [compiler, *options, *STRICT, "-o", str(unfinished), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
        if done.returncode:
            raise Skipped(NO_COMPILER) if _lacks_headers(done.stderr) else RuntimeError(done.stderr)
        unfinished.replace(program)
    finally:
        unfinished.unlink(missing_ok=True)


def _lacks_headers(complaint: str) -> bool:
    """A compiler without the C library's headers, or without what it links with, is as good as none."""
    return "No such file or directory" in complaint or "cannot find" in complaint
