"""The built-in task's second generator `mini_news`: other prompts for the same policy and reward model (Table 6).

An article states the facts that a post of `mini_tldr` does, in the words of a newspaper, and beside them facts of a
bystander: a summary that takes those for the story's is wrong, so it is not enough that a word occurs in the article.
Its targets are what win rates are measured against; nothing is trained on them. A pure function of the seed.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from rso_core.mini_tldr import TARGET_AUTHOR, VALUES, Facts, draw_facts, refuse_size, words_of

_LEDES = (
    "police say a {who} {did} a {thing} on {day}.",
    "{day} news. a {who} {did} a {thing}.",
    "on {day} a {who} {did} a {thing}, police say.",
)
_SCENES = ("the scene was near {place}.", "the story began at {place}.")
_DEMANDS = ("the family now asks for {wants}.", "a lawyer now wants {wants}.")
_BYSTANDERS = (
    "a {who} saw it all from {place}.",
    "a {who} with a {thing} told reporters about it.",
    "no {thing} near {place} was hurt, a {who} told reporters.",
)
_FILLER = ("the town is calm.", "more news follows soon.", "few people live here.", "the weather stays cold.")
_TEMPLATES = (*_LEDES, *_SCENES, *_DEMANDS, *_BYSTANDERS, *_FILLER)


def write_article(facts: Mapping[str, str], rng: random.Random) -> str:
    """Return an article: a lede, then scene, demand, a bystander and filler in shuffled order."""
    other = {slot: rng.choice([word for word in words if word != facts[slot]]) for slot, words in VALUES.items()}
    rest = [rng.choice(templates).format(**facts) for templates in (_SCENES, _DEMANDS)]
    rest += [rng.choice(_BYSTANDERS).format(**other), rng.choice(_FILLER)]
    rng.shuffle(rest)
    return " ".join([rng.choice(_LEDES).format(**facts), *rest])


def generate_articles(*, size: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `size` rows with distinct articles: `prompt`, `target` and `meta` with the facts of the story.

    Raises UserError on a size outside 1 to 1,000,000.
    """
    refuse_size(size, "mini_news")
    rng = random.Random(f"mini_news:{seed}")  # noqa: S311 - data, not secrets
    seen: set[str] = set()
    while len(seen) < size:
        facts: Facts = draw_facts(rng)
        article = write_article(facts, rng)
        if article not in seen:
            seen.add(article)
            yield {"prompt": article, "target": TARGET_AUTHOR.write(facts, rng), "meta": {"facts": facts}}


def article_words() -> set[str]:
    """Return the words that articles alone are written in."""
    return words_of(_TEMPLATES)
