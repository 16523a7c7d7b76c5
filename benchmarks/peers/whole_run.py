"""The steps of an RSO run as one would script them with TRL and transformers: the peer of `benchmarks.whole_run`.

    python -m benchmarks.peers.whole_run INPUTS RECORD

Reward model: text-to-text ranking, a plain loop. Sampling: `generate` with as many returned sequences as candidates.
Scoring: length-sorted batches in both orders, one output row each. Rejection sampling: numpy (Algorithm 1). Fitting:
DPOTrainer with precomputed reference log-probs. Then the better of two checkpoints, responses, and win rates. The sizes,
limits, optimizers and rates are those of the recipe; the dtype is the recipe's, for weights and arithmetic.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging
from trl import DPOConfig, DPOTrainer

from benchmarks.worker import versions

SCORED_TOGETHER = 16  # comparisons; more were slower on two cores, as they are padded to the longest
ANSWERED_TOGETHER = 16  # prompts
Row = dict[str, Any]


class Script:
    """What the steps share: recipe, tokenizer, clock."""

    def __init__(self, config: Row) -> None:
        self.config = config
        self.folder = config["model"]["base"]
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, padding_side="left")
        self.tokenizer.truncation_side = "left"
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.stages: dict[str, float] = {}
        self.rng = np.random.default_rng(config["seed"])
        torch.manual_seed(config["seed"])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a step."""
        start = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start
        print(f"peer: {name} {self.stages[name]:.1f} s", file=sys.stderr, flush=True)

    def load(self, folder: str = "") -> Any:
        """Return a model in the recipe's dtype."""
        dtype = torch.bfloat16 if self.config["model"]["dtype"] == "bfloat16" else torch.float32
        return AutoModelForCausalLM.from_pretrained(folder or self.folder, dtype=dtype, local_files_only=True).eval()

    def asked(self, row: Row) -> str:
        """Return a prompt under the model's chat template."""
        text: str = self.tokenizer.apply_chat_template(
            json.loads(row["messages"]), add_generation_prompt=True, tokenize=False
        )
        return text

    def cut(self, text: str) -> str:
        """Return the text of a prompt's last tokens, as many as the recipe allows."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        kept: str = self.tokenizer.decode(ids[-self.config["data"]["max_prompt_tokens"] :])
        return kept


# The reward model --------------------------------------------------------------------------------------------------------


def comparison(context: str, first: str, second: str) -> str:
    """Return the text of a comparison, without its answer."""
    return f"[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second}\n\n[PREFERRED]"


def label_logits(script: Script, model: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return the logits of the labels A and B [texts, 2]: left padding, so that only the last position is needed."""
    labels = [script.tokenizer.encode(f" {label}", add_special_tokens=False)[0] for label in "AB"]
    limit = script.config["reward"]["max_length"]
    batch = script.tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=limit)
    logits: torch.Tensor = model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1, labels].float()
    return logits


def train_reward(script: Script, rows: Sequence[Row]) -> Any:
    """Train the pairwise reward model on human pairs and return it."""
    settings = script.config["reward"]
    model = script.load()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], weight_decay=0.0)
    examples = []
    for index in script.rng.permutation(len(rows)):
        row, turned = rows[index], bool(script.rng.integers(2))
        first, second = (row["rejected"], row["chosen"]) if turned else (row["chosen"], row["rejected"])
        examples.append((comparison(row["prompt"], first, second), int(turned)))
    examples = examples[: settings["max_steps"] * settings["batch_size"] or None]
    for start in range(0, len(examples), settings["batch_size"]):
        batch = sorted(examples[start : start + settings["batch_size"]], key=lambda example: len(example[0]))
        for place in range(0, len(batch), settings["micro_batch_size"]):
            part = batch[place : place + settings["micro_batch_size"]]
            logits = label_logits(script, model, [text for text, _ in part])
            answers = torch.tensor([answer for _, answer in part])
            (torch.nn.functional.cross_entropy(logits, answers, reduction="sum") / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_gradient_norm"])
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.inference_mode()
def compared(script: Script, model: Any, rows: Sequence[tuple[str, str, str]]) -> np.ndarray[Any, Any]:
    """Return logit ρ(context, first, second) of each row, the mean of both orders; batches are sorted by length."""
    texts = [comparison(*row) for row in rows] + [comparison(context, b, a) for context, a, b in rows]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros(len(texts))
    for start in range(0, len(order), SCORED_TOGETHER):
        part = order[start : start + SCORED_TOGETHER]
        logits = label_logits(script, model, [texts[i] for i in part])
        found[part] = (logits[:, 0] - logits[:, 1]).numpy()
    return (found[: len(rows)] - found[len(rows) :]) / 2


# Samples, rejection sampling, pairs ----------------------------------------------------------------------------------------


@torch.inference_mode()
def sampled(script: Script, model: Any, rows: Sequence[Row], *, count: int, together: int) -> list[list[str]]:
    """Return `count` responses for each prompt; `together` prompts are generated at once, sorted by length."""
    config = script.config
    texts = [script.asked(row) for row in rows]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: list[list[str]] = [[] for _ in rows]
    limit = config["data"]["max_prompt_tokens"]
    for start in range(0, len(order), together):
        part = order[start : start + together]
        batch = script.tokenizer(
            [texts[i] for i in part],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=limit,
            add_special_tokens=False,
        )
        output = model.generate(
            **batch,
            do_sample=True,
            temperature=config["sampling"]["temperature"],
            top_k=config["sampling"]["top_k"],
            top_p=1.0,
            max_new_tokens=config["data"]["max_response_tokens"],
            num_return_sequences=count,
            pad_token_id=script.tokenizer.pad_token_id,
        )
        responses = script.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, index in enumerate(part):
            found[index] = responses[place * count : (place + 1) * count]
    return found


def accepted(rewards: np.ndarray[Any, Any], beta: float, count: int, rng: np.random.Generator) -> list[int]:
    """Return which candidates rejection sampling keeps (RSO, Algorithm 1)."""
    left, kept = list(range(len(rewards))), []
    while left and len(kept) < count:
        highest = max(rewards[i] for i in left)
        for index in list(left):
            if rng.uniform() < np.exp((rewards[index] - highest) / beta):
                kept.append(index)
                left.remove(index)
    return kept[:count]


def labelled_pairs(script: Script, reward: Any, prompts: Sequence[Row], kept: Sequence[Sequence[str]]) -> list[Row]:
    """Return pairs of what was kept, first_round_rank, as texts: the prompt's last tokens, within the recipe's limit."""
    games = [
        (row, *(responses[i] for i in pair))
        for row, responses in zip(prompts, kept, strict=True)
        for pair in script.rng.permutation(len(responses))[: len(responses) // 2 * 2].reshape(-1, 2)
    ]
    logits = compared(script, reward, [(row["prompt"], first, second) for row, first, second in games])
    return [
        {
            "prompt": script.cut(script.asked(row)),
            "chosen": first if logit > 0 else second,
            "rejected": second if logit > 0 else first,
        }
        for (row, first, second), logit in zip(games, logits, strict=True)
    ]


# Fitting and evaluation ----------------------------------------------------------------------------------------------------


def fitted(script: Script, pairs: Sequence[Row]) -> list[str]:
    """Fit the policy with DPOTrainer and return the folders of two checkpoints."""
    settings, folder = script.config["fitting"], mkdtemp(prefix="peer-policy-")
    steps = -(-len(pairs) * int(settings["epochs"]) // settings["batch_size"])
    steps = min(steps, settings["max_steps"]) if settings["max_steps"] else steps
    arguments = DPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,  # the weights are in the recipe's dtype already
        per_device_train_batch_size=settings["micro_batch_size"],
        gradient_accumulation_steps=max(1, settings["batch_size"] // settings["micro_batch_size"]),
        gradient_checkpointing=False,
        max_steps=steps,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        beta=settings["gamma"],
        max_grad_norm=settings["max_gradient_norm"],
        max_length=None,
        precompute_ref_log_probs=True,
        logging_strategy="no",
        save_strategy="steps",
        save_steps=max(1, steps // 2),
        save_only_model=True,
        report_to="none",
        disable_tqdm=True,
        seed=script.config["seed"],
    )
    data = Dataset.from_list(list(pairs))
    path = Path(folder) / "pairs.parquet"
    data.to_parquet(path)
    data = Dataset.from_parquet(str(path), cache_dir=folder)
    DPOTrainer(script.load(), args=arguments, train_dataset=data, processing_class=script.tokenizer).train()
    return sorted(str(path) for path in Path(folder).glob("checkpoint-*"))[:2]


def win_rate(script: Script, reward: Any, rows: Sequence[Row], responses: Sequence[str]) -> float:
    """Return the share of responses that the reward model prefers to the targets."""
    shown = [(row["prompt"], response, row["target"]) for row, response in zip(rows, responses, strict=True)]
    return float((compared(script, reward, shown) > 0).mean())


def run(inputs: Row) -> Row:
    """Do all steps and return their seconds and the win rates."""
    script = Script(inputs["config"])
    config, prompts = script.config, inputs["prompts"]
    with script.stage("reward_training"):
        reward = train_reward(script, inputs["human"]["train"])
        compared(script, reward, [(row["prompt"], row["chosen"], row["rejected"]) for row in inputs["human"]["test"]])
    with script.stage("sampling"):
        sft = script.load()
        pools = sampled(script, sft, prompts["train"], count=config["sampling"]["num_candidates"] + 1, together=1)
    with script.stage("scoring"):
        shown = [
            (row["prompt"], y, pool[-1]) for row, pool in zip(prompts["train"], pools, strict=True) for y in pool[:-1]
        ]
        rewards = compared(script, reward, shown).reshape(len(pools), -1)
    with script.stage("rejection_sampling"):
        selection = config["rejection_sampling"]
        kept = [
            [pool[i] for i in accepted(values, float(selection["beta"]), selection["num_samples"], script.rng)]
            for pool, values in zip(pools, rewards, strict=True)
        ]
    with script.stage("pairs"):
        pairs = labelled_pairs(script, reward, prompts["train"], kept)
    with script.stage("policy_fitting"):
        checkpoints = fitted(script, pairs)
    return {
        "stages": script.stages,
        "win_rates": evaluated(script, reward, sft, checkpoints, prompts),
        "versions": versions(),
    }


def evaluated(script: Script, reward: Any, sft: Any, checkpoints: Sequence[str], prompts: Row) -> dict[str, float]:
    """Select a checkpoint on validation prompts, and return the win rates on test prompts."""

    def rate(model: Any, rows: Sequence[Row]) -> float:
        responses = [found[0] for found in sampled(script, model, rows, count=1, together=ANSWERED_TOGETHER)]
        return win_rate(script, reward, rows, responses)

    with script.stage("checkpoint_selection"):
        models = [script.load(folder) for folder in checkpoints]
        rates = [rate(model, prompts["validation"]) for model in models]
    with script.stage("evaluation"):
        policy = models[int(np.argmax(rates))]
        return {name: rate(model, prompts["test"]) for name, model in (("sft", sft), ("policy", policy))}


def main() -> None:
    """Run with the inputs of a file and write the record."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    inputs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(inputs)), encoding="utf-8")


if __name__ == "__main__":
    main()
