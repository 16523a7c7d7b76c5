"""transformers' `generate(num_return_sequences=…)`, set as favourably as it can be.

Prompts of a call are padded on the left; calls take prompts of like lengths together. Only the standard library, torch and
transformers are imported: this runs in the peers' environment.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.worker import Prepared, Round


def prepare(settings: Mapping[str, Any]) -> Prepared:
    """Load the model. Settings: those of our side, with `together` (prompts a call) and `cache` (of `generate`) for `rows`."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=getattr(torch, settings["dtype"]), local_files_only=True, attn_implementation="sdpa"
    ).eval()
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=settings["temperature"],
        top_k=settings["top_k"],
        max_new_tokens=settings["tokens"],
        num_return_sequences=settings["responses"],
        eos_token_id=settings["eos"],
        pad_token_id=settings["eos"],
        cache_implementation=settings["cache"],
    )
    prompts = sorted(settings["prompts"], key=len)
    calls = [prompts[i : i + settings["together"]] for i in range(0, len(prompts), settings["together"])]

    def run() -> Round:
        start = time.perf_counter()
        drawn = [tokens for call in calls for tokens in _lengths(model, call, settings["eos"])]
        seconds = time.perf_counter() - start
        read = settings["responses"] * sum(map(len, prompts)) + sum(drawn) - len(drawn)
        return Round(
            items=sum(drawn),
            tokens=read,
            seconds=seconds,
            extra={"candidates": len(drawn), "mean_tokens": sum(drawn) / len(drawn)},
        )

    return Prepared(run, {"attention": model.config._attn_implementation})  # noqa: SLF001 - to be told


def _lengths(model: Any, prompts: Sequence[Sequence[int]], eos: int) -> list[int]:
    """Sample, and return how many tokens each response has up to and including its end."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[eos] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask)[:, width:].tolist()
    return [row.index(eos) + 1 if eos in row else len(row) for row in found]
