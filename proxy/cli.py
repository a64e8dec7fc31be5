"""The command line: the commands' grammar, and `main`, which ends each in an exit code.

The law: 0 is done, 1 is failed or refused, 2 is wrong usage or configuration; what was asked for goes to standard
output, what went wrong to standard error in one line each; what a command does not need is not imported.
"""

import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from proxy import __version__
from proxy.auditcli import add_audit
from proxy.cachecli import add_cache
from proxy.command import DONE, FAILED, WRONG, Options, Parser, add_command, add_json, number, settings_of
from proxy.crosschecks import check_vendors
from proxy.description import describe, toml_of
from proxy.errors import ConfigurationError, ImagegateError
from proxy.keyscli import add_keys
from proxy.printing import complain, print_json, print_line
from proxy.teamscli import add_teams
from proxy.usagecli import add_usage
from proxy.validatecli import add_validate

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code. No expected error leaves a traceback."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(argv)
        code: int = options.run(options)
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else WRONG
    except ConfigurationError as error:
        return complain(WRONG, *error.problems)
    except ImagegateError as error:
        return complain(FAILED, error.message)
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter's last flush must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return complain(FAILED, str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser() -> ArgumentParser:
    parser = Parser(
        prog="imagegate",
        description="A caching reverse proxy for OpenAI's Images API.",
        epilog="example: imagegate serve --with-sandbox",
    )
    parser.add_argument("--version", action="version", version=f"imagegate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_sandbox(commands)
    check = add_command(commands, "check-config", _check_config, "print the resolved configuration, secrets masked")
    check.epilog = "example: imagegate check-config --config config/imagegate.toml"
    add_json(check)
    add_validate(commands)
    add_cache(commands)
    add_keys(commands)
    add_teams(commands)
    add_audit(commands)
    add_usage(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = add_command(commands, "serve", _serve, "run the proxy")
    serve.epilog = "example: imagegate serve --config config/imagegate.toml --port 8080"
    serve.add_argument("--host", help="listen on this address instead of server.host")
    serve.add_argument("--port", help="listen on this port instead of server.port")
    serve.add_argument(
        "--with-sandbox", action="store_true", help="start the sandbox too and buy from it: no key, no network"
    )


def _add_sandbox(commands: Any) -> None:
    sandbox = add_command(commands, "sandbox", _sandbox, "run the embedded upstream alone: it paints instead of buying")
    sandbox.epilog = "example: imagegate sandbox --port 8081 --latency 0.2 --failure-rate 0.1"
    options: Sequence[tuple[str, str, Callable[[str], Any], str, str]] = (
        ("--host", "host", str, "HOST", "address to listen on"),
        ("--port", "port", number(int, 0, 65_535), "PORT", "port to listen on; 0 takes a free one"),
        ("--vendor", "vendor", str, "VENDOR", "whose rules apply"),
        ("--latency", "latency_seconds", number(float, 0, 86_400), "SECONDS", "how long a call takes at least"),
        (
            "--jitter",
            "jitter_seconds",
            number(float, 0, 86_400),
            "SECONDS",
            "added to the latency at random, up to this",
        ),
        ("--failure-rate", "failure_rate", number(float, 0, 1), "P", "share of calls answered with 500, from 0 to 1"),
        (
            "--rate-limit-rate",
            "rate_limit_rate",
            number(float, 0, 1),
            "P",
            "share of calls answered with 429, from 0 to 1",
        ),
        ("--seed", "seed", number(int, 0, 2**63), "N", "makes jitter and rates repeatable"),
    )
    for flag, name, kind, metavar, help_line in options:
        sandbox.add_argument(flag, dest=name, type=kind, metavar=metavar, help=help_line)
    flags = (
        ("--require-key", "require_key", True, "answer 401 to a call without a key"),
        ("--answer-with-urls", "answer_with_urls", True, "answer with url instead of b64_json"),
        ("--no-usage", "report_usage", False, "leave usage out of replies"),
    )
    for flag, name, value, help_line in flags:
        sandbox.add_argument(flag, dest=name, action="store_const", const=value, help=help_line)


def _serve(options: Options) -> int:
    # What a start makes, it keeps: looking for garbage meanwhile costs 40 ms of 540. The server begins to, once it
    # listens.
    gc.disable()
    try:
        from proxy.server import serve

        return serve(partial(settings_of, options), with_sandbox=options.with_sandbox)
    finally:
        gc.enable()


def _sandbox(options: Options) -> int:
    settings = settings_of(options, "host", "port", needs_secrets=False)
    from proxy.sandbox import serve
    from proxy.sandbox.options import SandboxOptions

    chosen = {name: value for name, value in vars(options).items() if name in SandboxOptions.__slots__}
    given = {name: value for name, value in chosen.items() if value is not None}
    return serve(SandboxOptions(allow_previews=settings.rules.allow_previews, **given))


def _check_config(options: Options) -> int:
    from proxy import catalogue

    settings = settings_of(options)
    check_vendors(settings.upstreams, catalogue.load(settings.rules.catalogue).vendors)
    if options.json:
        print_json({"file": str(settings.file) if settings.file else None, **describe(settings)})
    else:
        print_line(f"# {settings.file or 'no file: the defaults and the environment'}\n")
        print_line(toml_of(settings).rstrip("\n"))
    return DONE
