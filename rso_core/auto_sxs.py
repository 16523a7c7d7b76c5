"""AutoSxS: a few-shot LLM judge compares two responses, in both orders, several times each (RSO, arXiv:2309.06657).

The judge writes `explanation:` and then its choice: (A), (B) or same. Half of the samples see the responses the other
way round. A sample counts +1 (the first system is better), −1 (the second is) or 0 (same); the average over the parsed
samples is a win above 0.35, a loss below −0.35, else a tie; the score of a system is wins + ties / 2 over all.

Ours: the paper's text gives labels 1, 0, ½ and the threshold on "the magnitude"; that other reading (0–1 labels,
|mean − ½| > 0.35, which is |average| > 0.7 here) is counted beside. Fewer than two parsed samples in either order leave
a prompt unjudged: excluded, and counted. Knows neither models nor files.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rso_core.win_rate import win_rate

THRESHOLD = 0.35
FEWEST_PARSED = 2  # in each order
Choice = Literal["A", "B", "same"]
Outcome = Literal["win", "loss", "tie", "unjudged"]

_WORTH: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
_CUE = re.compile(r"\bchoice[\s*_]*:[\s*_]*", re.IGNORECASE)
_OPTION = r"(?:summary|reply|response)?\s*(?P<{}>A|B|same|tie|equal)"
_BRACKETED = re.compile(rf"[(\[]\s*{_OPTION.format('bracketed')}\s*[)\]]", re.IGNORECASE)
_AFTER_CUE = re.compile(rf"\W*{_OPTION.format('plain')}\b(?!\s*(?:or|and|/)\b)", re.IGNORECASE)


class Example(BaseModel):
    """A solved comparison that the judge is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: str = Field(min_length=1)
    a: str
    b: str
    explanation: str = Field(min_length=1)
    choice: Choice


class FewShot(BaseModel):
    """What a judge is told before the case: a data file, editable per task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str = Field(min_length=1)
    context: str = Field(min_length=1, description="What the prompt is called.")
    response: str = Field(min_length=1, description="What a response is called.")
    examples: tuple[Example, ...] = Field(max_length=16)


@dataclass(frozen=True)
class Sample:
    """One answer of the judge: its choice as shown (None: unparseable), and whether the responses were swapped."""

    choice: Choice | None
    flipped: bool


@dataclass(frozen=True)
class Verdict:
    """What the samples of one prompt come to, from the first system's side.

    `average` is over the parsed samples, NaN when unjudged; `order_flip`: the two orders favour different systems.
    """

    outcome: Outcome
    average: float
    parsed: int
    unparseable: int
    order_flip: bool
    other_outcome: Outcome  # by the other reading of the threshold
    first_shown: int  # samples that chose the response shown first, whichever that was
    second_shown: int


def judge_prompt(few_shot: FewShot, context: str, first: str, second: str) -> str:
    """Return what the judge reads about one case; `first` is shown as A."""
    cases = [
        f"{_case(few_shot, e.context, e.a, e.b)}\nexplanation: {_line(e.explanation)}\nchoice: ({e.choice})"
        for e in few_shot.examples
    ]
    return "\n\n".join(
        [few_shot.instruction.strip(), *cases, f"{_case(few_shot, context, first, second)}\nexplanation:"]
    )


def _case(few_shot: FewShot, context: str, first: str, second: str) -> str:
    name = few_shot.response
    return f"{few_shot.context}:\n{context.strip()}\n{name} (A): {first.strip()}\n{name} (B): {second.strip()}"


def _line(text: str) -> str:
    return " ".join(text.split())


def parse_choice(answer: str) -> Choice | None:
    """Return the judge's choice, or None when the answer states none or more than one.

    Read after the first `choice:` up to the end of that line, so that a judge that goes on to invent further cases is
    still understood. Without that cue, the last line counts when it holds exactly one bracketed option.
    """
    cue = _CUE.search(answer)
    lines = answer[cue.end() :].splitlines()[:1] if cue else answer.strip().splitlines()[-1:]
    bracketed = _BRACKETED.findall("".join(lines))
    if bracketed or cue is None:
        return _only(bracketed)
    plain = _AFTER_CUE.match("".join(lines))
    return _named(plain["plain"]) if plain else None


def _only(found: Sequence[str]) -> Choice | None:
    choices = {_named(item) for item in found}
    return choices.pop() if len(choices) == 1 else None


def _named(text: str) -> Choice:
    upper = text.upper()
    return "A" if upper == "A" else "B" if upper == "B" else "same"


def label(sample: Sample) -> int | None:
    """Return +1 when the first system is preferred, −1 when the second is, 0 for same; None when unparseable."""
    if sample.choice is None:
        return None
    if sample.choice == "same":
        return 0
    return 1 if (sample.choice == "A") != sample.flipped else -1


def verdict(samples: Sequence[Sample]) -> Verdict:
    """Return what one prompt's samples come to. Raises ValueError when there are none."""
    if not samples:
        message = "`samples` must hold at least one answer, got none"
        raise ValueError(message)
    parsed = [(value, sample) for sample in samples if (value := label(sample)) is not None]
    straight = [value for value, sample in parsed if not sample.flipped]
    swapped = [value for value, sample in parsed if sample.flipped]
    is_judged = min(len(straight), len(swapped)) >= FEWEST_PARSED
    average = sum(value for value, _ in parsed) / len(parsed) if is_judged else math.nan
    return Verdict(
        outcome=_outcome(average, THRESHOLD),
        average=average,
        parsed=len(parsed),
        unparseable=len(samples) - len(parsed),
        order_flip=is_judged and sum(straight) * sum(swapped) < 0,
        other_outcome=_outcome(average, 2 * THRESHOLD),
        first_shown=sum(sample.choice == "A" for sample in samples),
        second_shown=sum(sample.choice == "B" for sample in samples),
    )


def _outcome(average: float, threshold: float) -> Outcome:
    if math.isnan(average):
        return "unjudged"
    return "win" if average > threshold else "loss" if average < -threshold else "tie"


def same_texts() -> Verdict:
    """Return the verdict on two equal texts: an exact tie that no judge needs to be asked about."""
    return Verdict("tie", 0.0, 0, 0, order_flip=False, other_outcome="tie", first_shown=0, second_shown=0)


def worth(outcome: Outcome) -> float:
    """Return 1 for a win, ½ for a tie, 0 for a loss. Raises KeyError for an unjudged prompt."""
    return _WORTH[outcome]


def worth_of(outcome: Outcome) -> float | None:
    """Return the worth of an outcome, None for an unjudged prompt."""
    return None if outcome == "unjudged" else worth(outcome)


def summarize(verdicts: Sequence[Verdict], roots: Sequence[str], *, draws: int, seed: int) -> dict[str, Any]:
    """Return the score with its 95 % interval clustered by conversation root, and everything that was counted.

    `score` is None when nothing was judged. `wins_over_all` counts ties as nothing.
    """
    judged = [(v, root) for v, root in zip(verdicts, roots, strict=True) if v.outcome != "unjudged"]
    kept = [root for _, root in judged]
    outcomes = [v.outcome for v in verdicts]

    def rate(values: Sequence[float]) -> dict[str, Any] | None:
        return win_rate(values, kept, draws=draws, seed=seed).as_dict() if kept else None

    return {
        "score": rate([worth(v.outcome) for v, _ in judged]),
        "wins_over_all": rate([float(v.outcome == "win") for v, _ in judged]),
        "other_reading": rate([worth(v.other_outcome) for v, _ in judged]),
        "outcomes": {name: outcomes.count(name) for name in ("win", "loss", "tie", "unjudged")},
        "prompts": len(verdicts),
        "samples": sum(v.parsed + v.unparseable for v in verdicts),
        "unparseable": sum(v.unparseable for v in verdicts),
        "order_flips": sum(v.order_flip for v in verdicts),
        "first_shown_chosen": sum(v.first_shown for v in verdicts),
        "second_shown_chosen": sum(v.second_shown for v in verdicts),
    }


def is_better_than_chance(accuracy: Mapping[str, Any] | None) -> bool:
    """Return whether a judge's accuracy on human pairs is clearly above one half: else its figures mean nothing."""
    return accuracy is not None and accuracy["low"] > _WORTH["tie"]
