"""The built-in task `mini_tldr`: generated forum posts with one-sentence summaries and a gold reward that is exact.

A post states six facts (who, did, thing, place, day, wants) among filler; `meta` carries the facts, so the quality
of any summary is computed rather than judged. The SFT targets come from one imperfect author. D_hf compares other
policies of mixed quality, among them ones that get facts wrong and ones that repeat themselves, and its labels are
drawn from Bradley–Terry (arXiv:2309.06657, eq. 6) on the gold reward. Everything is a pure function of the seed.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rso_core.errors import UserError
from rso_core.vocabulary import DatasetKind

Facts = dict[str, str]  # slot → value

# The word lists are disjoint: a word of a summary says by itself which fact it states.
VALUES: dict[str, tuple[str, ...]] = {
    "who": ("sister", "brother", "boss", "neighbour", "landlord", "roommate"),
    "did": ("borrowed", "sold", "lost", "painted", "scratched", "burned"),
    "thing": ("car", "bike", "phone", "laptop", "guitar", "camera"),
    "place": ("school", "work", "home", "church", "camp", "court"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "sunday"),
    "wants": ("advice", "money", "revenge", "help", "answers", "peace"),
}  # fmt: skip
SLOT_OF: dict[str, str] = {word: slot for slot, words in VALUES.items() for word in words}

WEIGHTS: dict[str, float] = {"who": 1.0, "did": 1.0, "thing": 1.0, "place": 0.5, "day": 0.5, "wants": 1.0}
WRONG_FACT = 1.0  # a wrong fact costs this times the fact's weight
REPETITION = 0.5  # each content word said again
FREE_WORDS = 16  # words that cost nothing …
EXTRA_WORD = 0.1  # … and the price of each further one
LABEL_SHARPNESS = 2.0  # Bradley–Terry: σ(sharpness × difference of gold rewards)

# Rows of each dataset where nobody asks for another number.
DEMO_SIZES: dict[DatasetKind, int] = {"sft": 4000, "preference": 20000, "prompts": 1000}

_OPENINGS = (
    "so my {who} {did} my {thing}.",
    "my {who} {did} my {thing} again.",
    "today i learned that my {who} {did} my {thing}.",
)
_PLACES = ("we were at {place}.", "it happened at {place}.")
_DAYS = ("it was on {day}.", "i found out on {day}.")
_WANTS = ("now i want {wants}.", "all i ask for is {wants}.")
_FILLER = (
    "it rained a lot.", "i had soup for lunch.", "sorry for the long post.", "thanks for reading.",
    "the bus was late.", "i am very tired.", "my english is not good.", "this is my first post.",
)  # fmt: skip
_WORD = re.compile(r"[a-z]+")


def draw_facts(rng: random.Random) -> Facts:
    """Return the facts of one post."""
    return {slot: rng.choice(words) for slot, words in VALUES.items()}


def write_post(facts: Mapping[str, str], rng: random.Random) -> str:
    """Return a post that states every fact once, in shuffled sentences with filler between them."""
    details = [rng.choice(templates).format(**facts) for templates in (_PLACES, _DAYS, _WANTS)]
    details += rng.sample(_FILLER, rng.randint(1, 2))
    rng.shuffle(details)
    return " ".join([rng.choice(_OPENINGS).format(**facts), *details])


@dataclass(frozen=True)
class Author:
    """A summary generator: how likely each fact is to be stated, stated wrongly, said again or padded."""

    states: float
    wrong: float
    repeats: float
    fills: float

    def write(self, facts: Mapping[str, str], rng: random.Random) -> str:
        """Return a one-sentence summary of the facts, with this author's faults."""
        said = {slot: self._value(slot, value, rng) for slot, value in facts.items() if rng.random() < self.states}
        clauses = [_event(said), *(f"{lead} {said[slot]}" for slot, lead in _LEADS if slot in said)]
        if rng.random() < self.fills:
            clauses.append("and " + rng.choice(_FILLER).rstrip("."))
        said_again = [clause for clause in clauses for _ in range(1 + (rng.random() < self.repeats))]
        return " ".join(said_again) + "."

    def _value(self, slot: str, value: str, rng: random.Random) -> str:
        if rng.random() >= self.wrong:
            return value
        return rng.choice([other for other in VALUES[slot] if other != value])


_LEADS: tuple[tuple[str, str], ...] = (("place", "at"), ("day", "on"), ("wants", "and i want"))


def _event(said: Mapping[str, str]) -> str:
    who = "my " + said["who"] if "who" in said else "someone"
    thing = "my " + said["thing"] if "thing" in said else "something"
    return f"{who} {said.get('did', 'took')} {thing}"


# The author of the SFT targets, and the other policies whose summaries D_hf compares.
TARGET_AUTHOR = Author(states=0.6, wrong=0.03, repeats=0.1, fills=0.3)
AUTHORS: dict[str, Author] = {
    "careful": Author(states=0.95, wrong=0.03, repeats=0.0, fills=0.05),
    "terse": Author(states=0.5, wrong=0.03, repeats=0.0, fills=0.0),
    "careless": Author(states=0.85, wrong=0.3, repeats=0.02, fills=0.1),
    "repetitive": Author(states=0.8, wrong=0.1, repeats=0.4, fills=0.1),
    "rambling": Author(states=0.65, wrong=0.1, repeats=0.1, fills=0.9),
}


def gold_reward(meta: str, text: str) -> float:
    """Return the exact quality of a summary: right facts by weight, minus wrong facts, repetition and length.

    `meta` is the row's JSON with the facts. A fact counts once however often it is said; every content word said
    again costs, and so does every word beyond the free ones. Raises UserError when `meta` holds no facts.
    """
    facts = _facts_of(meta)
    words = _WORD.findall(text.lower())
    content = Counter(word for word in words if word in SLOT_OF)
    right = sum(WEIGHTS[SLOT_OF[word]] for word in content if facts[SLOT_OF[word]] == word)
    wrong = sum(WEIGHTS[SLOT_OF[word]] for word in content if facts[SLOT_OF[word]] != word)
    again = sum(count - 1 for count in content.values())
    extra = max(0, len(words) - FREE_WORDS)
    return round(right - WRONG_FACT * wrong - REPETITION * again - EXTRA_WORD * extra, 6)


def _facts_of(meta: str) -> Facts:
    value = json.loads(meta) if meta else None
    facts = value.get("facts") if isinstance(value, dict) else None
    if not isinstance(facts, dict) or set(facts) != set(VALUES):
        message = (
            f"the gold reward needs rows whose meta holds the facts {', '.join(VALUES)}, received {meta[:80]!r}; "
            f"set evaluation.gold to none for data that is not mini_tldr"
        )
        raise UserError(message)
    return {slot: str(facts[slot]) for slot in VALUES}


def generate_dataset(kind: DatasetKind, *, size: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `size` rows in an importer's source layout: `prompt`, `meta` and `target`, or `chosen` and `rejected`.

    Prompts are distinct within a dataset, and another kind or seed draws other posts. Raises UserError on a size
    outside 1 to 1,000,000.
    """
    refuse_size(size, "mini_tldr")
    rng = random.Random(f"mini_tldr:{kind}:{seed}")  # noqa: S311 - data, not secrets
    seen: set[str] = set()
    while len(seen) < size:
        facts = draw_facts(rng)
        post = write_post(facts, rng)
        if post not in seen:
            seen.add(post)
            yield {"prompt": post, **_responses(kind, facts, rng), "meta": {"facts": facts}}


def refuse_size(size: int, task: str) -> None:
    """Raise UserError on a number of rows outside 1 to 1,000,000."""
    if not 1 <= size <= 1_000_000:  # noqa: PLR2004 - the sentence below says it
        message = f"`size` of a {task} dataset must be 1 to 1,000,000 rows, got {size}"
        raise UserError(message)


def _responses(kind: DatasetKind, facts: Facts, rng: random.Random) -> dict[str, str]:
    if kind == "prompts":
        return {}
    if kind == "sft":
        return {"target": TARGET_AUTHOR.write(facts, rng)}
    return _labelled_pair(facts, rng)


def _labelled_pair(facts: Facts, rng: random.Random) -> dict[str, str]:
    """Return two different summaries by D_hf's authors, the chosen one drawn by Bradley–Terry on gold (eq. 6)."""
    authors = list(AUTHORS.values())
    first = second = rng.choice(authors).write(facts, rng)
    while second == first:
        second = rng.choice(authors).write(facts, rng)
    meta = json.dumps({"facts": facts})
    difference = gold_reward(meta, first) - gold_reward(meta, second)
    first_wins = rng.random() < 1 / (1 + math.exp(-LABEL_SHARPNESS * difference))
    return {"chosen": first, "rejected": second} if first_wins else {"chosen": second, "rejected": first}


def blind_rules(row: Mapping[str, Any]) -> dict[str, float]:
    """Return whether rules that do not read the post pick the chosen summary (½ for a tie).

    `longer`: more characters win. `coverage`: more distinct content words win, whether or not they are true.
    """
    lengths = len(row["chosen"]) - len(row["rejected"])
    coverage = _content_words(row["chosen"]) - _content_words(row["rejected"])
    return {"longer": _agrees(lengths), "coverage": _agrees(coverage)}


def _content_words(text: str) -> int:
    return len({word for word in _WORD.findall(text.lower()) if word in SLOT_OF})


def _agrees(difference: int) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


_TEMPLATES = (
    *_OPENINGS, *_PLACES, *_DAYS, *_WANTS, *_FILLER, *(lead for _, lead in _LEADS), "someone took something",
)  # fmt: skip


def words_of(templates: Iterable[str]) -> set[str]:
    """Return the words of templates, without those that take their places."""
    return {word for text in templates for word in _WORD.findall(re.sub(r"{.*?}", " ", text))}


def vocabulary_words() -> list[str]:
    """Return every word that posts and summaries are made of, sorted."""
    return sorted(words_of(_TEMPLATES) | set(SLOT_OF))
