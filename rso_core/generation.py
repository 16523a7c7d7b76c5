"""Sample responses from a policy, with every sampling setting explicit and randomness per prompt.

Loops of our own instead of `model.generate`: nothing can come from a model's generation_config, a prompt is read once
for all of its responses, and finished responses leave the batch. The random numbers of a prompt come from its own seed
alone, so its responses do not depend on the shard or the batch it is in (up to the rounding of the forward pass, which
batch shapes change). Many responses to a prompt, and large models on a CPU, are `branch_sampling`; here are one response a
prompt of small models, T5, and models whose attention is out of the ordinary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from rso_core.branch_sampling import Flight
from rso_core.cross_attention import cross_cache
from rso_core.errors import UserError
from rso_core.kv_cache import even_rows, roomy_cache, rows_that_fit, tokens_of_a_row
from rso_core.models import LanguageModel
from rso_core.ready_weights import ReadyWeights
from rso_core.token_sampling import Response, Sampling, sample_tokens

_BRANCHES = 4  # responses from which on a prompt is read apart from them
_LARGE = 50_000_000  # parameters from which on padding costs more than reading prompts one by one, on a CPU


def generate(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], *, seeds: Sequence[int], **settings: Any
) -> list[list[Response]]:
    """Return what `responses` yields."""
    return list(responses(lm, prompts, seeds=seeds, **settings))


def responses(  # noqa: PLR0913 - every sampling setting is explicit
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_responses: int,
    temperature: float,
    top_k: int,
    max_new_tokens: int,
    seeds: Sequence[int],
    batch_size: int,
) -> Iterator[list[Response]]:
    """Yield `num_responses` responses to each prompt of token ids, in the order of the prompts.

    `top_k` 0 samples among all tokens, 1 is greedy. At most `batch_size` responses are decoded at once (an eighth more
    when that saves a pass), fewer where memory is short.
    Raises UserError when a prompt with its response does not fit the model's context, or when the model computes NaN.
    """
    _check(lm, prompts, max_new_tokens)
    sampling = Sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens)

    def uniforms(prompt: int) -> Tensor:
        return _uniforms(seeds[prompt], max_new_tokens, num_responses)

    # A prompt is kept once for many responses (by models that read it apart), or else in every row.
    longest = max(map(len, prompts), default=0)
    tokens = tokens_of_a_row(max_new_tokens, longest, num_responses if num_responses >= _BRANCHES else 1)
    if lm.family == "causal" and prompts and max_new_tokens and _reads_apart(lm, num_responses):
        rows = rows_that_fit(lm, tokens, most=even_rows(num_responses * len(prompts), batch_size))
        flight = Flight(lm, prompts, uniforms, sampling, num_responses=num_responses, rows=rows)
        if flight.suits():
            yield from flight.responses()
            return
    batch_size = rows_that_fit(lm, tokens, most=batch_size)
    yield from _padded(lm, prompts, uniforms, sampling, num_responses=num_responses, batch_size=batch_size)


def _reads_apart(lm: LanguageModel, num_responses: int) -> bool:
    """Return whether every prompt goes through the model by itself, and the rows attend to it there."""
    return num_responses >= _BRANCHES or (lm.device.type == "cpu" and lm.num_parameters >= _LARGE)


def _padded(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Callable[[int], Tensor],
    sampling: Sampling,
    *,
    num_responses: int,
    batch_size: int,
) -> Iterator[list[Response]]:
    """Yield the responses of any model: each row holds its prompt, padded to the longest of its block."""
    if not prompts:
        return
    found: list[list[Response]] = []
    weights = ReadyWeights(lm, min(batch_size, len(prompts) * num_responses))
    for block, width in _blocks(len(prompts), num_responses, batch_size):
        with torch.inference_mode():
            numbers = torch.cat([uniforms(i)[width] for i in block])
            branches = len(numbers) // len(block)
            decoding = _Decoding(lm, [prompts[i] for i in block], branches, weights)
            sampled = _decode(decoding, numbers.to(lm.device), sampling)
        if width.start == 0:
            found = [[] for _ in block]
        for row, response in enumerate(sampled):
            found[row // branches].append(response)
        if width.stop == num_responses:
            yield from found


def generate_one(
    lm: LanguageModel,
    prompt: Sequence[int],
    *,
    temperature: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    on_token: Callable[[int], None],
) -> Response:
    """Return the response that `generate` returns for this prompt and seed, telling its tokens as they are drawn."""
    _check(lm, [prompt], max_new_tokens)
    sampling = Sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens)
    with torch.inference_mode():
        uniforms = _uniforms(seed, max_new_tokens, 1).to(lm.device)
        (response,) = _decode(
            _Decoding(lm, [prompt], 1, ReadyWeights(lm, 1)),
            uniforms,
            sampling,
            on_drawn=lambda drawn: on_token(int(drawn[0])),
        )
    return response


def _check(lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    longest, limit = max((len(ids) for ids in prompts), default=1), lm.context_limit
    if limit is not None and longest + max_new_tokens > limit:
        message = (
            f"a prompt of {longest} tokens with a response of up to {max_new_tokens} exceeds the model's context of {limit} "
            f"tokens; lower data.max_prompt_tokens or data.max_response_tokens"
        )
        raise UserError(message)
    if any(len(ids) == 0 for ids in prompts):
        message = "a prompt must hold at least one token; this one is empty"
        raise UserError(message)


def _blocks(prompts: int, responses: int, batch_size: int) -> Iterator[tuple[range, slice]]:
    """Yield (prompts, their responses) to decode at once: several prompts whole, or a part of one prompt's responses.

    The parts are of equal size: 64 candidates and one baseline take one pass at batch size 64, not two.
    """
    together, width = max(1, batch_size // responses), even_rows(responses, batch_size)
    for start in range(0, prompts, together):
        block = range(start, min(start + together, prompts))
        for first in range(0, responses, width):
            yield block, slice(first, min(first + width, responses))


def _uniforms(seed: int, steps: int, responses: int) -> Tensor:
    """Return a prompt's random numbers [responses, steps]; a longer limit only adds to them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, responses, generator=generator, dtype=torch.float64).T


@dataclass
class _Decoding:
    """The state of sequences that are decoded together: cache, masks and positions, one row a sequence."""

    lm: LanguageModel
    prompts: Sequence[Sequence[int]]
    branches: int
    weights: ReadyWeights
    cache: Any = field(init=False)
    mask: Tensor = field(init=False)
    encoded: Tensor | None = field(init=False, default=None)

    def start(self) -> Tensor:
        """Read each prompt once, branch, and return the next-token logits [rows, vocabulary]."""
        padded, self.mask = pad_left(self.prompts, self.lm.pad_id, self.lm.device)
        if self.lm.family == "causal":
            self.cache = roomy_cache(self.lm.plain.config)
            logits = self._forward(input_ids=padded, position_ids=positions(self.mask))
        else:
            self.encoded = self.lm.plain.get_encoder()(input_ids=padded, attention_mask=self.mask).last_hidden_state
            config = self.lm.plain.config
            read = cross_cache(config, self.mask) if self.branches >= _BRANCHES else DynamicCache(config=config)
            self.cache = EncoderDecoderCache(roomy_cache(config), read)
            first = torch.full((len(padded), 1), decoder_start_id(self.lm), device=self.lm.device)
            logits = self._forward(decoder_input_ids=first)
        rows = torch.arange(len(padded), device=self.lm.device).repeat_interleave(self.branches)
        self.keep(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row and return the next-token logits."""
        if self.lm.family == "seq2seq":
            return self._forward(decoder_input_ids=tokens[:, None])
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self._forward(input_ids=tokens[:, None], position_ids=positions(self.mask)[:, -1:])

    def keep(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        if self.encoded is not None:
            # Only its shape is looked at from here on: the keys and values made of it are in the cache.
            self.encoded = self.encoded[:1].expand(len(rows), -1, -1)

    def _forward(self, **inputs: Tensor) -> Tensor:
        if self.encoded is not None:
            inputs["encoder_outputs"] = (self.encoded,)  # type: ignore[assignment]
        else:
            inputs["logits_to_keep"] = 1  # type: ignore[assignment]
        with self.weights.used():
            output = self.lm.model(**inputs, attention_mask=self.mask, cache=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1]
        return logits


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the left and their mask, both [batch, longest]."""
    width = max(len(ids) for ids in sequences)
    padded = [[pad_id] * (width - len(ids)) + list(ids) for ids in sequences]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in sequences]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def positions(mask: Tensor) -> Tensor:
    """Return the position of each token, counted from its sequence's first real token."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def decoder_start_id(lm: LanguageModel) -> int:
    """Return the token a T5 decoder starts with."""
    start = lm.plain.config.decoder_start_token_id
    return lm.pad_id if start is None else int(start)


def _decode(
    decoding: _Decoding, uniforms: Tensor, sampling: Sampling, *, on_drawn: Callable[[Tensor], None] | None = None
) -> list[Response]:
    """Sample one response a row of `uniforms` [rows, steps]; compact the batch whenever half of it has finished."""
    rows, steps = uniforms.shape
    eos = decoding.lm.eos_id
    tokens = torch.full((rows, steps), eos, dtype=torch.long, device=uniforms.device)
    done = torch.zeros(rows, dtype=torch.bool, device=uniforms.device)
    active = torch.arange(rows, device=uniforms.device)  # which response each row of the batch is
    logits = decoding.start()
    for step in range(steps):
        drawn = sample_tokens(logits, uniforms[active, step], sampling)
        drawn = torch.where(done[active], eos, drawn)
        tokens[active, step] = drawn
        if on_drawn is not None:
            on_drawn(drawn)
        done[active] |= drawn == eos
        going = ~done[active]
        if step + 1 == steps or not bool(going.any()):
            break
        if int(going.sum()) * 2 <= len(active):
            rest = going.nonzero().squeeze(1)
            decoding.keep(rest)
            active, drawn = active[rest], drawn[rest]
        logits = decoding.step(drawn)
    return [_response(ids, eos) for ids in tokens.tolist()] if steps else [Response([], truncated=True)] * rows


def _response(ids: list[int], eos: int) -> Response:
    """Cut after the first EOS; the array was filled with EOS, so a response without one reached the limit."""
    if eos in ids:
        return Response(ids[: ids.index(eos) + 1], truncated=False)
    return Response(ids, truncated=True)
