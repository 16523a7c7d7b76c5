"""Comparisons in plain transformers: batches sorted by length, padded, the output layer at each row's last token.

settings: model (folder); sequences (token ids); labels (the ids of A and B); rows (a batch); padding: "left" (with a mask
and positions, `logits_to_keep=1`) or "right" (no mask is needed: causal attention never looks at what comes later).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.worker import Prepared, Round


def prepare(settings: Mapping[str, Any]) -> Prepared:
    """Load the model and return a round: the label logit and the outside mass of every comparison."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(settings["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=getattr(torch, settings["dtype"]), local_files_only=True, attn_implementation="sdpa"
    ).eval()
    sequences = sorted(settings["sequences"], key=len)
    batches = [sequences[i : i + settings["rows"]] for i in range(0, len(sequences), settings["rows"])]
    last_logits = {"left": _left, "right": _right}[settings["padding"]]
    labels = torch.tensor(settings["labels"])

    def run() -> Round:
        with torch.inference_mode():
            logits = [last_logits(model, batch).float() for batch in batches]
            both = torch.cat([part[:, labels] for part in logits])
            whole = torch.cat([part.logsumexp(dim=1) for part in logits])
        outside = 1 - (both.logsumexp(dim=1) - whole).exp()
        extra = {"logit": float((both[:, 0] - both[:, 1]).mean()), "outside_mass": float(outside.mean())}
        return Round(len(sequences), sum(map(len, sequences)), extra=extra)

    return Prepared(run, {name: settings[name] for name in ("rows", "padding")})


def _left(model: Any, batch: Sequence[Sequence[int]]) -> Any:
    import torch

    width = max(map(len, batch))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in batch])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1).logits[
        :, -1
    ]


def _right(model: Any, batch: Sequence[Sequence[int]]) -> Any:
    import torch

    width = max(map(len, batch))
    ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in batch])
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in batch])
    return model.lm_head(hidden[torch.arange(len(batch)), last])
