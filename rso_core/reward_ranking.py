"""The pairwise text-to-text reward-ranking model ρ_ψ: training, rewards, preferences, held-out accuracy.

The model reads context and two responses, A and B, and answers with the token `A` or `B`:
ρ(x, y1, y2) = P(A | y1 as A, y2 as B), normalised over the two labels, so that its logit is the difference of the
two labels' logits. The mass outside of them, 1 − P(A) − P(B) over the full vocabulary, is reported.

Ours, not the paper's: both orders' logits are averaged (`order_average`), which makes ρ(a, b) = 1 − ρ(b, a).
Without it, the reward of a decoder-only model is −logit P(A | y_b, y), since there the baseline comes first; ρ itself
is P(A | y1, y2) for both families. Scores do not depend on batch size beyond rounding.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rso_core.artifacts import Row
from rso_core.errors import UserError
from rso_core.generation import decoder_start_id, pad_left, positions
from rso_core.grouped_forward import pad_right
from rso_core.protocol import Event, Log
from rso_core.templates import ResponsesTooLongError, RewardInput, label_ids, reward_input_ids
from rso_core.training import BatchLoss, Drawn, Objective, train
from rso_core.vocabulary import Task, text_digest
from rso_core.win_rate import win_rate

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

OnProgress = Callable[[int, int], None]
_BOOTSTRAP_DRAWS = 1000
SHARED_TOKENS = 16  # a shorter beginning is not worth a pass of its own


def _nobody_watches(_units: int, _tokens: int) -> None:
    return None


@dataclass(frozen=True)
class Shown:
    """A comparison as the model sees it: `first` is A, `second` is B."""

    context: str
    first: str
    second: str


@dataclass(frozen=True)
class Reader:
    """Turns comparisons into token ids, and answers them with the model."""

    lm: "LanguageModel"
    task: Task
    max_length: int

    def encode(self, shown: Shown) -> RewardInput:
        """Return the input. Raises ResponsesTooLongError when the two responses alone do not fit."""
        limit = self.lm.context_limit
        return reward_input_ids(
            self.lm.tokenizer,
            self.lm.family,
            task=self.task,
            context=shown.context,
            first=shown.first,
            second=shown.second,
            max_length=self.max_length if limit is None else min(self.max_length, limit),
        )

    @torch.no_grad()
    def answer(
        self, shown: Sequence[Shown], *, batch_size: int, on_progress: OnProgress = _nobody_watches
    ) -> "Answers":
        """Return the answers to comparisons, in order. Equal ones are answered once; short ones go together."""
        ids = {one: array("i", self.encode(one).ids) for one in dict.fromkeys(shown)}  # a list takes 9 times the memory
        # By the ids too, so that the same questions make the same batches in whatever order they are asked.
        order = sorted(ids, key=lambda one: (len(ids[one]), ids[one]))
        uses = dict.fromkeys(order, 0)
        for one in shown:
            uses[one] += 1
        found: dict[Shown, tuple[float, float]] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits, outside = label_logits(self.lm, [ids[one].tolist() for one in batch])
            found |= dict(zip(batch, zip(logits.tolist(), outside.tolist(), strict=True), strict=True))
            on_progress(sum(uses[one] for one in batch), sum(len(ids[one]) for one in batch))
        tokens = sum(map(len, ids.values()))
        return Answers([found[one][0] for one in shown], [found[one][1] for one in shown], tokens)


@dataclass(frozen=True)
class Answers:
    """logit P(A), and 1 − P(A) − P(B), of each comparison; `tokens` is what was read for them."""

    logits: list[float]
    outside_mass: list[float]
    tokens: int


@dataclass(frozen=True)
class Rewards:
    """r_ψ of each response; the logits it was made of (None: not needed); see `rewards`."""

    rewards: list[float]
    logit_first: list[float] | None
    logit_second: list[float] | None
    outside_mass: list[float]
    tokens: int


def vocabulary_logits(lm: "LanguageModel", sequences: Sequence[list[int]]) -> Tensor:
    """Return the logits, [sequences, vocabulary] in float32, of the token after each input.

    Only the last position goes through the output embedding. Decoder-only inputs are padded on the left, so that
    their last tokens line up; T5's are padded on the right and answered at the decoder's first position.
    """
    with _float32_output(lm):
        if lm.family == "causal":
            output = _causal_output(lm, sequences)
        else:
            ids, mask = pad_right(sequences, lm.pad_id, lm.device)
            start = torch.full_like(ids[:, :1], decoder_start_id(lm))
            output = lm.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False)
    logits: Tensor = output.logits[:, -1].float()
    return logits


@contextmanager
def _float32_output(lm: "LanguageModel") -> Iterator[None]:
    """Make the output embedding answer in float32.

    Logits near 16 are 0.125 apart in bfloat16, so that one comparison in ten would be an exact tie.
    """
    head = lm.plain.get_output_embeddings()
    if head.weight.dtype == torch.float32:
        yield
        return

    def in_float32(module: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.float()
        return torch.nn.functional.linear(inputs[0].float(), module.weight.float(), bias)

    hook = head.register_forward_hook(in_float32)
    try:
        yield
    finally:
        hook.remove()


def _causal_output(lm: "LanguageModel", sequences: Sequence[list[int]]) -> Any:
    """Return the model's output at the last tokens. What all inputs begin with is read once, unless gradients flow."""
    shared = 0 if torch.is_grad_enabled() else shared_prefix(sequences)
    cache = DynamicCache(config=lm.plain.config)
    whole = all(type(layer) is DynamicLayer for layer in cache.layers)  # sliding windows forget the beginning
    if shared < SHARED_TOKENS or len(sequences) == 1 or not whole:
        ids, mask = pad_left(sequences, lm.pad_id, lm.device)
        return lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=1
        )
    ids, mask = pad_left([sequence[shared:] for sequence in sequences], lm.pad_id, lm.device)
    prefix = torch.tensor([sequences[0][:shared]], device=lm.device)
    lm.model(input_ids=prefix, cache=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(sequences))
    mask = torch.cat([mask.new_ones(len(mask), shared), mask], dim=1)
    places = positions(mask)[:, shared:]
    return lm.model(
        input_ids=ids, attention_mask=mask, position_ids=places, cache=cache, use_cache=True, logits_to_keep=1
    )


def shared_prefix(sequences: Sequence[list[int]]) -> int:
    """Return how many tokens all sequences begin with, at least one of each left out."""
    first, last = min(sequences), max(sequences)  # in between, all others begin with what these two share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(same, min(map(len, sequences)) - 1)


def label_logits(lm: "LanguageModel", sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Return logit P(A) and the mass outside A and B, both [sequences]."""
    logits = vocabulary_logits(lm, sequences)
    labels = logits[:, list(label_ids(lm.tokenizer, lm.family))]
    inside = (labels.logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()
    return labels[:, 0] - labels[:, 1], 1 - inside


def rewards(  # noqa: PLR0913 - settings, all keyword-only
    lm: "LanguageModel",
    *,
    context: str,
    responses: Sequence[str],
    baseline: str,
    task: Task,
    max_length: int,
    order_average: bool,
    batch_size: int,
) -> Rewards:
    """Return the induced reward (eq. 7) of a prompt's responses against its baseline y_b.

    r(y) = ½[logit P(A | y, y_b) − logit P(A | y_b, y)]; without `order_average` its first term alone for T5, its
    second for decoder-only models. Raises UserError when a comparison does not fit into `max_length` tokens.
    """
    reader = Reader(lm, task, max_length)
    needs_first = order_average or lm.family == "seq2seq"
    needs_second = order_average or lm.family == "causal"
    # One order after the other: comparisons of one order begin with the same tokens.
    orders = [[Shown(context, y, baseline) for y in responses]] if needs_first else []
    orders += [[Shown(context, baseline, y) for y in responses]] if needs_second else []
    answers = [reader.answer(order, batch_size=batch_size) for order in orders]
    logits = np.array([one.logits for one in answers])
    outside = np.array([one.outside_mass for one in answers])
    signs = np.array([1.0] * needs_first + [-1.0] * needs_second)[:, None]
    return Rewards(
        rewards=(signs * logits).mean(axis=0).tolist(),
        logit_first=logits[0].tolist() if needs_first else None,
        logit_second=logits[-1].tolist() if needs_second else None,
        outside_mass=outside.mean(axis=0).tolist(),
        tokens=sum(one.tokens for one in answers),
    )


def prefer(
    lm: "LanguageModel",
    triples: Sequence[tuple[str, str, str]],
    *,
    task: Task,
    max_length: int,
    order_average: bool,
    batch_size: int,
    on_progress: OnProgress = _nobody_watches,
) -> list[float]:
    """Return ρ(x, y1, y2) of triples (x, y1, y2), in order; `on_progress` gets finished triples and tokens."""
    reader = Reader(lm, task, max_length)
    shown = [Shown(*triple) for triple in triples]
    orders = [shown, [Shown(one.context, one.second, one.first) for one in shown]] if order_average else [shown]
    both = [one for order in orders for one in order]
    answers = reader.answer(both, batch_size=batch_size, on_progress=_in_units(on_progress, len(orders)))
    logits = np.array(answers.logits).reshape(len(orders), -1)
    margin = logits[0] if len(orders) == 1 else (logits[0] - logits[1]) / 2
    return [_sigmoid(value) for value in margin.tolist()]


def _in_units(on_progress: OnProgress, answers_a_unit: int) -> OnProgress:
    """Return a listener to answers that reports units of several answers, none twice and none left over."""
    answered = 0

    def on_answers(answers: int, tokens: int) -> None:
        nonlocal answered
        before, answered = answered, answered + answers
        on_progress(answered // answers_a_unit - before // answers_a_unit, tokens)

    return on_answers


def _sigmoid(value: float) -> float:
    """Return σ(value), such that σ(v) = 1 − σ(−v) exactly."""
    if value < 0:
        return 1 - _sigmoid(-value)
    return 1 / (1 + math.exp(-value))


@dataclass(frozen=True)
class _Pair:
    """A human pair to learn from; `number` is its place in the data, which seeds its flips."""

    number: int
    context: str
    chosen: str
    rejected: str
    length: int

    def shown(self, flipped: bool) -> Shown:  # noqa: FBT001 - the only thing there is to say
        first, second = (self.rejected, self.chosen) if flipped else (self.chosen, self.rejected)
        return Shown(self.context, first, second)


def is_flipped(seed: int, number: int, epoch: int) -> bool:
    """Return whether a pair is shown with the loser first in a pass over the data: a fair, reproducible coin."""
    return int(text_digest(f"{seed}:flip:{number}:{epoch}"), 16) % 2 == 1


@dataclass
class _Read:
    """The pairs that fit into the length limit, and what was done to the rows."""

    pairs: list[_Pair] = field(default_factory=list)
    excluded_rows: int = 0
    truncated_contexts: int = 0
    escaped_markers: int = 0


def _read(reader: Reader, rows: Iterable[Row]) -> _Read:
    found = _Read()
    for number, row in enumerate(rows):
        shown = Shown(row["prompt"], row["chosen"], row["rejected"])
        try:
            encoded = reader.encode(shown)
        except ResponsesTooLongError:
            found.excluded_rows += 1
            continue
        found.truncated_contexts += encoded.truncated
        found.escaped_markers += encoded.escaped
        found.pairs.append(_Pair(number, shown.context, shown.first, shown.second, len(encoded.ids)))
    return found


def train_reward(  # noqa: PLR0913 - as every training, plus how comparisons are read
    lm: "LanguageModel",
    rows: Sequence[Row],
    training: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
    task: Task,
    max_length: int,
) -> dict[str, Any]:
    """Train `lm` in place on D_hf and return what `training.train` returns, with the rows left out and kept.

    The loss is the cross-entropy of the label over the full vocabulary, which keeps the mass outside the labels
    small; its mean over pairs. Raises UserError when no row fits into `max_length` tokens.
    """
    reader = Reader(lm, task, max_length)
    read = _read(reader, rows)
    if not read.pairs:
        message = (
            f"no human pair is left to train the reward model on: all {len(rows)} have responses that do not fit into "
            f"{max_length} tokens; raise reward.max_length"
        )
        raise UserError(message)
    if read.excluded_rows:
        text = f"{read.excluded_rows} of {len(rows)} human pairs do not fit into {max_length} tokens and are left out"
        emit(Log(level="warning", message=text))
    objective = Objective[_Pair](
        section="reward",
        items=read.pairs,
        loss=lambda batch: _label_loss(reader, batch, seed),
        length=lambda pair: pair.length,
    )
    result = train(lm, objective, training, seed=seed, checkpoint_dir=checkpoint_dir, attempt=attempt, emit=emit)
    counts = {name: value for name, value in vars(read).items() if name != "pairs"}
    return {"pairs": len(read.pairs), **counts, **result}


def _label_loss(reader: Reader, batch: Sequence[Drawn[_Pair]], seed: int) -> BatchLoss:
    """Return −log P(label) summed over pairs, each shown in the order its coin says."""
    flips = [is_flipped(seed, drawn.item.number, drawn.epoch) for drawn in batch]
    sequences = [reader.encode(drawn.item.shown(flip)).ids for drawn, flip in zip(batch, flips, strict=True)]
    log_probs = vocabulary_logits(reader.lm, sequences).log_softmax(dim=1)
    both = log_probs[:, list(label_ids(reader.lm.tokenizer, reader.lm.family))]
    winner = torch.tensor(flips, dtype=torch.long, device=both.device)[:, None]
    of_winner = both.gather(1, winner)
    margin = (of_winner - both.gather(1, 1 - winner)).detach()
    return BatchLoss(
        total=-of_winner.sum(),
        sums={
            "accuracy": float(((margin > 0) + 0.5 * (margin == 0)).sum()),
            "margin": float(margin.sum()),
            "outside_mass": float((1 - both.detach().exp().sum(dim=1)).sum()),
        },
        tokens=sum(map(len, sequences)),
    )


def heldout_accuracy(  # noqa: PLR0913 - settings, all keyword-only
    lm: "LanguageModel",
    rows: Sequence[Row],
    *,
    order_average: bool,
    batch_size: int,
    seed: int,
    on_progress: OnProgress,
    task: Task,
    max_length: int,
) -> dict[str, Any]:
    """Return how often the model agrees with held-out human pairs, beside what blind rules reach.

    Each rate has a 95 % interval by bootstrap over conversation roots; ties count ½. Without `order_average` each
    pair is judged in one order, drawn by seed; `first_shown_wins` uses the same draw.
    """
    reader = Reader(lm, task, max_length)
    read = _read(reader, rows)
    kept = {pair.number: pair for pair in read.pairs}
    counts = {"heldout_pairs": len(kept), "heldout_excluded_rows": read.excluded_rows}
    if not kept:
        return {**counts, "accuracy": None, "longer_wins": None, "first_shown_wins": None}
    shown = [pair.shown(flip) for flip in (False, True) for pair in kept.values()]
    answers = reader.answer(shown, batch_size=batch_size, on_progress=_in_units(on_progress, 2))
    logits = np.array(answers.logits).reshape(2, -1)
    flips = np.array([is_flipped(seed, number, 0) for number in kept])
    # Positive where the winner is preferred: shown first it is A, shown second it is B.
    margins = np.stack([logits[0], -logits[1]])
    margin = margins.mean(axis=0) if order_average else np.where(flips, margins[1], margins[0])
    length = np.array([len(pair.chosen) - len(pair.rejected) for pair in kept.values()])
    roots = [rows[number]["root"] for number in kept]

    def rate(values: NDArray[Any]) -> dict[str, Any]:
        return win_rate(_wins(values), roots, draws=_BOOTSTRAP_DRAWS, seed=seed).as_dict()

    return {
        **counts,
        "accuracy": rate(margin),
        "longer_wins": rate(length),
        "first_shown_wins": rate(np.where(flips, -1, 1)),
        "order_flips": float((np.sign(margins[0]) != np.sign(margins[1])).mean()),
        "mean_confidence": float((1 / (1 + np.exp(-np.abs(margin)))).mean()),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "heldout_outside_mass": float(np.mean(answers.outside_mass)),
    }


def _wins(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 where the margin is positive, 0 where it is negative, ½ where it is 0."""
    wins: NDArray[np.float64] = (np.sign(margin) + 1) / 2
    return wins
