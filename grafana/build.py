"""Writes the dashboards: `python -m grafana.build`, which is `make dashboards`."""

from pathlib import Path

from grafana.operations import OPERATIONS
from grafana.overview import OVERVIEW
from grafana.teams import TEAMS

FOLDER = Path(__file__).parent / "dashboards"
PAGES = (OVERVIEW, TEAMS, OPERATIONS)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        (FOLDER / f"{page.name}.json").write_text(page.written(), "utf-8")


if __name__ == "__main__":
    main()
