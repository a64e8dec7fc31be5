"""The sections: frozen values."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from proxy.settings import Settings, UpstreamSection, sections


def test_every_section_is_frozen_and_has_no_room_for_more() -> None:
    for name, kind in sections():
        section: Any = Settings().upstreams[0] if name == "upstreams" else kind()
        assert not hasattr(section, "__dict__")
        with pytest.raises(FrozenInstanceError):
            setattr(section, fields(kind)[0].name, 0)


def test_an_upstream_shares_entries_under_its_name_unless_its_group_is_named() -> None:
    assert UpstreamSection(name="a", base_url="https://a.example").cache_group == "a"
    assert UpstreamSection(name="a", base_url="https://a.example", cache_group="b").cache_group == "b"
