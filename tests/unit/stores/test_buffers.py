"""Memory is counted as long as anybody can see it, is used again only then, and never passes the limit."""

import mmap
import random
import threading

import pytest

from proxy.stores.buffers import HUGE_PAGE_BYTES, KEPT_FROM_BYTES, Buffers

LARGE = 4 * KEPT_FROM_BYTES
LIMIT = 10 * LARGE


def lend(buffers: Buffers, size: int, extra: int = 0) -> memoryview:
    lent = buffers.lend(size, extra)
    assert lent is not None
    view, charge = lent
    assert len(view) >= size
    assert charge >= size + extra
    return view


def test_memory_is_counted_as_long_as_a_view_of_a_view_can_see_it() -> None:
    buffers = Buffers(LIMIT)
    view = lend(buffers, LARGE, extra=7)
    inner = memoryview(view.toreadonly()[5:9])
    del view
    assert buffers.lent_bytes == LARGE + 7
    assert buffers.spare_bytes == 0
    del inner
    assert (buffers.lent_bytes, buffers.spare_bytes) == (0, LARGE)


def test_what_nobody_sees_is_used_again_and_what_somebody_sees_is_not() -> None:
    buffers = Buffers(LIMIT)
    first = lend(buffers, LARGE)
    first[:3] = b"old"
    kept = first[:3]
    del first
    second = lend(buffers, LARGE)
    second[:3] = b"new"
    assert bytes(kept) == b"old"
    del kept
    third = lend(buffers, LARGE)
    assert bytes(third[:3]) == b"old", "the very same memory"
    assert bytes(second[:3]) == b"new"


def test_a_spare_one_serves_what_is_a_little_smaller_and_nothing_else() -> None:
    buffers = Buffers(LIMIT)
    view = lend(buffers, LARGE)
    del view
    smaller = lend(buffers, LARGE - LARGE // 16)
    assert (len(smaller), buffers.spare_bytes) == (LARGE, 0)
    del smaller
    much_smaller = lend(buffers, LARGE // 2)
    assert (len(much_smaller), buffers.spare_bytes) == (LARGE // 2, LARGE)
    larger = lend(buffers, LARGE + 1)
    assert buffers.spare_bytes == LARGE
    assert len(larger) > LARGE


def test_small_ones_are_exact_and_not_kept() -> None:
    buffers = Buffers(1000)
    view = lend(buffers, 900, extra=100)
    assert (len(view), buffers.lent_bytes) == (900, 1000)
    assert buffers.lend(1) is None
    del view
    assert (buffers.lent_bytes, buffers.spare_bytes) == (0, 0)


def test_spare_memory_goes_before_anything_is_refused() -> None:
    buffers = Buffers(LIMIT)
    views = [lend(buffers, LARGE) for _ in range(2)]
    views.clear()
    assert buffers.spare_bytes == 2 * LARGE
    whole = lend(buffers, LIMIT)
    assert (buffers.lent_bytes, buffers.spare_bytes) == (LIMIT, 0)
    del whole


def test_no_more_than_a_quarter_is_spare() -> None:
    buffers = Buffers(LIMIT)
    views = [lend(buffers, LARGE) for _ in range(10)]
    views.clear()
    assert buffers.lent_bytes == 0
    assert 0 < buffers.spare_bytes <= LIMIT // 4


def test_memory_that_the_system_does_not_give_is_none() -> None:
    buffers = Buffers(2**60)
    assert buffers.lend(2**50) is None
    assert buffers.lent_bytes == 0


@pytest.mark.parametrize("seed", range(10))
def test_all_together_never_pass_the_limit_and_nobody_sees_anothers_bytes(seed: int) -> None:
    rng = random.Random(seed)
    buffers = Buffers(LIMIT)
    held: dict[int, memoryview] = {}
    for number in range(1, 400):
        if held and rng.random() < 0.5:
            gone = rng.choice(list(held))
            assert bytes(held[gone][:8]) == gone.to_bytes(8)
            assert bytes(held[gone][-8:]) == gone.to_bytes(8)
            del held[gone]
        else:
            size = rng.choice([rng.randrange(16, 5000), rng.randrange(KEPT_FROM_BYTES, 3 * LARGE)])
            lent = buffers.lend(size, rng.randrange(100))
            if lent is not None:
                view = lent[0]
                view[:8] = view[-8:] = number.to_bytes(8)
                held[number] = view[: len(view)]
            del lent
        assert sum(map(len, held.values())) <= buffers.lent_bytes <= LIMIT
        assert buffers.lent_bytes + buffers.spare_bytes <= LIMIT


def test_views_may_be_dropped_in_any_thread() -> None:
    buffers = Buffers(LIMIT)
    for _ in range(50):
        views = [lend(buffers, LARGE) for _ in range(4)]
        threads = [threading.Thread(target=views.pop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert buffers.lent_bytes == 0


def test_a_kernel_without_large_pages_lends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)
    assert len(lend(Buffers(LIMIT), HUGE_PAGE_BYTES)) == HUGE_PAGE_BYTES
