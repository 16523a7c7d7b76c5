"""Work side by side on a CPU, each part with threads of its own: micro-batches of a step, comparisons.

Threads that share every single operation wait for each other at its end, and small operations are not worth sharing.
On two cores a step of 16 pairs took 10.9 s with two threads in an operation, 7.0 s with two lanes of one thread each.
In training a lane has the model's layers again, over the same weights; what all lanes add to the gradient they add in one order
(`Turns`), so that a training ends with the same bytes each time. Only the activations of a micro-batch are there more than once.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rso_core.packed_forward import share_trust
from rso_core.threads import threads_side_by_side

if TYPE_CHECKING:
    from rso_core.models import LanguageModel
    from rso_core.trained_weights import Weights

MOST_LANES = 4  # each holds activations of its own
WORTH = 5e10  # operations of a lane in a step: less is mostly Python, of which only one lane runs at a time
WORTH_AT_ONCE = 4e9  # operations of one forward pass, for the same reason
Work = TypeVar("Work")
Found = TypeVar("Found")
Order = tuple[int, int, int]  # of additions: (round, how many parts of a sum its micro-batch has added, lane)
_END = 1 << 60


class LaneStoppedError(Exception):
    """Another lane failed, so what this one waits for will not come."""


class Turns:
    """The order in which the micro-batches of several lanes add to sums, the same whatever lane is ahead.

    A lane does one micro-batch a round. The parts of a sum are added by round, then by how many parts the micro-batch
    has added before, then by lane.
    """

    def __init__(self, lanes: int) -> None:
        self._changed = threading.Condition()
        self._rounds = [0] * lanes
        self._next: dict[str, list[tuple[int, int]]] = {}  # of each sum: the round and part that each lane is at
        self._waiting: dict[int, tuple[str, Order]] = {}
        self._failed = False

    @contextmanager
    def turn(self, lane: int, name: str, last: bool) -> Iterator[None]:  # noqa: FBT001 - a `trained_weights.Turn`
        """Wait until everything that comes before this lane's next part of the sum `name` has been added.

        last: the micro-batch adds nothing more to it. Raises LaneStoppedError when another lane has failed.
        """
        with self._changed:
            at = self._at(name)[lane]
            self._waiting[lane] = (name, (*at, lane))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failed or self._may_go(lane))
            del self._waiting[lane]
            if self._failed:
                raise LaneStoppedError
        yield
        with self._changed:
            self._at(name)[lane] = (at[0] + 1, 0) if last else (at[0], at[1] + 1)
            self._changed.notify_all()

    def end_round(self, lane: int, *, final: bool) -> None:
        """Say that a lane's micro-batch has added all it has, and whether the lane has no more of them."""
        with self._changed:
            self._rounds[lane] = _END if final else self._rounds[lane] + 1
            self._changed.notify_all()

    def fail(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def _at(self, name: str) -> list[tuple[int, int]]:
        """Return where each lane is in a sum: at its round's first part, unless it has added some."""
        found = self._next.setdefault(name, [(0, 0)] * len(self._rounds))
        found[:] = [max(at, (number, 0)) for at, number in zip(found, self._rounds, strict=True)]
        return found

    def _may_go(self, lane: int) -> bool:
        name, mine = self._waiting[lane]
        others = ((*at, other) for other, at in enumerate(self._at(name)) if other != lane)
        if all(mine < theirs for theirs in others):
            return True
        # Micro-batches that visit the weights in different orders could wait for each other; then the first one goes.
        running = sum(number < _END for number in self._rounds)
        return len(self._waiting) == running and mine == min(place for _, place in self._waiting.values())


class Lanes:
    """Does the micro-batches of a step in one lane or in several."""

    def __init__(self, lm: "LanguageModel", weights: "Weights") -> None:
        self._lm, self._weights = lm, weights
        self._copies: list[LanguageModel] = []
        self._kind: object = None
        self._turns = Turns(1)

    def run(self, work: Sequence[Sequence[Work]], do: Callable[["LanguageModel", Work], Found]) -> list[Found]:
        """Return what `do` made of each lane's pieces of work, by round, then by lane.

        In several lanes `do` gets the model's layers over leaves of their own, whose gradients go to the masters.
        Raises the first lane's error, once all have ended. A process whose share of a batch is empty has no lane.
        """
        if not work:
            return []
        if len(work) == 1:
            return [do(self._lm, piece) for piece in work[0]]
        self._prepare(len(work))
        self._turns = Turns(len(work))
        try:
            with threads_side_by_side(len(work), "lane") as pool:
                futures = [pool.submit(self._lane, number, pieces, do) for number, pieces in enumerate(work)]
            by_lane = _results(futures)
        except BaseException:
            self._copies = []  # with gradients that nobody wants
            raise
        return [found for row in zip_longest(*by_lane) for found in row if found is not None]

    def _lane(self, lane: int, pieces: Sequence[Work], do: Callable[["LanguageModel", Work], Found]) -> list[Found]:
        """Do the pieces of one lane, in a thread of its own."""
        found = []
        try:
            for piece in pieces:
                found.append(do(self._copies[lane], piece))
                self._turns.end_round(lane, final=len(found) == len(pieces))
        except BaseException:
            self._turns.fail()
            raise
        return found

    def _turn(self, lane: int, name: str, last: bool) -> AbstractContextManager[None]:  # noqa: FBT001 - a `trained_weights.Turn`
        return self._turns.turn(lane, name, last)

    def _prepare(self, count: int) -> None:
        """Have the layers once for each lane, in the mode that the model is in now."""
        kind = (count, self._lm.model.training, self._lm.is_checkpointed)
        if kind == self._kind and self._copies:
            return
        self._copies, self._kind = [], kind
        for lane in range(count):
            found, leaves = _over_the_same_weights(self._lm)
            self._copies.append(found)
            self._weights.collect_from(leaves, partial(self._turn, lane))


def side_by_side(works: Sequence[Callable[[], Iterator[Found]]]) -> Iterator[list[Found]]:
    """Yield what comes first of each work, then what comes second, …; those that have ended are left out.

    Each goes on in a thread of its own, ahead of who listens. Raises what one of them raised; the others then end at
    what they find next, as they do when nobody listens any more.
    """
    stop = threading.Event()
    queues: list[SimpleQueue[tuple[str, Any]]] = [SimpleQueue() for _ in works]

    def lane(work: Callable[[], Iterator[Found]], told: "SimpleQueue[tuple[str, Any]]") -> None:
        try:
            for found in work():
                told.put(("found", found))
                if stop.is_set():
                    return
            told.put(("ended", None))
        except BaseException as error:  # noqa: BLE001 - raised where the others are waited for
            told.put(("failed", error))

    with threads_side_by_side(len(works), "lane") as pool:
        for work, told in zip(works, queues, strict=True):
            pool.submit(lane, work, told)
        try:
            yield from _in_turn(queues)
        finally:
            stop.set()


def _in_turn(queues: "Sequence[SimpleQueue[tuple[str, Any]]]") -> Iterator[list[Any]]:
    going = list(queues)
    while going:
        answers = [(told, *told.get()) for told in going]
        for _, kind, error in answers:
            if kind == "failed":
                raise error
        going = [told for told, kind, _ in answers if kind == "found"]
        if going:
            yield [found for _, kind, found in answers if kind == "found"]


def lanes_to_read(lm: "LanguageModel", tokens: float, *, together: int) -> int:
    """Return how many lanes are worth while to read so many tokens, `together` of them at once, without gradients."""
    a_token = 2 * lm.num_parameters
    return 1 if a_token * together < WORTH_AT_ONCE else _lanes_for(lm, a_token * tokens)


def wanted_lanes(lm: "LanguageModel", tokens: float, *, dropout: float) -> int:
    """Return how many lanes are worth while for training steps of so many tokens.

    One on a GPU, and with dropout, whose noise all lanes would draw from one generator in any order.
    """
    return 1 if dropout > 0 else _lanes_for(lm, 6 * lm.num_parameters * tokens)


def _lanes_for(lm: "LanguageModel", operations: float) -> int:
    if lm.device.type != "cpu":
        return 1
    return max(1, min(threads_here(), MOST_LANES, int(operations / WORTH)))


def threads_here() -> int:
    """Return how many threads the lanes share."""
    return torch.get_num_threads()


def _over_the_same_weights(lm: "LanguageModel") -> tuple["LanguageModel", dict[str, torch.Tensor]]:
    """Return the model's layers again, over the same memory, and the leaves by name that stand for trained weights."""
    params = dict(lm.model.named_parameters())
    leaves: dict[str, torch.Tensor] = {
        name: torch.nn.Parameter(p.detach()) for name, p in params.items() if p.requires_grad
    }
    same: dict[int, Any] = {id(part): part for part in (*params.values(), *lm.model.buffers())}
    same |= {id(params[name]): leaf for name, leaf in leaves.items()}
    found = replace(lm, model=copy.deepcopy(lm.model, same))
    share_trust(found, lm)
    return found, leaves


def _results(futures: Sequence[Any]) -> list[Any]:
    """Return the results of lanes that have ended. Raises what stopped them, not that others were stopped by it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, LaneStoppedError)), errors[0])
    return [future.result() for future in futures]
