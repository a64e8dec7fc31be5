"""The memory tier never holds more than it may, whoever is still reading."""

import random
import threading
from collections import OrderedDict

import pytest

from proxy.model import Entry
from proxy.stores.memory import MemoryTier
from tests.support.store import NOW, Witness, body_of, key, metadata

pytestmark = pytest.mark.anyio


def tier(limit: int) -> MemoryTier:
    return MemoryTier(limit, lambda reason, count: None)


def insert(memory: MemoryTier, number: int, size: int, extra: int = 0) -> Entry | None:
    room = memory.reserve(size, extra)
    if room is None:
        return None
    room.buffer[:size] = body_of(number, size)
    return memory.insert(metadata(number), room, NOW)


async def test_what_went_in_comes_out() -> None:
    memory = tier(100)
    insert(memory, 1, 60)
    slot = memory.get(key(1))
    assert slot is not None
    assert bytes(await slot.entry.body.window(0, 60)) == body_of(1, 60)
    assert bytes(await slot.entry.body.window(10, 20)) == body_of(1, 60)[10:20]
    assert (slot.entry.tier, len(slot.entry.body), memory.resident_bytes) == ("memory", 60, 60)
    assert memory.get(key(2)) is None


def test_the_limit_is_exact() -> None:
    memory = tier(100)
    assert insert(memory, 1, 90, extra=10) is not None
    assert insert(memory, 2, 101) is None
    assert insert(memory, 2, 91, extra=10) is None
    assert memory.get(key(1)) is not None, "an insertion that cannot succeed evicts nobody"


def test_zero_turns_it_off() -> None:
    assert insert(tier(0), 1, 1) is None


def test_the_least_recently_used_goes_first() -> None:
    witness = Witness()
    memory = MemoryTier(100, lambda reason, count: witness.evicted("memory", reason, count))
    for number in (1, 2):
        insert(memory, number, 40)
    memory.get(key(1))
    insert(memory, 3, 40)
    assert [memory.get(key(number)) is not None for number in (1, 2, 3)] == [True, False, True]
    assert witness.evictions == {("memory", "size"): 1}


def test_an_entry_that_is_being_read_stays_and_stays_counted() -> None:
    memory = tier(100)
    entry = insert(memory, 1, 80)
    assert entry is not None
    with entry.body.reading():
        assert insert(memory, 2, 40) is None
        assert memory.get(key(1)) is not None
    del entry
    assert insert(memory, 2, 40) is not None
    assert memory.get(key(1)) is None


def test_what_somebody_still_holds_is_counted_after_it_was_evicted() -> None:
    memory = tier(100)
    entry = insert(memory, 1, 80)
    assert insert(memory, 2, 40) is None, "evicted, but its memory is not back yet"
    assert memory.resident_bytes == 80
    del entry
    assert memory.resident_bytes == 0
    assert insert(memory, 2, 40) is not None


async def test_a_window_keeps_the_bytes_it_shows() -> None:
    memory = tier(100)
    entry = insert(memory, 1, 80)
    assert entry is not None
    window = await entry.body.window(0, 80)
    memory.discard(key(1))
    del entry
    assert memory.resident_bytes == 80
    assert bytes(window) == body_of(1, 80)
    del window
    assert memory.resident_bytes == 0


def test_replacing_gives_the_old_bytes_back() -> None:
    memory = tier(100)
    insert(memory, 1, 40)
    insert(memory, 1, 50)
    assert (len(memory), memory.resident_bytes) == (1, 50)


def test_room_that_is_not_used_is_given_back() -> None:
    memory = tier(100)
    room = memory.reserve(80)
    assert memory.resident_bytes == 80
    del room
    assert memory.resident_bytes == 0


def test_memory_that_the_system_does_not_give_is_no_room() -> None:
    memory = tier(2**60)
    insert(memory, 1, 10)
    assert memory.reserve(2**50) is None
    assert (memory.resident_bytes, len(memory)) == (10, 1)


def test_purging_forgets_what_matches() -> None:
    memory = tier(1000)
    for number in range(6):
        insert(memory, number, 10)
    assert memory.purge(lambda found: int(found.key, 16) % 2 == 0) == 3
    assert [memory.get(key(number)) is not None for number in range(6)] == [False, True] * 3
    assert memory.resident_bytes == 30


@pytest.mark.parametrize("seed", range(20))
def test_it_behaves_like_the_plainest_model(seed: int) -> None:
    rng = random.Random(seed)
    limit = 1000
    memory = tier(limit)
    model: OrderedDict[int, int] = OrderedDict()
    pinned: dict[int, Entry] = {}
    for _ in range(400):
        number = rng.randrange(12)
        what = rng.choice(["insert", "insert", "get", "pin", "unpin", "discard"])
        if what == "insert" and number not in pinned:
            size = rng.randrange(1, 500)
            done = insert(memory, number, size) is not None
            assert done == model_insert(model, set(pinned), number, size, limit)
        elif what == "discard" and number not in pinned:
            assert memory.discard(key(number)) == (model.pop(number, None) is not None)
        elif what == "unpin" and pinned:
            entry = pinned.pop(rng.choice(list(pinned)))
            entry.body.readers -= 1  # type: ignore[attr-defined]
            del entry
        else:
            slot = memory.get(key(number))
            assert (slot is not None) == (number in model)
            if slot is not None:
                model.move_to_end(number)
                assert len(slot.entry.body) == model[number]
                if what == "pin" and number not in pinned:
                    slot.body.readers += 1
                    pinned[number] = slot.entry
            del slot
        assert memory.resident_bytes == sum(model.values()) <= limit
        assert len(memory) == len(model)


def model_insert(model: "OrderedDict[int, int]", pinned: set[int], number: int, size: int, limit: int) -> bool:
    """What may happen: make room from the least recently used on, leave the pinned; all or nothing."""
    missing = sum(model.values()) + size - limit
    doomed = []
    for other, charge in model.items():
        if missing > 0 and other not in pinned:
            doomed.append(other)
            missing -= charge
    if missing > 0:
        return False
    for other in doomed:
        del model[other]
    model.pop(number, None)
    model[number] = size
    return True


def test_room_may_be_reserved_in_threads_while_entries_are_looked_up() -> None:
    memory = tier(40 * 1000)
    for number in range(40):
        insert(memory, number, 1000)
    faults: list[BaseException] = []

    def reserve(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(2000):
                room = memory.reserve(rng.randrange(1, 3000))
                assert room is None or len(room.buffer) == room.body_bytes
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=reserve, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    number = 0
    while any(thread.is_alive() for thread in threads):
        number += 1
        memory.get(key(number % 40))
        insert(memory, number % 40, 1000)
        assert memory.resident_bytes <= 40 * 1000
    assert not faults
