"""docs/metrics.md says what proxy/metrics.py does: names, types, labels, values, buckets."""

import re
from collections.abc import Iterator
from pathlib import Path

from proxy.families import FAMILIES, Family

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
UNITS = {"_seconds": "seconds", "_bytes": "bytes", "_tokens_total": "tokens", "_usd_total": "USD"}


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[[*titles()].index(title) + 1]


def titles() -> Iterator[str]:
    return (match[1] for match in re.finditer(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE))


def rows(title: str) -> list[list[str]]:
    lines = re.findall(r"^\| `.*\|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def test_every_family_is_on_the_page_once_with_its_type_and_labels() -> None:
    told = sorted((quoted(name)[0], kind, quoted(labels)) for name, kind, labels, *_ in rows("Families"))
    assert told == sorted((family.name, family.kind, [label.name for label in family.labels]) for family in FAMILIES)


def test_every_family_has_a_meaning_and_the_unit_that_its_name_says() -> None:
    for name, _, _, unit, meaning in rows("Families"):
        assert unit and meaning
        for suffix, word in UNITS.items():
            if quoted(name)[0].endswith(suffix):
                assert unit.startswith(word), name


def test_every_label_is_on_the_page_with_its_closed_values() -> None:
    told = {(quoted(label)[0], of): set(quoted(values)) for label, of, values in rows("Label values")}
    for family in FAMILIES:
        for label in family.labels:
            places = [of for name, of in told if name == label.name and f"`{family.name}`" in of]
            places = places or [of for of in ("all", "everywhere else") if (label.name, of) in told]
            listed = [told[label.name, of] for of in places]
            if len(label.values) < 40:  # the statuses are told in words
                assert listed == [{value or '""' for value in label.values}], (family.name, label.name)


def test_every_histogram_is_on_the_page_with_its_buckets() -> None:
    told = {quoted(name)[0]: tuple(map(float, buckets.split())) for name, buckets in rows("Buckets")}
    assert told == {family.name: family.buckets for family in FAMILIES if family.kind == "histogram"}


def test_identities_speak_of_families_that_exist() -> None:
    names = {family.name.removeprefix("imagegate_") for family in FAMILIES}
    text = section("Identities")
    for name in re.findall(r"`(?:imagegate_)?([a-z_]+?)(?:_count)?(?:\{[^`]*)?`", text):
        if "_" in name and not name.endswith("_"):
            assert name in names, name
    mentioned = [family for family in FAMILIES if family.unit == "usd" or "_tokens_" in family.name]
    assert all(is_mentioned(family, text) for family in mentioned), "money without an identity"


def is_mentioned(family: Family, text: str) -> bool:
    name = family.name.removeprefix("imagegate_")
    return name in text or f"`{name.split('_')[0]}_*" in text
