"""`imagegate teams …`: teams, whose budgets their keys share, are made, shown and changed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.clock import SystemClock
from proxy.command import DONE, WRONG, Options, add_command, add_json, settings_of
from proxy.keycommand import actor, key_store
from proxy.keyoptions import add_alias, add_changes, add_listing, add_team_fields, fields_of
from proxy.keyprinting import budget, described, say_how_to_go_on, stands, state
from proxy.printing import complain, moment, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from proxy.keyrecord import TeamRecord


def add_teams(commands: Any) -> None:
    help_line = "make, show and change teams, whose keys share a budget; offline or beside a running proxy"
    teams = commands.add_parser("teams", help=help_line)
    teams.description = help_line[0].upper() + help_line[1:] + "."
    teams.epilog = "example: imagegate teams create --alias design --max-budget 500 --budget-duration 1mo"
    actions = teams.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = add_command(actions, "create", _teams_create, "make a team")
    create.epilog = "example: imagegate teams create --alias design --max-budget 500 --budget-duration 1mo"
    add_alias(create, "team", required=True)
    add_team_fields(create)
    listing = add_command(actions, "list", _teams_list, "list teams in the order of their creation")
    listing.epilog = "example: imagegate teams list --limit 20"
    add_listing(listing)
    show = add_command(actions, "show", _teams_show, "show everything that is kept of a team")
    show.epilog = "example: imagegate teams show design"
    update = add_command(actions, "update", _teams_update, "change what is named; a running proxy obeys within 1 s")
    update.epilog = "example: imagegate teams update design --max-budget 800"
    add_alias(update, "team", required=False)
    add_team_fields(update)
    add_changes(update, "team")
    for action in (show, update):
        action.add_argument("name", metavar="NAME", help="the team's alias or id")
    for action in (create, listing, show, update):
        add_json(action)


def _teams_create(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False), makes=True, team_flag="--alias") as store:
        return _print_record(store.create_team(fields_of(options), actor()), options)


def _teams_list(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        narrow = {"alias_contains": options.alias_contains or ""}
        found = store.list_teams(limit=options.limit, after=options.after, **narrow)
        is_last = len(found) < options.limit or not store.list_teams(limit=1, after=found[-1].id, **narrow)
    if options.json:
        print_json([record.as_json() for record in found])
        return DONE
    now = SystemClock().wall()
    rows = [(team.team_alias, budget(team), state(team, now), moment(team.created_at), team.id) for team in found]
    print_table(("ALIAS", "BUDGET", "STATE", "CREATED", "ID"), rows)
    if not is_last:
        say_how_to_go_on(("--after", found[-1].id))
    return DONE


def _teams_show(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        record = store.get_team(options.name)
        return _print_record(record, options, store.standing(record))


def _teams_update(options: Options) -> int:
    try:
        changes = fields_of(options)
    except ValueError as error:
        return complain(WRONG, f"teams update: {error}")
    if not changes:
        return complain(WRONG, "teams update: nothing to change (see imagegate teams update --help)")
    with key_store(settings_of(options, needs_secrets=False), team_flag="--alias") as store:
        return _print_record(store.update_team(options.name, changes, actor()), options)


def _print_record(record: "TeamRecord", options: Options, standing: Mapping[str, Any] = MappingProxyType({})) -> int:
    if options.json:
        print_json({**record.as_json(), **standing})
    else:
        print_pairs({**described(record, SystemClock().wall()), **stands(standing)})
    return DONE
