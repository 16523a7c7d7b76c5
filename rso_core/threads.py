"""Work on a CPU shared out among threads that run side by side, not among the threads of every operation.

Many small operations do not gain by two threads each, and large ones gain less than two independent pieces of work do.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def threads_side_by_side(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Give `count` threads, among which the threads of an operation are divided; all have ended afterwards."""
    threads = torch.get_num_threads()
    share = (max(1, threads // count),)
    try:
        with ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=share) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def on_one_thread_each(do: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do something with every item, as many at once as torch has threads. Raises what the first failing one raised.

    What is done with one item must not depend on the others, and needs no gradient.
    """
    threads, quietly = torch.get_num_threads(), torch.no_grad()(do)
    if min(threads, len(items)) < 2:  # noqa: PLR2004 - one thread, or nothing to share out
        for item in items:
            quietly(item)
        return
    with threads_side_by_side(threads, "item") as pool:
        list(pool.map(quietly, items))
