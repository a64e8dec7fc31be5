"""The command line: one function for each command, each ending in an exit code.

The law: 0 is done, 1 is failed or refused, 2 is wrong usage or configuration; what was asked for goes to standard
output, what went wrong to standard error in one line each; what a command does not need is not imported.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from proxy import __version__
from proxy.clock import SystemClock
from proxy.errors import ConfigurationError, ImagegateError, PayloadTooLarge, RequestError, StoreError
from proxy.settings import PREFIX, Settings, environment, load, parse_seconds

if TYPE_CHECKING:
    from proxy.model import ImageRequest, Metadata
    from proxy.stores.directory import CacheDirectory
    from proxy.stores.purges import Purge

DONE, FAILED, WRONG = 0, 1, 2
_INTERRUPTED = 130
_KEY_DIGITS, _SHORT_KEY = 64, 12
"""Hexadecimal digits of a key, and how many of them people are shown, as in `X-Imagegate-Cache-Key`."""

Options = argparse.Namespace


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
        return _complain(WRONG, *error.problems)
    except ImagegateError as error:
        return _complain(FAILED, error.message)
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter's last flush must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(FAILED, str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _complain(code: int, *lines: str) -> int:
    for line in lines:
        print("imagegate: " + " ".join(line.splitlines()), file=sys.stderr)
    return code


# --- serve, sandbox, check-config -------------------------------------------------------------------------------------


def _serve(options: Options) -> int:
    settings = _settings(options)
    from proxy.server import serve

    return serve(settings, with_sandbox=options.with_sandbox)


def _sandbox(options: Options) -> int:
    settings = _settings(options, "host", "port")
    from proxy.sandbox import serve
    from proxy.sandbox.options import SandboxOptions

    chosen = {name: value for name, value in vars(options).items() if name in SandboxOptions.__slots__}
    given = {name: value for name, value in chosen.items() if value is not None}
    return serve(SandboxOptions(allow_previews=settings.rules.allow_previews, **given))


def _check_config(options: Options) -> int:
    from proxy import catalogue

    settings = _settings(options)
    vendors = catalogue.load(settings.rules.catalogue).vendors
    strangers = [
        f"upstreams.{index}.vendor: {upstream.vendor!r} is not in the catalogue ({', '.join(vendors)})"
        for index, upstream in enumerate(settings.upstreams)
        if upstream.vendor not in vendors
    ]
    if strangers:
        raise ConfigurationError(strangers)
    if options.json:
        _print_json({"file": str(settings.file) if settings.file else None, **settings.describe()})
    else:
        print(f"# {settings.file or 'no file: the defaults and the environment'}\n\n{settings.toml()}", end="")
    return DONE


def _settings(options: Options, *own: str) -> Settings:
    """The configuration with `--host` and `--port` over it, unless the command keeps them for its `own`."""
    environ = dict(environment())
    named = options.config or environ.get(PREFIX + "CONFIG")
    flags = {}
    for name in ("host", "port"):
        value = None if name in own else getattr(options, name, None)
        if value is not None:
            flags[f"{PREFIX}SERVER__{name.upper()}"] = f"--{name}"
            environ[f"{PREFIX}SERVER__{name.upper()}"] = str(value)
    try:
        return load(Path(named) if named else None, environ)
    except ConfigurationError as error:
        problems = list(error.problems)
        for variable, flag in flags.items():
            problems = [problem.replace(f"(from {variable})", f"(from {flag})") for problem in problems]
        raise ConfigurationError(problems) from error


# --- validate ---------------------------------------------------------------------------------------------------------


def _validate(options: Options) -> int:
    settings = _settings(options)
    try:
        request = _believe(_body(options.file, settings.server.max_json_bytes), settings, options.vendor)
    except RequestError as error:
        _print_json(error.body())
        return _complain(FAILED, f"refused with {error.status}: {error.message}")
    found = _findings(request)
    if options.json:
        _print_json(found)
        return DONE
    unknown = "unknown"
    output, cost = found["estimated_output_tokens"], found["estimated_cost_usd"]
    lines = {
        "model": f"{request.model} at {request.vendor}" + ("" if request.known else ", not in the catalogue"),
        "request": request.canonical.decode(),
        "tokens": unknown
        if output is None
        else f"about {output:,} out, at most {found['estimated_input_tokens']:,} in",
        "price": unknown if cost is None else f"about ${cost}",
        "adjusted": "; ".join(request.adjusted),
        "let through": "; ".join(f"{param} ({code})" for param, code in request.violations),
    }
    _print_pairs({name: line for name, line in lines.items() if line})
    return DONE


def _believe(body: bytes, settings: Settings, vendor: str | None) -> "ImageRequest":
    """The request as the upstream that would serve it judges it. Raises RequestError."""
    from proxy import catalogue, strictjson, validation
    from proxy.model import Operation
    from proxy.routing import eligible

    validator = validation.Validator(catalogue.load(settings.rules.catalogue), settings.rules)
    vendors = validator.catalogue.vendors
    if vendor and vendor not in vendors:
        raise ConfigurationError([f"--vendor: {vendor!r} is not in the catalogue ({', '.join(vendors)})"])
    document = strictjson.parse_object(body)
    serving = eligible(settings.upstreams, validator.model_of(document)) or settings.upstreams
    return validator.validate(document, Operation.GENERATION, vendor or serving[0].vendor)


def _body(file: str, most: int) -> bytes:
    if file == "-":
        body = sys.stdin.buffer.read(most + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                body = opened.read(most + 1)
        except OSError as error:
            raise ConfigurationError([f"{file}: cannot be read: {error.strerror}"]) from error
    if len(body) > most:
        raise PayloadTooLarge(f"The request body is larger than server.max_json_bytes ({most} bytes).")
    return body


def _findings(request: "ImageRequest") -> dict[str, Any]:
    """In the words of a dry run (`X-Imagegate-Dry-Run`)."""
    usage, price = request.estimate, request.price
    cost = price.cost(usage, request.n) if price is not None and usage is not None else None
    return {
        "vendor": request.vendor,
        "model": request.model,
        "known": request.known,
        "request": json.loads(request.canonical),
        "estimated_input_tokens": usage.text_in + usage.image_in if usage else None,
        "estimated_output_tokens": usage.text_out + usage.image_out if usage else None,
        "estimated_cost_usd": None if cost is None else _dollars(cost),
        "adjusted": list(request.adjusted),
        "violations": [{"param": param, "code": code} for param, code in request.violations],
    }


def _dollars(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- cache ------------------------------------------------------------------------------------------------------------


def _cache_stats(options: Options) -> int:
    _print_found(_directory(options).stats(), options)
    return DONE


def _cache_list(options: Options) -> int:
    # Of a key, people have the digits that the last list showed.
    after = options.after.ljust(_KEY_DIGITS, "f") if options.after else ""
    found = _directory(options).entries(options.limit, after)
    if options.json:
        _print_json([_entry(metadata, size) for metadata, size in found])
        return DONE
    rows = [
        (
            metadata.key[:_SHORT_KEY],
            metadata.model,
            metadata.size,
            metadata.quality,
            str(len(metadata.images)),
            _amount(size),
            _moment(metadata.stored_at),
            _moment(metadata.expires_at),
        )
        for metadata, size in found
    ]
    _print_table(("KEY", "MODEL", "SIZE", "QUALITY", "IMAGES", "BYTES", "STORED", "EXPIRES"), rows)
    return DONE


def _cache_show(options: Options) -> int:
    metadata, size = _directory(options).show(options.key)
    _print_found({**_entry(metadata, size), "request": dict(metadata.request)}, options)
    return DONE


def _cache_purge(options: Options) -> int:
    removed = _directory(options).purge(_purge(options))
    if options.json:
        _print_json({"removed": removed})
    else:
        print(f"removed {removed:,} {'entry' if removed == 1 else 'entries'}")
    return DONE


def _purge(options: Options) -> "Purge":
    from proxy.stores.purges import Purge

    now = SystemClock().wall()
    if options.older_than is not None:
        return Purge("older_than", now, before=now - options.older_than)
    if options.key is not None:
        return Purge("key", now, options.key)
    if options.model is not None:
        return Purge("model", now, options.model)
    if options.scope is not None:
        return Purge("scope", now, options.scope)
    return Purge("all", now)


def _cache_verify(options: Options) -> int:
    report = _directory(options).verify(delete=options.delete)
    faults = {"damaged": report.damaged, "missing": report.missing, "orphans": report.orphans}
    if options.json:
        _print_json({"sound": report.sound, **{name: list(found) for name, found in faults.items()}})
    else:
        _print_pairs({"sound": f"{report.sound:,}", **{name: f"{len(found):,}" for name, found in faults.items()}})
        for name, found in faults.items():
            for one in found:
                print(f"{name}: {_printable(one)}")
    return DONE if report.passed else FAILED


def _directory(options: Options) -> "CacheDirectory":
    path = _settings(options).cache.directory
    from proxy.stores.directory import CacheDirectory
    from proxy.stores.index import DATABASE

    if not (path / DATABASE).is_file():
        # Looking must not create one.
        raise StoreError(f"there is no cache at {path}")
    return CacheDirectory(path)


def _entry(metadata: "Metadata", size: int) -> dict[str, Any]:
    """What is known of an entry, but for its request: a list of entries shows no prompts."""
    usage = metadata.usage
    return {
        "key": metadata.key,
        "scope": metadata.scope,
        "model": metadata.model,
        "size": metadata.size,
        "quality": metadata.quality,
        "images": len(metadata.images),
        "bytes": size,
        "tokens": usage.total if usage else None,
        "cost_usd": None if metadata.cost is None else _dollars(metadata.cost),
        "upstream": metadata.upstream,
        "cache_group": metadata.cache_group,
        "purchase_id": metadata.purchase_id,
        "upstream_request_id": metadata.upstream_request_id,
        "stored_at": metadata.stored_at,
        "expires_at": metadata.expires_at,
    }


# --- printing ---------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_found(found: Mapping[str, Any], options: Options) -> None:
    """As JSON, or for people: sizes in MB, times in UTC."""
    if options.json:
        _print_json(found)
        return
    shown = {name: value for name, value in found.items() if value is not None}
    _print_pairs({name.removesuffix("_at").replace("_", " "): _shown(name, value) for name, value in shown.items()})


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return _amount(value)
    if name.endswith("_at"):
        return _moment(value)
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)


def _print_pairs(pairs: Mapping[str, str]) -> None:
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {_printable(value)}")


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """Names come from callers: no terminal is to obey them."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _amount(size: int) -> str:
    """Bytes to be read by people: `3.1 MB`, with MB = 10⁶."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _moment(seconds: float) -> str:
    """A wall-clock time in UTC; what lies outside the calendar is shown as a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


# --- the grammar ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no option by its first letters."""

    def __init__(self, **settings: Any) -> None:
        # Raw: an example that is wrapped cannot be copied.
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="imagegate",
        description="A caching reverse proxy for OpenAI's Images API.",
        epilog="example: imagegate serve --with-sandbox",
    )
    parser.add_argument("--version", action="version", version=f"imagegate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_sandbox(commands)
    check = _command(commands, "check-config", _check_config, "print the resolved configuration, secrets masked")
    check.epilog = "example: imagegate check-config --config config/imagegate.toml"
    _add_json(check)
    validate = _command(commands, "validate", _validate, "judge a request body as the model would, without sending it")
    validate.epilog = """example: echo '{"model": "gpt-image-2", "prompt": "a fox"}' | imagegate validate -"""
    validate.add_argument("file", nargs="?", default="-", metavar="FILE", help="the JSON body; - is standard input")
    validate.add_argument("--vendor", help="whose rules apply (default: those of the upstream that would serve it)")
    _add_json(validate)
    _add_cache(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[Options], int], help_line: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=help_line[0].upper() + help_line[1:] + "."
    )
    added.add_argument("--config", metavar="FILE", help="the configuration (default: $IMAGEGATE_CONFIG, else none)")
    added.set_defaults(run=run)
    return added


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_serve(commands: Any) -> None:
    serve = _command(commands, "serve", _serve, "run the proxy")
    serve.epilog = "example: imagegate serve --config config/imagegate.toml --port 8080"
    serve.add_argument("--host", help="listen on this address instead of server.host")
    serve.add_argument("--port", help="listen on this port instead of server.port")
    serve.add_argument(
        "--with-sandbox", action="store_true", help="start the sandbox too and buy from it: no key, no network"
    )


def _add_sandbox(commands: Any) -> None:
    sandbox = _command(commands, "sandbox", _sandbox, "run the embedded upstream alone: it paints instead of buying")
    sandbox.epilog = "example: imagegate sandbox --port 8081 --latency 0.2 --failure-rate 0.1"
    options: Sequence[tuple[str, str, Callable[[str], Any], str, str]] = (
        ("--host", "host", str, "HOST", "address to listen on"),
        ("--port", "port", _number(int, 0, 65_535), "PORT", "port to listen on; 0 takes a free one"),
        ("--vendor", "vendor", str, "VENDOR", "whose rules apply"),
        ("--latency", "latency_seconds", _number(float, 0, 86_400), "SECONDS", "how long a call takes at least"),
        (
            "--jitter",
            "jitter_seconds",
            _number(float, 0, 86_400),
            "SECONDS",
            "added to the latency at random, up to this",
        ),
        ("--failure-rate", "failure_rate", _number(float, 0, 1), "P", "share of calls answered with 500, from 0 to 1"),
        (
            "--rate-limit-rate",
            "rate_limit_rate",
            _number(float, 0, 1),
            "P",
            "share of calls answered with 429, from 0 to 1",
        ),
        ("--seed", "seed", _number(int, 0, 2**63), "N", "makes jitter and rates repeatable"),
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


def _add_cache(commands: Any) -> None:
    help_line = "look into the store, or purge it; offline or beside a running proxy"
    cache = commands.add_parser("cache", help=help_line)
    cache.description = help_line[0].upper() + help_line[1:] + "."
    cache.epilog = "example: imagegate cache purge --older-than 7d"
    actions = cache.add_subparsers(title="actions", metavar="ACTION", required=True)
    stats = _command(actions, "stats", _cache_stats, "count entries and bytes")
    stats.epilog = "example: imagegate cache stats --json"
    listing = _command(actions, "list", _cache_list, "list entries in the order of their keys, without their prompts")
    listing.epilog = "example: imagegate cache list --limit 20"
    listing.add_argument(
        "--limit", type=_number(int, 1, 10**9), default=100, metavar="N", help="at most so many (default: 100)"
    )
    listing.add_argument("--after", type=_hex, metavar="KEY", help="go on behind this key")
    show = _command(actions, "show", _cache_show, "show one entry with the request that bought it, prompt included")
    show.epilog = "example: imagegate cache show 3f9a0c1d2e4b"
    show.add_argument(
        "key", type=_hex, metavar="KEY", help="a key or its first digits, as X-Imagegate-Cache-Key has them"
    )
    purge = _command(actions, "purge", _cache_purge, "remove entries, without asking; running proxies obey within 1 s")
    purge.epilog = "example: imagegate cache purge --model gpt-image-1"
    which = purge.add_mutually_exclusive_group(required=True)
    which.add_argument("--key", type=_hex, metavar="HEX", help="the entry with this key, or these first digits")
    which.add_argument("--model", metavar="M", help="the entries of a model")
    which.add_argument("--scope", metavar="S", help="the entries of a scope, as `cache show` names it")
    which.add_argument(
        "--older-than", type=_ago, metavar="AGE", help="the entries stored longer ago, such as 7d or 12h"
    )
    which.add_argument("--all", action="store_true", help="every entry")
    verify = _command(actions, "verify", _cache_verify, "read every entry and check its digest")
    verify.epilog = "example: imagegate cache verify --delete"
    verify.add_argument("--delete", action="store_true", help="remove what is damaged or has no file")
    for action in (stats, listing, show, purge, verify):
        _add_json(action)


def _number(kind: type[int] | type[float], least: int, most: int) -> Callable[[str], float]:
    """A reader of numbers in a range; whole ones, or any."""

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a {'whole ' * (kind is int)}number from {least} to {most}")
        return number

    return read


def _ago(text: str) -> int:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _hex(text: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8,64}", text) is None:
        raise argparse.ArgumentTypeError("must be 8 to 64 hexadecimal digits")
    return text.lower()
