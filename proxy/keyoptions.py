"""The fields of keys and teams as options of commands: each is read, and judged, while the command line is."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from proxy import keyfields, strictjson
from proxy.clock import SystemClock
from proxy.command import Options, number
from proxy.errors import InvalidRequest

MOST_LISTED = 1000
_MOST_INTEGER = 2**31 - 1


class _Field(NamedTuple):
    """`read` makes of the text what keyfields judges."""

    name: str
    metavar: str
    help: str
    read: Callable[[str], Any] = str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def add_team_fields(parser: argparse.ArgumentParser) -> None:
    _add(parser, _BUDGET, keyfields.team_fields)


def add_key_fields(parser: argparse.ArgumentParser) -> None:
    _add(parser, _KEY, keyfields.key_fields)
    parser.add_argument("--team", type=_name, metavar="NAME", help="its team, by alias or id; a missing one is made")


def add_alias(parser: argparse.ArgumentParser, kind: str, *, required: bool) -> None:
    """The option that names a key or a team, or gives it another name."""
    judge = keyfields.key_fields if kind == "key" else keyfields.team_fields
    name = f"{kind}_alias"
    help_line = "its name, in lists and in the audit log" if required else "another name"
    parser.add_argument(
        "--alias", dest=name, type=_judged(name, str, judge), metavar="A", required=required, help=help_line
    )


def add_changes(parser: argparse.ArgumentParser, kind: str) -> None:
    """What only an update has: `--block`, `--unblock` and `--unset`."""
    blocking = parser.add_mutually_exclusive_group()
    blocking.add_argument("--block", dest="blocked", action="store_const", const=True, help="refuse it from now on")
    blocking.add_argument("--unblock", dest="blocked", action="store_const", const=False, help="take the block away")
    known = ["team_id", *(field.name for field in _KEY)] if kind == "key" else [field.name for field in _BUDGET]
    parser.add_argument(
        "--unset",
        type=_unset_of(known),
        default=(),
        metavar="FIELD,FIELD",
        help="take these away, such as max-budget,expires: no limit",
    )


def add_listing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--alias", dest="alias_contains", type=_name, metavar="TEXT", help="those with this in their alias"
    )
    parser.add_argument(
        "--limit", type=number(int, 1, MOST_LISTED), default=100, metavar="N", help="at most so many (default: 100)"
    )
    parser.add_argument("--after", type=_name, metavar="ID", help="go on behind this id: the last one of a page")


def fields_of(options: Options) -> dict[str, Any]:
    """The fields that the command line names, as KeyStore takes them; None for one that is to be taken away.

    Raises ValueError for one that is given and taken away at once.
    """
    names = ("key_alias", "team_alias", "blocked", *(field.name for field in _KEY))
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    unset = dict.fromkeys(getattr(options, "unset", ()))
    both = [name for name in unset if name in given or (name == "team_id" and options.team is not None)]
    if both:
        raise ValueError(f"{both[0]} is given and unset at once")
    return {**given, **unset}


def _add(parser: argparse.ArgumentParser, fields: tuple[_Field, ...], judge: "_Judge") -> None:
    for field in fields:
        kind = _judged(field.name, field.read, judge)
        parser.add_argument(field.flag, dest=field.name, type=kind, metavar=field.metavar, help=field.help)


_Judge = Callable[[Mapping[str, Any], float], Mapping[str, Any]]


def _judged(name: str, read: Callable[[str], Any], judge: _Judge) -> Callable[[str], Any]:
    """The value as it was read, not as it is kept: that is the store's to make, of the moment when it is stored."""

    def judged(text: str) -> Any:
        value = read(text)
        try:
            judge({name: value}, SystemClock().wall())
        except InvalidRequest as error:
            raise argparse.ArgumentTypeError(_fault(error)) from None
        return value

    return judged


def _fault(error: InvalidRequest) -> str:
    """Without its first words, which name the field: argparse names the option."""
    return error.message.partition(": ")[2].rstrip(".") or error.message


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


def _object(text: str) -> dict[str, Any]:
    try:
        return strictjson.parse_object(text.encode("utf-8", "surrogateescape"))
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object: {_fault(error)}") from None


def _name(text: str) -> str:
    if not keyfields.is_name(text):
        raise argparse.ArgumentTypeError("must have 1 to 128 printable characters")
    return text


def _unset_of(known: list[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = [each.removeprefix("--").replace("-", "_") for each in _listed(text)]
        names = ["team_id" if name == "team" and "team_id" in known else name for name in names]
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"must name fields that can be missing: {', '.join(known)}")
        return tuple(names)

    return read


_whole = number(int, 1, _MOST_INTEGER)
_BUDGET = (
    _Field("max_budget", "USD", "most dollars it may spend, in a period or ever: 25 or 0.50"),
    _Field("soft_budget", "USD", "dollars beyond which purchases are counted, and still made"),
    _Field("budget_duration", "PERIOD", "the budget is renewed this often: 1d, 30d, 1mo (1m is a minute)"),
    _Field("metadata", "JSON", "an object of your own", _object),
)
_KEY = (
    *_BUDGET,
    _Field("models", "A,B", "the only models it may use, by name or pattern: gpt-image-*", _listed),
    _Field("rpm_limit", "N", "most requests a minute", _whole),
    _Field("ipm_limit", "N", "most images a minute that are bought for it", _whole),
    _Field("max_parallel_requests", "N", "most purchases at once", _whole),
    _Field("max_n", "N", "most images of one request", _whole),
    _Field("allowed_sizes", "A,B", "the only sizes it may ask for: 1024x1024,auto", _listed),
    _Field("allowed_qualities", "A,B", "the only qualities it may ask for: low,medium", _listed),
    _Field("cache_scope", "SCOPE", "with whom it shares images: key, team or org"),
    _Field("expires", "WHEN", "it works until then: 90d from now, 2030-12-31, or 2030-12-31T12:00:00Z"),
)
