"""Straightforward transformers code as the peer of fitting a T5-family policy: one optimizer step over the pairs a round.

settings: model (folder, or the JSON of a T5 configuration as `config`, with random weights); pairs: [{"prompt", "chosen",
"rejected", "reference_chosen", "reference_rejected"}] of token ids and log-probs; micro_pairs; gradient_checkpointing;
optimizer ("adafactor" with parameter scaling, or "adamw"); learning_rate; gamma; max_gradient_norm.

As one would write it: each pair is two rows, each row encodes its prompt, batches are padded on the right and sorted by
length, the loss is DPO's with reference log-probs that were computed before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

from benchmarks.worker import Prepared, Round

Pair = dict[str, Any]


def prepare(settings: dict[str, Any]) -> Prepared:
    """Load the model and return a round: one step over all pairs."""
    model = _model(settings)
    optimizer = _optimizer(model, settings)
    pairs = sorted(settings["pairs"], key=lambda pair: len(pair["prompt"]) + len(pair["chosen"]))
    tokens = sum(2 * len(pair["prompt"]) + len(pair["chosen"]) + len(pair["rejected"]) for pair in pairs)

    def run() -> Round:
        total = 0.0
        for start in range(0, len(pairs), settings["micro_pairs"]):
            loss = _loss(model, pairs[start : start + settings["micro_pairs"]], settings["gamma"]) / len(pairs)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if settings.get("max_gradient_norm"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_gradient_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return Round(len(pairs), tokens, extra={"loss": total})

    return Prepared(run, {name: settings[name] for name in ("micro_pairs", "gradient_checkpointing", "optimizer")})


def _model(settings: dict[str, Any]) -> Any:
    dtype = getattr(torch, settings["dtype"])
    if "config" in settings:
        torch.manual_seed(settings["seed"])
        model = T5ForConditionalGeneration(T5Config(**settings["config"])).to(dtype)
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(settings["model"], dtype=dtype, local_files_only=True)
    model.eval()  # no dropout, as ours
    if settings["gradient_checkpointing"]:
        model.train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model.activation_checkpointing_enable()
    return model


def _optimizer(model: Any, settings: dict[str, Any]) -> torch.optim.Optimizer:
    rate = settings["learning_rate"]
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    adafactor: torch.optim.Optimizer = Adafactor(model.parameters(), lr=rate, scale_parameter=True, relative_step=False)
    return adafactor


def _loss(model: Any, pairs: Sequence[Pair], gamma: float) -> torch.Tensor:
    """Return DPO's loss, summed over pairs."""
    sides = ("chosen", "rejected")
    log_probs = _log_probs(model, [(pair["prompt"], pair[side]) for side in sides for pair in pairs])
    reference = torch.tensor([pair[f"reference_{side}"] for side in sides for pair in pairs])
    chosen, rejected = (log_probs - reference).chunk(2)
    return -logsigmoid(gamma * (chosen - rejected)).sum()


def _log_probs(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Return log π(y|x) of each row."""
    pad = model.config.pad_token_id
    prompts, prompt_mask = _padded([prompt for prompt, _ in rows], pad)
    targets, target_mask = _padded([response for _, response in rows], pad)
    labels = targets.masked_fill(target_mask == 0, -100)
    logits = model(input_ids=prompts, attention_mask=prompt_mask, labels=labels, use_cache=False).logits
    found = log_softmax(logits.float(), dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    return (found * target_mask).sum(dim=1)


def _padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids in sequences)
    rows = [[*ids] + [pad] * (width - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    return torch.tensor(rows), torch.tensor(mask)
