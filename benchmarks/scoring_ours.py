"""Our side of `benchmarks.scoring`: the product's own reader of comparisons, as its stages call it."""

from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.comparisons import attended_pairs, tree_tokens
from benchmarks.flops import flops, matrices_of
from benchmarks.worker import Prepared, Round


def prepare(settings: Mapping[str, Any]) -> Prepared:
    """Load the model. Settings: model, sequences (token ids of comparisons), and the harness's."""
    from rso_core.models import load, set_threads_and_seed
    from rso_core.reward_ranking import TOKENS_AT_ONCE, Reader

    set_threads_and_seed(settings["seed"])
    folder = Path(settings["model"])
    lm = load(folder, dtype=settings["dtype"])
    sequences = settings["sequences"]
    inputs = [array("i", ids) for ids in sequences]
    reader = Reader(lm, "dialogue", max(map(len, sequences)))
    tokens = tree_tokens(sequences)
    operations = flops(
        matrices_of(folder),
        tokens=tokens,
        head_tokens=len(sequences),
        attended=attended_pairs(sequences),
        training=False,
    )

    def run() -> Round:
        answers = reader.answer_inputs(inputs, batch_size=len(inputs))
        means = (sum(values) / len(values) for values in (answers.logits, answers.outside_mass))
        return Round(
            len(inputs), tokens, flops=operations, extra=dict(zip(("logit", "outside_mass"), means, strict=True))
        )

    return Prepared(run, {"tokens_per_forward": min(TOKENS_AT_ONCE, tokens)})
