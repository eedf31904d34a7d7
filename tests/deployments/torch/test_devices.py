"""What batches on a device share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from deployments.torch.devices import Pool


def test_what_was_given_back_is_lent_again_to_whichever_thread_comes() -> None:
    pool = Pool(object)
    with pool.lend() as first:
        pass

    def borrow() -> object:
        with pool.lend() as lent:
            return lent

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(borrow).result() is first
    assert borrow() is first


def test_nothing_is_lent_twice_at_a_time() -> None:
    pool, all_borrow = Pool(object), Barrier(4)

    def borrow(_: int) -> object:
        with pool.lend() as lent:
            all_borrow.wait(10)
            return lent

    with ThreadPoolExecutor(4) as threads:
        first = set(threads.map(borrow, range(4)))
        assert len(first) == 4
        assert set(threads.map(borrow, range(4))) == first


def test_a_batch_that_fails_gives_back_what_it_was_lent() -> None:
    pool = Pool(object)
    with pytest.raises(ZeroDivisionError), pool.lend() as first:
        raise ZeroDivisionError
    with pool.lend() as second:
        assert second is first
