"""Our side of `benchmarks.sampling`: the product's own sampling loop, as its stage calls it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.worker import Prepared, Round


def prepare(settings: Mapping[str, Any]) -> Prepared:
    """Load the model. Settings: model, prompts (token ids), responses, tokens, temperature, top_k, rows, and the harness's."""
    from rso_core.generation import responses
    from rso_core.models import load, set_threads_and_seed

    set_threads_and_seed(settings["seed"])
    lm = load(Path(settings["model"]), dtype=settings["dtype"])
    prompts, seed = settings["prompts"], settings["seed"]
    head = lm.plain.get_output_embeddings().weight
    embedded = {id(head), id(lm.plain.get_input_embeddings().weight)}
    body = sum(part.numel() for part in lm.plain.parameters() if id(part) not in embedded)

    def run() -> Round:
        nonlocal seed
        seed += 1  # every round draws other responses
        start = time.perf_counter()
        found = list(
            responses(
                lm,
                prompts,
                num_responses=settings["responses"],
                temperature=settings["temperature"],
                top_k=settings["top_k"],
                max_new_tokens=settings["tokens"],
                seeds=[seed * len(prompts) + i for i in range(len(prompts))],
                batch_size=settings["rows"],
            )
        )
        seconds = time.perf_counter() - start
        drawn = [len(response.token_ids) for group in found for response in group]
        read = sum(map(len, prompts)) + sum(drawn) - len(drawn)  # the last token of a response is never read
        truncated = sum(response.truncated for group in found for response in group)
        return Round(
            items=sum(drawn),
            tokens=read,
            seconds=seconds,
            flops=2.0 * body * read + 2.0 * head.numel() * sum(drawn),
            extra={"candidates": len(drawn), "mean_tokens": sum(drawn) / len(drawn), "truncated": truncated},
        )

    return Prepared(run, {"parameters": body + head.numel()})
