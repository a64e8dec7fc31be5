"""What every command has: an exit code, its options, and the configuration it runs under."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from proxy.configuration import PREFIX, environment, load
from proxy.errors import ConfigurationError
from proxy.settings import Settings

DONE, FAILED, WRONG = 0, 1, 2

Options = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no option by its first letters."""

    def __init__(self, **settings: Any) -> None:
        # Raw: an example that is wrapped cannot be copied.
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(commands: Any, name: str, run: Callable[[Options], int], help_line: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=help_line[0].upper() + help_line[1:] + "."
    )
    added.add_argument("--config", metavar="FILE", help="the configuration (default: $IMAGEGATE_CONFIG, else none)")
    added.set_defaults(run=run)
    return added


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def number(kind: type[int] | type[float], least: int, most: int) -> Callable[[str], float]:
    """A reader of numbers in a range; whole ones, or any."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a {'whole ' * (kind is int)}number from {least} to {most}")
        return value

    return read


def settings_of(options: Options, *own: str, needs_secrets: bool = True) -> Settings:
    """The configuration with `--host` and `--port` over it, unless the command keeps them for its `own`.

    Commands that do not serve need no secrets.
    """
    environ = dict(environment())
    named = options.config or environ.get(PREFIX + "CONFIG")
    flags = {}
    for name in ("host", "port"):
        value = None if name in own else getattr(options, name, None)
        if value is not None:
            flags[f"{PREFIX}SERVER__{name.upper()}"] = f"--{name}"
            environ[f"{PREFIX}SERVER__{name.upper()}"] = str(value)
    try:
        return load(Path(named) if named else None, environ, needs_secrets=needs_secrets)
    except ConfigurationError as error:
        problems = list(error.problems)
        for variable, flag in flags.items():
            problems = [problem.replace(f"(from {variable})", f"(from {flag})") for problem in problems]
        raise ConfigurationError(problems) from error
