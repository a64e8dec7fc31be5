"""`imagegate audit`: who changed which key or team, when, and what of it."""

from typing import Any

from proxy.command import DONE, Options, add_command, add_json, number, settings_of
from proxy.keycommand import key_store
from proxy.keyoptions import MOST_LISTED
from proxy.keyprinting import changed, say_how_to_go_on
from proxy.printing import moment, print_json, print_table


def add_audit(commands: Any) -> None:
    audit = add_command(commands, "audit", _audit, "list changes to keys and teams, the newest first")
    audit.epilog = "example: imagegate audit --target ann --limit 20"
    audit.add_argument(
        "--limit", type=number(int, 1, MOST_LISTED), default=100, metavar="N", help="at most so many (default: 100)"
    )
    audit.add_argument(
        "--before", type=number(int, 1, 2**63 - 1), metavar="ID", help="go on behind this id: the last one of a page"
    )
    audit.add_argument("--target", metavar="NAME", help="the changes of one key or team, by alias or id")
    add_json(audit)


def _audit(options: Options) -> int:
    with key_store(settings_of(options, needs_secrets=False)) as store:
        lines = store.audit(limit=options.limit, before=options.before, target=options.target)
        last = lines[-1].id if lines else 0
        is_last = len(lines) < options.limit or not store.audit(limit=1, before=last, target=options.target)
    if options.json:
        print_json([line._asdict() for line in lines])
        return DONE
    rows = [
        (
            str(line.id),
            moment(line.at),
            line.actor,
            f"{line.action} {line.kind} {line.after.get(f'{line.kind}_alias', line.target_id)}",
            changed(line.before, line.after, line.kind),
        )
        for line in lines
    ]
    print_table(("ID", "WHEN", "WHO", "WHAT", "CHANGES"), rows)
    if not is_last:
        say_how_to_go_on(("--before", str(last)))
    return DONE
