"""Independent pieces of work, each on one thread."""

from collections.abc import Iterator

import pytest
import torch

from rso_core.threads import on_one_thread_each


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_everything_is_done_once_by_one_thread_without_gradients(threads: int, count: int) -> None:
    done = []
    on_one_thread_each(lambda n: done.append((n, torch.is_grad_enabled(), torch.get_num_threads())), range(count))
    used = threads if count == 1 else 1
    assert sorted(done) == [(n, False, used) for n in range(count)]
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_the_first_error_is_raised_and_the_threads_are_as_before(threads: int) -> None:
    def fail(n: int) -> None:
        if n > 1:
            message = f"{n} of them"
            raise ValueError(message)

    with pytest.raises(ValueError, match="2 of them"):
        on_one_thread_each(fail, [0, 1, 2, 3])
    assert torch.get_num_threads() == threads
