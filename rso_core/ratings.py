"""What raters said, as narrow arrays: one row per counted answer. `human_eval` and its siblings compute from these.

Everything is by system: `quality[a, s]` is what answer `a` gave system `s`, never what stood at a place on the screen;
`order[a]` says which system stood where, from left to right.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME = -1  # the choice "about the same"

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FLOATS = frozenset({"quality", "length", "active_seconds"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratings:
    """The counted answers of a campaign. Arrays (or nested lists) of n rows; S is the number of systems.

    `item`, `rater`: keys, [n]. `item_root`: the key of the conversation root of the item's prompt, [n]; items of one
    root are never taken for independent. `quality`: [n, S]. `choice`: index of the preferred system or SAME, [n].
    `order`: system indices from left to right, [n, S].

    Where known: `length`: of the item's responses in any unit, [n, S]. `twins`: [n, S], equal numbers in a row mark
    responses of the same text. `active_seconds`: [n]. What belongs to an item is repeated in its answers' rows.
    `scale`: the lowest and the highest quality that could be given.

    Raises ValueError when shapes or values do not fit.
    """

    item: Integers
    rater: Integers
    item_root: Integers
    quality: Numbers
    choice: Integers
    order: Integers
    length: Numbers | None = None
    twins: Integers | None = None
    active_seconds: Numbers | None = None
    scale: tuple[int, int] = (1, 5)

    def __post_init__(self) -> None:
        for name, value in self.columns().items():
            object.__setattr__(self, name, np.asarray(value, dtype=np.float64 if name in _FLOATS else np.int64))
        if not len(self):  # an empty list has no second axis
            self._give_empty_columns_their_shape()
        self._check_shapes()
        self._check_values()

    def __len__(self) -> int:
        return len(self.item)

    @property
    def systems(self) -> int:
        """The number of systems, 2 or more."""
        return int(self.quality.shape[1])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "scale"}
        return {name: value for name, value in named.items() if value is not None}

    def rows(self, which: Flags | Integers) -> "Ratings":
        """Return the answers that a mask or indices pick, in that order."""
        picked: dict[str, Any] = {name: value[which] for name, value in self.columns().items()}
        return Ratings(**picked, scale=self.scale)

    def in_order(self) -> "Ratings":
        """Return the answers by item and rater: the order that sums are taken in, whatever order they came in."""
        return self.rows(np.lexsort((self.rater, self.item)))

    def has_twins(self) -> Flags:
        """Return for each answer whether two responses of its item have the same text, [n]."""
        if self.twins is None:
            return np.zeros(len(self), dtype=np.bool_)
        ordered = np.sort(self.twins, axis=1)
        return np.asarray((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))

    def alike(self) -> Flags:
        """Return which systems' responses have the same text in an answer's item, [n, S, S]; each is like itself."""
        if self.twins is None:
            return np.broadcast_to(np.eye(self.systems, dtype=np.bool_), (len(self), self.systems, self.systems))
        return np.asarray(self.twins[:, :, None] == self.twins[:, None, :])

    def _give_empty_columns_their_shape(self) -> None:
        systems = self.quality.shape[1] if self.quality.ndim > 1 else 2
        for name in {"quality", "order", "length", "twins"} & self.columns().keys():
            empty = np.zeros((0, systems), dtype=np.float64 if name in _FLOATS else np.int64)
            object.__setattr__(self, name, empty)

    def _check_shapes(self) -> None:
        if self.quality.ndim != 2 or self.quality.shape[1] < 2:  # noqa: PLR2004 - a comparison needs two
            message = f"`quality` must have shape [answers, systems] with 2 systems or more, got {self.quality.shape}"
            raise ValueError(message)
        wide = {"quality", "order", "length", "twins"}
        for name, value in self.columns().items():
            wanted = (len(self), self.systems) if name in wide else (len(self),)
            if value.shape != wanted:
                message = f"`{name}` must have shape {wanted}, got {value.shape}"
                raise ValueError(message)

    def _check_values(self) -> None:
        low, high = self.scale
        if low >= high:
            message = f"`scale` must be (lowest, highest), got {self.scale}"
            raise ValueError(message)
        on_scale = (self.quality >= low) & (self.quality <= high) & (self.quality == np.round(self.quality))
        _must_hold(on_scale, self.quality, f"`quality` must be a whole number from {low} to {high}")
        chosen = (self.choice >= SAME) & (self.choice < self.systems)
        _must_hold(chosen, self.choice, f"`choice` must be {SAME} (same) or a system from 0 to {self.systems - 1}")
        each_once = (np.sort(self.order, axis=1) == np.arange(self.systems)).all(axis=1)
        _must_hold(each_once, self.order, f"`order` must name the systems 0 to {self.systems - 1} once each")
        by_item = self.item_root[np.lexsort((self.item_root, self.item))]
        items = np.sort(self.item)
        one_root = (items[1:] != items[:-1]) | (by_item[1:] == by_item[:-1])
        _must_hold(one_root, items[1:], "an item must have one `item_root` in all of its answers")


def _must_hold(right: Flags, values: NDArray[Any], rule: str) -> None:
    if not right.all():
        message = f"{rule}, got {values[~right][0]}"
        raise ValueError(message)
