"""The trainable weights of a model, and the float32 masters that the optimizer changes in their place.

A step of 1e-5 × the parameter's scale is far below half a unit in the last place of bfloat16 (2^−9 ≈ 2e-3 relative)
and is rounded away. Measured on a toy model, share of weights changed by 20 steps: 0.3 % without masters against
4.7 % with them at 1e-5, 2.6 % against 39 % at 1e-4. Gradients of micro-batches are added up in float32 for the same
reason, each as soon as the backward pass has it, so that there is never a second set of them in bfloat16.

A master is needed in a step only. While gradients are computed, on a CPU, it is put away as what it has more than the
weight rounded from it: 16 bits. Bytes a weight then, in bfloat16: 2 (model) + 2 (master) + 4 (gradient), and
Adafactor's sums of rows and columns; in float32: 4 + 4.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from rso_core import memory
from rso_core.adafactor import Adafactor
from rso_core.gradient_sinks import BLOCK, Sink, add_in_blocks, give_sink

# (weight, whether nothing follows in this micro-batch) → a block that is entered when to add to its sum
Turn = Callable[[str, bool], AbstractContextManager[object]]


def _at_once(_name: str, _last: bool) -> AbstractContextManager[object]:  # noqa: FBT001 - a Turn
    return nullcontext()


class Weights:
    """Masters by name; weights that are float32 are their own."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {
            name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for name, p in self.params.items()
        }
        self._present: set[str] = set()  # whose gradient is of this step
        self._away: dict[str, torch.Tensor] = {}  # what masters that are put away had more than their weights
        self._hooks: list[Any] = []
        self.collect_from(self.params, _at_once)

    def collect_from(self, leaves: Mapping[str, torch.Tensor], turn: Turn) -> None:
        """Add the gradients of `leaves`, which stand for the weights of these names, to those of the masters."""
        for name, leaf in leaves.items():
            hook = partial(self._collect, name, turn)
            self._hooks.append(leaf.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
            if leaf.dtype != torch.float32:
                give_sink(leaf, Sink(partial(self._adding, name, turn)))

    @property
    def copies(self) -> dict[torch.Tensor, torch.Tensor]:
        """Return which weights of the model are rounded from which masters."""
        return {self.masters[name]: p for name, p in self.params.items() if self.masters[name] is not p}

    def _collect(self, name: str, turn: Turn, leaf: torch.Tensor) -> None:
        """Add the gradient of a weight, or of a leaf in its place, to that of its master."""
        master = self.masters[name]
        with turn(name, True):
            if master is not leaf and leaf.grad is not None:
                if name in self._present and master.grad is not None:
                    add_in_blocks(master.grad, leaf.grad)
                elif master.grad is None:
                    master.grad = leaf.grad.float()
                else:
                    master.grad.copy_(leaf.grad)
                leaf.grad = None
            self._present.add(name)

    @contextmanager
    def _adding(self, name: str, turn: Turn) -> Iterator[torch.Tensor]:
        """Give the gradient of a master, to be added to."""
        master = self.masters[name]
        with turn(name, False):
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            elif name not in self._present:
                master.grad.zero_()
            self._present.add(name)
            yield master.grad

    def begin(self) -> None:
        """Forget the gradients, and put the masters away.

        The memory of the gradients is kept, since fresh memory takes time to fill.
        """
        self._put_away()
        self._present.clear()
        for name, param in self.params.items():
            if self.masters[name] is param:
                param.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Bring the masters back and return the gradients of this step; weights without one have none afterwards."""
        self._bring_back()
        for name, master in self.masters.items():
            if name not in self._present:
                master.grad = None
        return [master.grad for master in self.masters.values() if master.grad is not None]

    @torch.no_grad()
    def _put_away(self) -> None:
        if self._away:
            return
        for name, master in self.masters.items():
            param = self.params[name]
            if param.dtype == torch.bfloat16 and param.device.type == "cpu" and param.is_contiguous():
                self._away[name] = _beyond(master, param)
                master.untyped_storage().resize_(0)
        self._release()

    def _release(self) -> None:
        """Let the system have what was freed: otherwise it would stay beside what other threads take."""
        if self._away:
            memory.release(torch.device("cpu"))

    @torch.no_grad()
    def _bring_back(self) -> None:
        self._release()
        for name in list(self._away):
            master, beyond = self.masters[name], self._away.pop(name)
            master.untyped_storage().resize_(4 * master.numel())
            parts = (master.view(torch.int32), self.params[name].view(torch.int16), beyond)
            for of_master, of_param, more in zip(*(torch.split(p.view(-1), BLOCK) for p in parts), strict=True):
                of_master.copy_(of_param).bitwise_left_shift_(16).add_(more)

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for master, param in self.copies.items():
            param.copy_(master)

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a checkpoint."""
        for name, master in self.masters.items():
            master.copy_(saved[name])
        self.publish()

    def release(self) -> None:
        """Let the model be an ordinary one again."""
        for hook in self._hooks:
            hook.remove()
        for param in self.params.values():
            give_sink(param, None)
        for tensor in (*self.masters.values(), *self.params.values()):
            tensor.grad = None


def _beyond(master: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Return how far float32 numbers lie from their roundings to bfloat16, in units of their last place: an int16.

    Those are the low 16 bits, taken with a sign. One number in 65,536, exactly half-way and rounded down, would need
    32,768: it loses one unit of its last place.
    """
    halves = master.view(-1).view(torch.int16).view(-1, 2)
    low, high = halves.unbind(dim=1)  # low bits first, as on every machine served
    found = low.clone()
    half_way = (found == torch.iinfo(torch.int16).min).nonzero()
    down = half_way[high[half_way] == param.view(-1).view(torch.int16)[half_way]]
    found[down] = torch.iinfo(torch.int16).max
    return found


class Optimizer:
    """The optimizer of a configuration (the JSON of a TrainingConfig); its step leaves the result in the model too."""

    def __init__(self, weights: Weights, settings: Mapping[str, Any]) -> None:
        self._weights = weights
        masters, rate = list(weights.masters.values()), settings["learning_rate"]
        self._publishes = settings["optimizer"] == "adafactor"
        self.inner: torch.optim.Optimizer = (
            Adafactor(masters, lr=rate, copies=weights.copies)
            if self._publishes
            else torch.optim.AdamW(masters, lr=rate, weight_decay=0.0, fused=_fused(masters))
        )

    def step(self) -> None:
        """Change masters and model by the gradients."""
        self.inner.step()
        if not self._publishes:
            self._weights.publish()


def _fused(masters: Sequence[torch.Tensor]) -> bool | None:
    """Return whether the one kernel that does all of AdamW's arithmetic exists here (None: torch's default)."""
    return True if masters and all(m.device.type in {"cpu", "cuda"} for m in masters) else None
