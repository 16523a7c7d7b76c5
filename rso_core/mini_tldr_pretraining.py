"""How the reward model of the built-in task was pretrained: `python -m rso_core.mini_tldr_pretraining FOLDER`.

The paper's reward model starts from a pretrained T5-XXL, which can compare a summary with its text before it sees a
preference. A model of half a million random weights cannot, and D_hf is too small to teach it: it learns to count
words. So it starts from weights that were pretrained on a corpus of the task's language, which knows neither D_hf nor
the gold reward: posts with summaries in which strange words are marked with `!`, articles, and, in the form of a
comparison, a summary beside the same one with some words exchanged, of which the true one is to be told. They lie in
the product as a file; this module made it.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rso_core.mini_news import write_article
from rso_core.mini_tldr import SLOT_OF, VALUES, Author, draw_facts, write_post
from rso_core.mini_tldr_model import new_decoder, new_tokenizer
from rso_core.templates import PREFERRED_CUE, reward_text

if TYPE_CHECKING:
    from torch import Tensor

STEPS, DOCUMENTS, LEARNING_RATE, WARM_UP = 1000, 32, 2e-3, 50
_READER = Author(states=0.8, wrong=0.0, repeats=0.0, fills=0.2)
_EXCHANGED = 0.3  # share of the content words of a marked summary that are strange
_MOST_EXCHANGED = 3  # in a comparison
_MARK_WEIGHT = 0.1
_MARK = "!"


def exchange(summary: str, rng: random.Random, *, share: float = 0.0, count: int = 0, mark: str = "") -> str:
    """Return a summary with `count` of its content words, or each with probability `share`, exchanged and marked."""
    words = summary.removesuffix(".").split()
    content = [place for place, word in enumerate(words) if word in SLOT_OF]
    chosen = rng.sample(content, min(count, len(content))) if count else [i for i in content if rng.random() < share]
    for place in chosen:
        others = [word for word in VALUES[SLOT_OF[words[place]]] if word != words[place]]
        words[place] = rng.choice(others) + mark
    return " ".join(words) + "."


def draw_comparison(rng: random.Random) -> tuple[str, str]:
    """Return a comparison of a summary with one whose words were exchanged, and the label of the true one."""
    facts = draw_facts(rng)
    post, true = write_post(facts, rng), _READER.write(facts, rng)
    false = exchange(true, rng, count=rng.randint(1, _MOST_EXCHANGED))
    label = rng.choice("AB")
    first, second = (true, false) if label == "A" else (false, true)
    return reward_text("summarization", post, first, second) + PREFERRED_CUE, label


def draw_marked(rng: random.Random) -> str:
    """Return a post and two summaries of it in which the strange words are marked."""
    facts = draw_facts(rng)
    post = write_post(facts, rng)
    pair = [exchange(_READER.write(facts, rng), rng, share=_EXCHANGED, mark=_MARK) for _ in range(2)]
    return reward_text("summarization", post, *pair)


def draw_documents(rng: random.Random, number: int) -> list[str]:
    """Return the texts of a step: half comparisons with their label, three eighths marked summaries, the rest articles."""
    comparisons = ["".join(draw_comparison(rng)) for _ in range(number // 2)]
    marked = [draw_marked(rng) for _ in range(3 * number // 8)]
    articles = [write_article(draw_facts(rng), rng) for _ in range(number - len(comparisons) - len(marked))]
    return comparisons + marked + articles


def token_losses(model: Any, tokenizer: Any, documents: Sequence[str]) -> "tuple[Tensor, Tensor]":
    """Return −log P of every token but the first of each text and what these tokens are, [texts, longest − 1]; 0 and −100 beyond its end."""
    import torch
    from torch.nn.functional import cross_entropy

    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in encoded])
    lengths = torch.tensor([len(row) for row in encoded])
    inside = torch.arange(longest) < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=inside.long()).logits[:, :-1]
    targets = ids[:, 1:].masked_fill(~inside[:, 1:], -100)
    return cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none"), targets


def corpus_loss(model: Any, tokenizer: Any, documents: Sequence[str]) -> "Tensor":
    """Return the mean −log P of the tokens, plus that of the labels, plus a little for the marks, which are few."""
    losses, targets = token_losses(model, tokenizer, documents)
    inside, labels = targets >= 0, slice(0, len(documents) // 2)
    ends = inside[labels].sum(dim=1, keepdim=True) - 1
    marks = targets == tokenizer.convert_tokens_to_ids(_MARK)
    of_marks = losses[marks].sum() / marks.sum().clamp(min=1)
    total: Tensor = losses.sum() / inside.sum() + losses[labels].gather(1, ends).mean() + _MARK_WEIGHT * of_marks
    return total


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step (from 1): up over the first, constant to the half, down to nothing."""
    return LEARNING_RATE * min(1.0, step / WARM_UP, 2 * (1 - (step - 1) / steps))


def pretrain(steps: int = STEPS, seed: int = 0) -> tuple[Any, list[float]]:
    """Return the model after `steps` steps, and the loss of each."""
    import torch

    tokenizer, rng = new_tokenizer(), random.Random(f"mini_tldr:pretraining:{seed}")  # noqa: S311 - data, not secrets
    torch.manual_seed(seed)
    model = new_decoder(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    found: list[float] = []
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = rate_at(step, steps)
        optimizer.zero_grad()
        loss = corpus_loss(model, tokenizer, draw_documents(rng, DOCUMENTS))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
        if step % 100 == 0:
            sys.stderr.write(f"{step} of {steps} steps, loss {sum(found[-100:]) / 100:.3f}\n")
    return model, found


def write_weights(model: Any, path: Path) -> None:
    """Write the weights in bfloat16, each once, without those of the output layer, which are the embedding's."""
    import torch
    from safetensors.torch import save_file

    shared = model.state_dict()
    weights = {name: value.to(torch.bfloat16) for name, value in shared.items() if name != "lm_head.weight"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


if __name__ == "__main__":
    write_weights(pretrain()[0], Path(sys.argv[1]))
