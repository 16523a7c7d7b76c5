"""Comparisons of toy texts and the definition they are checked by: one input at a time, no batch, no padding."""

import math
from collections.abc import Callable
from typing import Any

import torch

from rso_core.artifacts import Row
from rso_core.models import LanguageModel
from rso_core.templates import label_ids, reward_input_ids
from rso_core.vocabulary import Family
from tests.rso_core.chain import dataset_row, texts

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
CONTEXT = "the cat sat on the mat and then ran under the tree"
RESPONSES = ["good cat", "bad dog ran", "the red dog sat on a very long post", "good cat", "yes", "no no no no"]
READ: dict[str, Any] = {"task": "summarization", "max_length": 64}


def probabilities(lm: LanguageModel, context: str, first: str, second: str) -> tuple[float, float]:
    """Return P(A) and P(B) of one comparison, without batches or padding."""
    ids = torch.tensor(
        [reward_input_ids(lm.tokenizer, lm.family, context=context, first=first, second=second, **READ).ids]
    )
    extra = (
        {} if lm.family == "causal" else {"decoder_input_ids": torch.tensor([[lm.model.config.decoder_start_token_id]])}
    )
    with torch.no_grad():
        distribution = lm.model(input_ids=ids, **extra).logits[0, -1].softmax(0)
    first_id, second_id = label_ids(lm.tokenizer, lm.family)
    return distribution[first_id].item(), distribution[second_id].item()


def logit(lm: LanguageModel, first: str, second: str, context: str = CONTEXT) -> float:
    in_favour, against = probabilities(lm, context, first, second)
    return math.log(in_favour) - math.log(against)


def human_rows(count: int, label: Callable[[str, str], bool]) -> list[Row]:
    """Return pairs of texts of which the one that `label` says is the winner."""
    found = []
    for number, (first, second) in enumerate(zip(texts(count, 3, seed=1), texts(count, 3, seed=2), strict=True), 1):
        chosen, rejected = (first, second) if label(first, second) else (second, first)
        found.append(dataset_row(number, f"post {CONTEXT}", chosen=chosen, rejected=rejected))
    return found
