"""What to paint for a prompt: time of day, place and subject, by its words first and by its digest otherwise."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TypeVar

from proxy.sandbox.canvas import Colour, Stop, colour


class Hour(StrEnum):
    """Decides the palette and the lights in the sky."""

    DAWN = "dawn"
    NOON = "noon"
    DUSK = "dusk"
    NIGHT = "night"
    NEON = "neon"
    AURORA = "aurora"


class Place(StrEnum):
    """Decides what stands under the sky."""

    MOUNTAINS = "mountains"
    LAKE = "lake"
    SEA = "sea"
    DESERT = "desert"
    FOREST = "forest"
    CITY = "city"


class Subject(StrEnum):
    """A silhouette in the foreground."""

    CAT = "cat"
    SAILBOAT = "sailboat"
    LIGHTHOUSE = "lighthouse"
    BALLOONS = "balloons"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one hour. `haze` is the far distance, `near` the foreground."""

    sky: tuple[Stop, ...]
    light: Colour
    cloud: Colour
    haze: Colour
    near: Colour


@dataclass(frozen=True, slots=True)
class Theme:
    """Everything that is decided before the first stroke."""

    hour: Hour
    place: Place
    palette: Palette
    subjects: tuple[Subject, ...]
    winter: bool


def _palette(sky: str, *, light: str, cloud: str, haze: str, near: str) -> Palette:
    colours = [colour(part) for part in sky.split()]
    places = (0.0, 0.3, 0.58, 0.8, 1.0)
    return Palette(tuple(zip(places, colours, strict=True)), colour(light), colour(cloud), colour(haze), colour(near))


PALETTES: Mapping[Hour, tuple[Palette, ...]] = {
    Hour.DAWN: (
        _palette(
            "#31517f #7c8fc0 #dfa9bb #fbceac #fff0cf", light="#fff4d8", cloud="#ffdfd0", haze="#e3b7b0", near="#24304d"
        ),
        _palette(
            "#24505e #4f8f98 #a4cbb8 #f1dcae #fff3d6", light="#fffbe6", cloud="#fff0dc", haze="#a9c4b4", near="#12323a"
        ),
        _palette(
            "#453a6b #8d6a9c #d99aa4 #f8c7a4 #ffe9c7", light="#fff1d0", cloud="#f9cdc4", haze="#cd9fa6", near="#2a1f43"
        ),
    ),
    Hour.NOON: (
        _palette(
            "#1f67b8 #4695dc #86c2ef #c6e5f7 #eef7f6", light="#fffdf0", cloud="#ffffff", haze="#a9cbe0", near="#1d4a41"
        ),
        _palette(
            "#2384ad #5fbad0 #a6dbe0 #e0f1e2 #fdf9ea", light="#fffdf0", cloud="#ffffff", haze="#a8d2cf", near="#1b4f4a"
        ),
    ),
    Hour.DUSK: (
        _palette(
            "#1c1a4d #5a317d #bd456e #f68b52 #ffd48c", light="#fff0b8", cloud="#ff9d7d", haze="#d0685f", near="#170f2e"
        ),
        _palette(
            "#173b5e #46708f #cf8b92 #f7b288 #ffe2b0", light="#fff3cf", cloud="#ffc3a6", haze="#bb8588", near="#122338"
        ),
        _palette(
            "#240f31 #6c1e48 #c63a42 #f3793c #ffc66a", light="#ffe9a0", cloud="#ff8a5c", haze="#b1473f", near="#190a1c"
        ),
    ),
    Hour.NIGHT: (
        _palette(
            "#050a1f #0c1b42 #1c3868 #385c8a #6b8cab", light="#f6f1dc", cloud="#5f7ba3", haze="#48698f", near="#040a18"
        ),
        _palette(
            "#0a0618 #1b1140 #38215f #673a80 #a0668f", light="#fdeede", cloud="#8a5f96", haze="#6a4479", near="#0a0616"
        ),
        _palette(
            "#04121c #0a2a3d #14475a #2f6b78 #6f9f9f", light="#f3f6e6", cloud="#5d8d96", haze="#3d6f7b", near="#041018"
        ),
    ),
    Hour.NEON: (
        _palette(
            "#0a0420 #220a48 #561070 #b3248a #ff6f91", light="#ff9ad1", cloud="#c22f9b", haze="#7a1e86", near="#08031a"
        ),
        _palette(
            "#030b24 #07224d #0d4b82 #1c8cab #7ae0d2", light="#b4fff2", cloud="#2aa3bf", haze="#14638f", near="#030818"
        ),
    ),
    Hour.AURORA: (
        _palette(
            "#030a1a #071a33 #0b3247 #14505a #3a8078", light="#eef6ea", cloud="#1f5a63", haze="#1f5c66", near="#020a12"
        ),
        _palette(
            "#070618 #141238 #1f2a58 #25506f #4d8d8f", light="#eef2f4", cloud="#3a5a80", haze="#2b5472", near="#050713"
        ),
    ),
}

_HOURS: Mapping[Hour, str] = {
    Hour.AURORA: r"aurora|northern lights|polar|nordic|极光",
    Hour.NEON: r"neon|cyber\w*|synthwave|vaporwave|retrowave|futuristic|霓虹|赛博",
    Hour.DUSK: r"sunset|dusk|evening|golden hour|twilight|autumn|fire|夕阳|日落|黄昏",
    Hour.DAWN: r"dawn|sunrise|morning|pastel|watercolou?r|spring|日出|清晨|水彩",
    Hour.NIGHT: r"night|midnight|moon\w*|stars?|starry|galaxy|space|dark|夜|月|星",
    Hour.NOON: r"noon|day|daylight|sunny|summer|bright|blue sky|白天|夏",
}
_PLACES: Mapping[Place, str] = {
    Place.CITY: r"city|town|skyline|street|urban|tokyo|york|skyscrapers?|building|neon|cyber\w*|城市|赛博",
    Place.SEA: r"sea|seaside|ocean|beach|coast|harbou?r|boat|ship|sail\w*|island|waves?|otter|lighthouse|海",
    Place.LAKE: r"lake|river|fjord|pond|reflection|湖",
    Place.DESERT: r"desert|dunes?|sahara|canyon|camel|cactus|mars|沙漠",
    Place.FOREST: r"forest|woods?|trees?|pines?|jungle|fox|deer|bear|森林|树",
    Place.MOUNTAINS: r"mountains?|alps?|alpine|peaks?|hills?|valley|himalaya|snow\w*|山",
}
_SUBJECTS: Mapping[Subject, str] = {
    Subject.CAT: r"cats?|kitten|kitty|tabby|猫",
    Subject.SAILBOAT: r"boats?|sail\w*|ships?|yacht|船",
    Subject.LIGHTHOUSE: r"lighthouse|灯塔",
    Subject.BALLOONS: r"balloons?|气球",
    Subject.TREE: r"tree|oak|树",
}
_WINTER = re.compile(r"\b(?:winter|snow\w*|ice|icy|frozen|arctic|christmas)\b|雪|冬")

_Choice = TypeVar("_Choice")
_COMMON_HOURS = (Hour.DAWN, Hour.NOON, Hour.DUSK, Hour.DUSK, Hour.NIGHT, Hour.AURORA)


def choose(prompt: str, rng: Random) -> Theme:
    """The prompt's words decide what they name; `rng` decides the rest."""
    text = prompt.lower()
    hour = _first(_HOURS, text)
    place = _first(_PLACES, text)
    any_hour, any_place = rng.choice(_COMMON_HOURS), rng.choice(tuple(Place))
    if place is None:
        place = Place.LAKE if hour is Hour.AURORA else Place.CITY if hour is Hour.NEON else any_place
    if hour is None:
        hour = Hour.NIGHT if place is Place.CITY and any_hour is Hour.NOON else any_hour
    return Theme(
        hour=hour,
        place=place,
        palette=rng.choice(PALETTES[hour]),
        subjects=tuple(subject for subject, words in _SUBJECTS.items() if _names(words, text)),
        winter=_WINTER.search(text) is not None,
    )


def _names(words: str, text: str) -> bool:
    """Whole words in Latin script; Chinese has no spaces, so those match anywhere."""
    latin = "|".join(word for word in _alternatives(words) if word.isascii())
    rest = [word for word in _alternatives(words) if not word.isascii()]
    return re.search(rf"\b(?:{latin})\b", text) is not None or any(word in text for word in rest)


def _alternatives(words: str) -> Sequence[str]:
    return words.split("|")


def _first(table: Mapping[_Choice, str], text: str) -> _Choice | None:
    return next((choice for choice, words in table.items() if _names(words, text)), None)
