"""TRL's DPOTrainer as the peer of policy fitting: one optimizer step over the given pairs a round.

settings: model (folder); pairs: [{"prompt", "chosen", "rejected"} of token ids]; micro_pairs (per_device_train_batch_size;
the rest of the step by accumulation); gradient_checkpointing; weights: "same" (in `dtype`) or "autocast" (float32 weights
under bfloat16 autocast); optimizer: "adafactor" (with parameter scaling, as ours) or "adamw"; learning_rate; gamma;
max_gradient_norm.

Fairly set: the reference log-probs are TRL's own precomputed ones, outside of what is timed; pairs are sorted by length, so
that micro-batches hold little padding; logging, evaluation and saving are off. The token ids are given, so both sides train
on the same. What is timed is what `Trainer` does between the beginning and the end of a step; fetching the batch is not.
"""

import time
import warnings
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.optimization import Adafactor
from transformers.utils import logging as transformers_logging
from trl import DPOConfig, DPOTrainer

from benchmarks.worker import Prepared, Round


class _Trainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on token ids that are given, in the order that is given."""

    def _prepare_dataset(self, dataset: Any, *_arguments: Any) -> Any:
        return dataset

    def _get_train_sampler(self, *_arguments: Any) -> Any:
        return SequentialSampler(self.train_dataset)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Adds up the time of steps, from the first micro-batch to the end of the update."""

    seconds = 0.0
    _start = 0.0

    def on_step_begin(self, *_arguments: Any, **_more: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *_arguments: Any, **_more: Any) -> None:
        self.seconds += time.perf_counter() - self._start


def prepare(settings: dict[str, Any]) -> Prepared:
    """Load the model, precompute the reference log-probs, and return a round: one step over all pairs."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    trainer, clock = _trainer(settings)
    pairs = settings["pairs"]
    tokens = sum(2 * len(pair["prompt"]) + len(pair["chosen"]) + len(pair["rejected"]) for pair in pairs)

    def run() -> Round:
        clock.seconds = 0.0
        output = trainer.train()
        return Round(len(pairs), tokens, clock.seconds, extra={"loss": output.training_loss})

    facts = {name: settings[name] for name in ("micro_pairs", "gradient_checkpointing", "weights", "optimizer")}
    return Prepared(run, facts | {"padding_free": "not available in this version of TRL"})


def _trainer(settings: dict[str, Any]) -> tuple[Any, _Clock]:
    bfloat16 = settings["dtype"] == "bfloat16"
    autocast = bfloat16 and settings["weights"] == "autocast"
    dtype = torch.bfloat16 if bfloat16 and not autocast else torch.float32
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True)
    clock = _Clock()
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, autocast=autocast),
        train_dataset=_dataset(settings["pairs"]),
        processing_class=tokenizer,
        callbacks=[clock],
        optimizers=(_optimizer(model, settings), None),
    )
    return trainer, clock


def _arguments(settings: dict[str, Any], *, autocast: bool) -> DPOConfig:
    return DPOConfig(
        output_dir=mkdtemp(prefix="peer-dpo-"),
        use_cpu=True,
        bf16=autocast,
        per_device_train_batch_size=settings["micro_pairs"],
        gradient_accumulation_steps=max(1, len(settings["pairs"]) // settings["micro_pairs"]),
        gradient_checkpointing=settings["gradient_checkpointing"],
        max_steps=1,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        beta=settings["gamma"],
        loss_type=["sigmoid"],
        max_grad_norm=settings.get("max_gradient_norm", 0.0),
        max_length=None,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=settings["micro_pairs"],
        disable_dropout=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings["seed"],
    )


def _optimizer(model: Any, settings: dict[str, Any]) -> torch.optim.Optimizer:
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.0)
    adafactor: torch.optim.Optimizer = Adafactor(
        model.parameters(), lr=settings["learning_rate"], scale_parameter=True, relative_step=False
    )
    return adafactor


def _dataset(pairs: list[dict[str, list[int]]]) -> Dataset:
    ordered = sorted(pairs, key=lambda pair: len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"])))
    names = ("prompt", "chosen", "rejected")
    path = Path(mkdtemp(prefix="peer-pairs-")) / "pairs.parquet"  # a file, so that its precomputed values can be cached
    Dataset.from_dict({f"{name}_ids": [pair[name] for pair in ordered] for name in names}).to_parquet(path)
    return Dataset.from_parquet(str(path), cache_dir=str(path.parent))
