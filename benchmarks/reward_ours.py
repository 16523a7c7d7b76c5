"""Our side of reward-model training: the product's own training, one step over the given human pairs a round.

settings: model (folder); rows: [{"prompt", "chosen", "rejected"} of texts]; reward: fields of RewardConfig that differ
from its defaults; tokens and flops of a step; tokens_per_forward for the roof at the model's shapes.
"""

from pathlib import Path
from typing import Any

from benchmarks.training_steps import TrainingSteps, endless
from benchmarks.worker import Prepared, Round


def prepare(settings: dict[str, Any]) -> Prepared:
    """Load the model and return a round: one step over all rows."""
    import torch

    from rso_core.config import RewardConfig
    from rso_core.models import load, set_threads_and_seed
    from rso_core.reward_training import train_reward

    set_threads_and_seed(settings["seed"])
    torch.set_num_threads(settings["threads"])
    lm, rows = load(Path(settings["model"]), dtype=settings["dtype"]), settings["rows"]
    reward = RewardConfig(**endless(len(rows)), **settings["reward"]).model_dump()
    steps = TrainingSteps(
        lambda folder, emit: train_reward(
            lm,
            rows,
            reward,
            seed=settings["seed"],
            checkpoint_dir=folder,
            attempt=1,
            emit=emit,
            task="dialogue",
            max_length=reward["max_length"],
        )
    )

    def run() -> Round:
        loss = steps.step()
        return Round(len(rows), settings["tokens"], flops=settings["flops"], extra={"loss": loss})

    facts = {name: reward[name] for name in ("micro_batch_size", "optimizer", "max_length") if name in reward}
    return Prepared(run, facts | {"tokens_per_forward": settings["tokens_per_forward"]})
