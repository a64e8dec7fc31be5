"""`imagegate keys …`: virtual keys are made, shown, changed, rotated and revoked; offline or beside a running proxy."""

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.addresses import is_loopback
from proxy.clock import SystemClock
from proxy.command import DONE, WRONG, Options, add_command, add_json, settings_of
from proxy.keycommand import actor, key_store
from proxy.keyoptions import add_alias, add_changes, add_key_fields, add_listing, fields_of
from proxy.keyprinting import budget, described, say_how_to_go_on, stands, state
from proxy.printing import complain, moment, print_json, print_line, print_pairs, print_table, printable
from proxy.quantities import parse_seconds
from proxy.settings import ServerSection, Settings

if TYPE_CHECKING:
    from proxy.keyrecord import KeyRecord, TeamRecord
    from proxy.keystore import KeyStore

_DAY_SECONDS = 86_400


def add_keys(commands: Any) -> None:
    help_line = "make, show, change, rotate and revoke virtual keys; offline or beside a running proxy"
    keys = commands.add_parser("keys", help=help_line)
    keys.description = help_line[0].upper() + help_line[1:] + "."
    keys.epilog = "example: imagegate keys create --alias ann --max-budget 25 --budget-duration 1mo"
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = add_command(actions, "create", _keys_create, "make a key, and print it this once")
    create.epilog = "example: imagegate keys create --alias ann --team design --max-budget 25 --budget-duration 1mo"
    add_alias(create, "key", required=True)
    add_key_fields(create)
    listing = add_command(actions, "list", _keys_list, "list keys in the order of their creation, revoked ones too")
    listing.epilog = "example: imagegate keys list --team design"
    listing.add_argument("--team", metavar="NAME", help="those of a team, by alias or id")
    add_listing(listing)
    show = add_command(actions, "show", _keys_show, "show everything that is kept of a key; never the key itself")
    show.epilog = "example: imagegate keys show ann"
    update = add_command(actions, "update", _keys_update, "change what is named; a running proxy obeys within 1 s")
    update.epilog = "example: imagegate keys update ann --max-budget 50 --unset expires"
    add_alias(update, "key", required=False)
    add_key_fields(update)
    add_changes(update, "key")
    rotate = add_command(
        actions, "rotate", _keys_rotate, "make a new key in the old one's place, and print it this once"
    )
    rotate.epilog = "example: imagegate keys rotate ann --grace 24h"
    rotate.add_argument(
        "--grace",
        type=_seconds,
        default=_DAY_SECONDS,
        metavar="TIME",
        help="the old key works for so long: 7d, 12h, or 0 for no longer (default: 24h)",
    )
    revoke = add_command(actions, "revoke", _keys_revoke, "end a key for good, without asking; within 1 s")
    revoke.epilog = "example: imagegate keys revoke ann"
    for action in (show, update, rotate, revoke):
        action.add_argument("name", metavar="NAME", help="the key's alias or id")
    for action in (create, listing, show, update, rotate, revoke):
        add_json(action)


def _seconds(text: str) -> int:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _keys_create(options: Options) -> int:
    settings = settings_of(options, needs_secrets=False)
    with key_store(settings, makes=True) as store:
        record, key = store.create_key(fields_of(options), actor(), team=options.team)
        team = store.get_team(record.team_id) if record.team_id else None
    if options.json:
        print_json({**record.as_json(), "key": key})
        return DONE
    _print_key(record, key, settings)
    if team is not None:
        made = ", made just now" if team.created_at == record.created_at else ""
        print_line(f"Its team: {printable(team.team_alias)}{made}.")
    return DONE


def _keys_list(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        narrow = {"team": options.team, "alias_contains": options.alias_contains or ""}
        found = store.list_keys(limit=options.limit, after=options.after, **narrow)
        is_last = len(found) < options.limit or not store.list_keys(limit=1, after=found[-1].id, **narrow)
        teams = {name: store.get_team(name) for name in {key.team_id for key in found if key.team_id}}
    if options.json:
        print_json([record.as_json() for record in found])
        return DONE
    now = SystemClock().wall()
    rows = [_row(key, teams.get(key.team_id or ""), now) for key in found]
    print_table(("ALIAS", "KEY", "TEAM", "BUDGET", "STATE", "EXPIRES", "ID"), rows)
    if not is_last:
        say_how_to_go_on(("--after", found[-1].id))
    return DONE


def _row(key: "KeyRecord", team: "TeamRecord | None", now: float) -> tuple[str, ...]:
    return (
        key.key_alias,
        key.shown,
        team.team_alias if team else "-",
        budget(key),
        state(key, now, team),
        "-" if key.expires is None else moment(key.expires),
        key.id,
    )


def _keys_show(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        record = store.get_key(options.name)
        return _print_record(record, store, options, store.standing(record))


def _keys_update(options: Options) -> int:
    try:
        changes = fields_of(options)
    except ValueError as error:
        return complain(WRONG, f"keys update: {error}")
    if not changes and options.team is None:
        return complain(WRONG, "keys update: nothing to change (see imagegate keys update --help)")
    with key_store(settings_of(options, needs_secrets=False)) as store:
        record = store.update_key(options.name, changes, actor(), team=options.team)
        return _print_record(record, store, options)


def _keys_rotate(options: Options) -> int:
    settings = settings_of(options, needs_secrets=False)
    with key_store(settings) as store:
        record, key = store.rotate_key(options.name, options.grace, actor())
    if options.json:
        print_json({**record.as_json(), "key": key})
        return DONE
    _print_key(record, key, settings)
    until = record.previous_until
    print_line("The old key works no longer." if until is None else f"The old key works until {moment(until)}.")
    return DONE


def _keys_revoke(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        record = store.revoke_key(options.name, actor())
    if options.json:
        print_json(record.as_json())
    else:
        print_line(f"revoked {printable(record.key_alias)} ({record.shown}); running proxies refuse it within a second")
    return DONE


def _print_record(
    record: "KeyRecord", store: "KeyStore", options: Options, standing: Mapping[str, Any] = MappingProxyType({})
) -> int:
    if options.json:
        print_json({**record.as_json(), **standing})
    else:
        team = store.get_team(record.team_id) if record.team_id else None
        print_pairs({**described(record, SystemClock().wall(), team), **stands(standing)})
    return DONE


def _print_key(record: "KeyRecord", key: str, settings: Settings) -> None:
    server = settings.server
    print_line(key)
    print_line("")
    print_line(f"The key of {printable(record.key_alias)}. It is not shown again. A client is given")
    print_line(f"base_url={_base_url(server)} and this key as its api_key.")
    if not server.public_url and is_loopback(server.host):
        print_line(f"Only this machine reaches {server.host}: others do once server.host or server.public_url is set.")
    if settings.auth.mode != "keys":
        print_line(f'Keys count once auth.mode = "keys"; now it is "{settings.auth.mode}".')


def _base_url(server: ServerSection) -> str:
    if server.public_url:
        return f"{server.public_url.rstrip('/')}/v1"
    host = {"0.0.0.0": "HOST", "::": "HOST"}.get(server.host, server.host)  # noqa: S104  # compared with, not bound to
    return f"{'https' if server.tls_certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{server.port}/v1"
