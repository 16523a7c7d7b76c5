"""Our side of policy fitting: the product's own training loop, one step over the given pairs a round.

settings: model (folder), or `config` (JSON of a T5 configuration, with random weights); pairs: [{"prompt", "chosen",
"rejected"} of token ids, and optionally "reference_chosen", "reference_rejected"]; flops of a step; fitting: fields of
FittingConfig that differ from its defaults; tokens_per_forward for the roof at the model's shapes.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.training_steps import TrainingSteps, endless
from benchmarks.worker import Prepared, Round

Pair = dict[str, Any]


def prepare(settings: dict[str, Any]) -> Prepared:
    """Load the model, compute reference log-probs where none are given, and return a round: one step over all pairs."""
    import torch

    from rso_core.config import FittingConfig
    from rso_core.models import set_threads_and_seed
    from rso_core.policy_training import fit_policy

    set_threads_and_seed(settings["seed"])
    torch.set_num_threads(settings["threads"])
    lm, pairs = _model(settings), settings["pairs"]
    rows = _rows(pairs, with_references(lm, pairs))
    fitting = FittingConfig(**endless(len(pairs)), num_checkpoints=1, **settings["fitting"]).model_dump()
    steps = TrainingSteps(
        lambda folder, emit: fit_policy(
            lm,
            rows,
            fitting,
            seed=settings["seed"],
            checkpoint_dir=folder,
            attempt=1,
            emit=emit,
            save_snapshot=lambda _step: None,
        )
    )

    def run() -> Round:
        loss = steps.step()
        return Round(len(pairs), settings["tokens"], flops=settings["flops"], extra={"loss": loss})

    facts = {name: fitting[name] for name in ("micro_batch_size", "optimizer", "loss", "gamma") if name in fitting}
    return Prepared(run, facts | {"tokens_per_forward": settings["tokens_per_forward"]})


def with_references(lm: Any, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """Return log π_sft of both responses of every pair: the given values, else those of the model as it is."""
    import torch

    from rso_core.grouped_forward import Group, response_log_probs

    if all("reference_chosen" in pair for pair in pairs):
        return [(pair["reference_chosen"], pair["reference_rejected"]) for pair in pairs]
    groups = [Group(pair["prompt"], [pair["chosen"], pair["rejected"]]) for pair in pairs]
    with torch.no_grad():
        return [(float(a), float(b)) for a, b in response_log_probs(lm, groups, batch_size=16)]


def _rows(pairs: Sequence[Pair], references: Sequence[tuple[float, float]]) -> list[Pair]:
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(tuple(pair["prompt"]) for pair in pairs))}
    return [
        {
            "prompt_id": f"prompt-{numbers[tuple(pair['prompt'])]}",
            "prompt_token_ids": pair["prompt"],
            "chosen_token_ids": pair["chosen"],
            "rejected_token_ids": pair["rejected"],
            "reference_chosen": chosen,
            "reference_rejected": rejected,
        }
        for pair, (chosen, rejected) in zip(pairs, references, strict=True)
    ]


def _model(settings: dict[str, Any]) -> Any:
    from rso_core.models import load

    if "config" not in settings:
        return load(Path(settings["model"]), dtype=settings["dtype"])
    return random_t5(settings["config"], settings["dtype"], settings["seed"])


def random_t5(config: dict[str, Any], dtype: str, seed: int) -> Any:
    """Return a T5 with random weights: enough to measure time, and its log-probs are as good as any."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from rso_core.attention import ATTENTION
    from rso_core.lean_layers import make_lean
    from rso_core.models import LanguageModel

    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(**config)).to(getattr(torch, dtype)).eval()
    model.set_attn_implementation(ATTENTION)
    make_lean(model)  # as `load` does
    tokenizer = SimpleNamespace(eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id)
    return LanguageModel(model, tokenizer, "seq2seq")
