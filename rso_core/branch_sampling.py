"""Sample many responses to each prompt of a decoder-only model: prompts read once, rows that end replaced at once.

`Flight` keeps up to so many rows going. A row is one response; when it ends its place goes to the next response, of the
same prompt or of the next one, so that the batch stays full until the last prompts. A prompt is read when its first response
begins and forgotten when its last one has ended.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rso_core.attention import ATTENTION
from rso_core.branch_attention import Branches, branch_cache
from rso_core.models import LanguageModel
from rso_core.ready_weights import ReadyWeights
from rso_core.token_sampling import Response, Sampling, sample_tokens

_REFILL = 8  # new rows begin when an eighth of the batch has ended: each beginning costs the same however many begin
_COMPACT = (
    4  # when nothing is left to begin, a quarter of the batch must have ended before the others are moved together
)


class Flight:
    """The rows in flight: which response each one is, its random numbers, and the tokens drawn so far.

    `uniforms(i)` gives the random numbers of prompt i, [responses, steps] of float64.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Sequence[int]],
        uniforms: Callable[[int], Tensor],
        sampling: Sampling,
        *,
        num_responses: int,
        rows: int,
    ) -> None:
        self._lm, self._prompts, self._uniforms_of, self._sampling = lm, prompts, uniforms, sampling
        self._waiting = [(prompt, response) for prompt in range(len(prompts)) for response in range(num_responses)][
            ::-1
        ]
        self._found: list[dict[int, Response]] = [{} for _ in prompts]
        self._num_responses = num_responses
        rows, steps = min(rows, len(self._waiting)), sampling.max_new_tokens
        self._owner: list[tuple[int, int]] = [(0, 0)] * rows
        self._uniforms = torch.zeros(rows, steps, dtype=torch.float64, device=lm.device)
        self._tokens = torch.zeros(rows, steps, dtype=torch.long, device=lm.device)
        self._age = torch.zeros(rows, dtype=torch.long, device=lm.device)  # tokens drawn
        self._position = torch.zeros_like(self._age)  # of the next token that is read
        self._last = torch.zeros_like(self._age)  # the token that is read next
        self._branches = Branches(rows, lm.device)
        self._cache: Any = branch_cache(lm.plain.config, self._branches)
        self._weights = ReadyWeights(lm, rows)
        self._first: tuple[int, Tensor, Tensor] | None = None  # the prompt read last: its logits and random numbers

    def suits(self) -> bool:
        """Return whether the model computes attention as this needs it; reads the first prompt to find out."""
        if self._cache is None or self._lm.plain.config._attn_implementation != ATTENTION:  # noqa: SLF001 - its only place
            return False
        self._read(0)
        return all(layer.reached for layer in self._cache.layers)

    def responses(self) -> Iterator[list[Response]]:
        """Yield the responses to each prompt, in order."""
        for found in self._found:
            while len(found) < self._num_responses:
                self._refill()
                if bool(self._branches.live.any()):
                    self._step()
            yield [found.pop(response) for response in range(self._num_responses)]

    @torch.inference_mode()
    def _read(self, prompt: int) -> tuple[Tensor, Tensor]:
        """Return the next-token logits [1, vocabulary] after a prompt and its random numbers; reads it once."""
        if self._first is None or self._first[0] != prompt:
            ids = torch.tensor([list(self._prompts[prompt])], device=self._lm.device)
            self._branches.reading = prompt
            logits = self._forward(ids, torch.arange(ids.shape[1], device=ids.device)[None])
            self._branches.reading = None
            self._first = prompt, logits, self._uniforms_of(prompt).to(ids.device)
        return self._first[1:]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        with self._weights.used():
            output = self._lm.model(
                input_ids=ids, position_ids=positions, cache=self._cache, use_cache=True, logits_to_keep=1
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def _refill(self) -> None:
        """Begin waiting responses where rows have ended."""
        free = (~self._branches.live).nonzero().squeeze(1)
        if len(free) < min(len(self._age) // _REFILL, len(self._waiting)):
            return
        while len(free) and self._waiting:
            prompt, first = self._waiting[-1]
            count = min(len(free), self._num_responses - first)
            del self._waiting[-count:]
            free = free[self._begin(prompt, range(first, first + count), free[:count]) :]

    def _begin(self, prompt: int, responses: range, rows: Tensor) -> int:
        """Draw the first tokens of `responses`, give those that go on some of `rows`, and return how many."""
        logits, uniforms = self._read(prompt)
        uniforms = uniforms[responses.start : responses.stop]
        drawn = self._draw(logits, uniforms[:, 0])
        going = ((drawn != self._lm.eos_id) & (self._sampling.max_new_tokens > 1)).nonzero().squeeze(1)
        for i in set(range(len(responses))).difference(going.tolist()):
            self._finish(prompt, responses[i], [int(drawn[i])])
        rows = rows[: len(going)]
        for row, i in zip(rows.tolist(), going.tolist(), strict=True):
            self._owner[row] = prompt, responses[i]
        self._uniforms[rows], self._last[rows] = uniforms[going], drawn[going]
        self._tokens[rows, 0], self._age[rows] = drawn[going], 1
        self._position[rows] = len(self._prompts[prompt])
        self._branches.start(rows, prompt)
        return len(rows)

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        return sample_tokens(logits, uniforms, self._sampling)

    @torch.inference_mode()
    def _step(self) -> None:
        """Draw the next token of each row."""
        self._branches.advance()
        logits = self._forward(self._last[:, None], self._position[:, None])
        live, steps = self._branches.live, self._sampling.max_new_tokens
        rows, step = torch.arange(len(live), device=live.device), self._age.clamp(max=steps - 1)
        self._last = self._draw(logits, self._uniforms[rows, step])
        self._tokens[rows, step] = self._last
        # Rows that are nobody's stay where they are: their positions must not leave the model's context.
        self._age, self._position = self._age + live, self._position + live
        ended = (live & ((self._last == self._lm.eos_id) | (self._age == steps))).nonzero().squeeze(1)
        if len(ended):
            self._end(ended)

    def _end(self, rows: Tensor) -> None:
        for row, ids, age in zip(rows.tolist(), self._tokens[rows].tolist(), self._age[rows].tolist(), strict=True):
            prompt, response = self._owner[row]
            self._finish(prompt, response, ids[:age])
        self._branches.end(rows)
        live = self._branches.live.nonzero().squeeze(1)
        if not self._waiting and 0 < len(live) <= len(self._age) * (_COMPACT - 1) // _COMPACT:
            self._keep(live)

    def _finish(self, prompt: int, response: int, ids: list[int]) -> None:
        found = self._found[prompt]
        found[response] = Response(ids, truncated=ids[-1] != self._lm.eos_id)
        if len(found) == self._num_responses:
            for layer in self._cache.layers:
                layer.prompts.pop(prompt)

    def _keep(self, rows: Tensor) -> None:
        """Move these rows together and drop the others."""
        self._owner = [self._owner[row] for row in rows.tolist()]
        self._uniforms, self._tokens, self._age = self._uniforms[rows], self._tokens[rows], self._age[rows]
        self._position, self._last = self._position[rows], self._last[rows]
        self._branches.keep(rows)
        for layer in self._cache.layers:
            layer.keep(rows)
