"""Straightforward transformers code as the peer of reward-model training: one optimizer step over the examples a round.

settings: model (folder); examples: [{"ids", "label"}], a comparison's token ids and the token that answers it;
micro_pairs; logits: "last" (of the position that answers, `logits_to_keep=1`) or "all" (of every position, as a causal
model's own loss makes them); optimizer ("adafactor" with parameter scaling, or "adamw"); learning_rate.

As one would write it: batches sorted by length and padded on the left, cross-entropy of the label over the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

from benchmarks.worker import Prepared, Round

Example = dict[str, Any]


def prepare(settings: dict[str, Any]) -> Prepared:
    """Load the model and return a round: one step over all examples."""
    dtype = getattr(torch, settings["dtype"])
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype, local_files_only=True).eval()
    optimizer = _optimizer(model, settings)
    examples = sorted(settings["examples"], key=lambda example: len(example["ids"]))
    tokens, size = sum(len(example["ids"]) for example in examples), settings["micro_pairs"]

    def run() -> Round:
        total = 0.0
        for start in range(0, len(examples), size):
            loss = _loss(model, examples[start : start + size], settings["logits"]) / len(examples)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return Round(len(examples), tokens, extra={"loss": total})

    return Prepared(run, {name: settings[name] for name in ("micro_pairs", "logits", "optimizer")})


def _optimizer(model: Any, settings: dict[str, Any]) -> torch.optim.Optimizer:
    rate = settings["learning_rate"]
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    adafactor: torch.optim.Optimizer = Adafactor(model.parameters(), lr=rate, scale_parameter=True, relative_step=False)
    return adafactor


def _loss(model: Any, examples: Sequence[Example], logits: str) -> torch.Tensor:
    """Return −log P(label), summed over examples."""
    width = max(len(example["ids"]) for example in examples)
    ids = torch.tensor([[0] * (width - len(example["ids"])) + list(example["ids"]) for example in examples])
    mask = torch.tensor([[0] * (width - len(e["ids"])) + [1] * len(e["ids"]) for e in examples])
    labels = torch.tensor([example["label"] for example in examples])
    kept = {"logits_to_keep": 1} if logits == "last" else {}
    found = model(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits[:, -1]
    return cross_entropy(found.float(), labels, reduction="sum")
