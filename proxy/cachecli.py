"""`imagegate cache …`: looks into the store, or purges it; offline or beside a running proxy."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from proxy.clock import SystemClock
from proxy.command import DONE, FAILED, Options, add_command, add_json, number, settings_of
from proxy.errors import StoreError
from proxy.printing import amount, moment, print_found, print_json, print_line, print_pairs, print_table, printable
from proxy.quantities import parse_seconds

if TYPE_CHECKING:
    from proxy.stores.directory import CacheDirectory
    from proxy.stores.purges import Purge

_KEY_DIGITS, _SHORT_KEY = 64, 12
"""Hexadecimal digits of a key, and how many of them people are shown, as in `X-Imagegate-Cache-Key`."""


def add_cache(commands: Any) -> None:
    help_line = "look into the store, or purge it; offline or beside a running proxy"
    cache = commands.add_parser("cache", help=help_line)
    cache.description = help_line[0].upper() + help_line[1:] + "."
    cache.epilog = "example: imagegate cache purge --older-than 7d"
    actions = cache.add_subparsers(title="actions", metavar="ACTION", required=True)
    stats = add_command(actions, "stats", _cache_stats, "count entries and bytes")
    stats.epilog = "example: imagegate cache stats --json"
    listing = add_command(
        actions, "list", _cache_list, "list entries in the order of their keys, without their prompts"
    )
    listing.epilog = "example: imagegate cache list --limit 20"
    listing.add_argument(
        "--limit", type=number(int, 1, 10**9), default=100, metavar="N", help="at most so many (default: 100)"
    )
    listing.add_argument("--after", type=_hex, metavar="KEY", help="go on behind this key")
    show = add_command(actions, "show", _cache_show, "show one entry with the request that bought it, prompt included")
    show.epilog = "example: imagegate cache show 3f9a0c1d2e4b"
    show.add_argument(
        "key", type=_hex, metavar="KEY", help="a key or its first digits, as X-Imagegate-Cache-Key has them"
    )
    purge = add_command(
        actions, "purge", _cache_purge, "remove entries, without asking; running proxies obey within 1 s"
    )
    purge.epilog = "example: imagegate cache purge --model gpt-image-1"
    which = purge.add_mutually_exclusive_group(required=True)
    which.add_argument("--key", type=_hex, metavar="HEX", help="the entry with this key, or these first digits")
    which.add_argument("--model", metavar="M", help="the entries of a model")
    which.add_argument("--scope", metavar="S", help="the entries of a scope, as `cache show` names it")
    which.add_argument(
        "--older-than", type=_ago, metavar="AGE", help="the entries stored longer ago, such as 7d or 12h"
    )
    which.add_argument("--all", action="store_true", help="every entry")
    verify = add_command(actions, "verify", _cache_verify, "read every entry and check its digest")
    verify.epilog = "example: imagegate cache verify --delete"
    verify.add_argument("--delete", action="store_true", help="remove what is damaged or has no file")
    for action in (stats, listing, show, purge, verify):
        add_json(action)


def _ago(text: str) -> int:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _hex(text: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8,64}", text) is None:
        raise argparse.ArgumentTypeError("must be 8 to 64 hexadecimal digits")
    return text.lower()


def _cache_stats(options: Options) -> int:
    print_found(_directory(options).stats(), as_json=options.json)
    return DONE


def _cache_list(options: Options) -> int:
    # Of a key, people have the digits that the last list showed.
    after = options.after.ljust(_KEY_DIGITS, "f") if options.after else ""
    found = _directory(options).entries(options.limit, after)
    if options.json:
        from proxy.stores.directory import described

        print_json([described(metadata, size) for metadata, size in found])
        return DONE
    rows = [
        (
            metadata.key[:_SHORT_KEY],
            metadata.model,
            metadata.size,
            metadata.quality,
            str(len(metadata.images)),
            amount(size),
            moment(metadata.stored_at),
            moment(metadata.expires_at),
        )
        for metadata, size in found
    ]
    print_table(("KEY", "MODEL", "SIZE", "QUALITY", "IMAGES", "BYTES", "STORED", "EXPIRES"), rows)
    return DONE


def _cache_show(options: Options) -> int:
    metadata, size = _directory(options).show(options.key)
    from proxy.stores.directory import described

    print_found({**described(metadata, size), "request": dict(metadata.request)}, as_json=options.json)
    return DONE


def _cache_purge(options: Options) -> int:
    removed = _directory(options).purge(_purge(options))
    if options.json:
        print_json({"removed": removed})
    else:
        print_line(f"removed {removed:,} {'entry' if removed == 1 else 'entries'}")
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
        print_json({"sound": report.sound, **{name: list(found) for name, found in faults.items()}})
    else:
        print_pairs({"sound": f"{report.sound:,}", **{name: f"{len(found):,}" for name, found in faults.items()}})
        for name, found in faults.items():
            for one in found:
                print_line(f"{name}: {printable(one)}")
    return DONE if report.passed else FAILED


def _directory(options: Options) -> "CacheDirectory":
    path = settings_of(options, needs_secrets=False).cache.directory
    from proxy.stores.database import DATABASE
    from proxy.stores.directory import CacheDirectory

    if not (path / DATABASE).is_file():
        # Looking must not create one.
        raise StoreError(f"there is no cache at {path}")
    return CacheDirectory(path)
