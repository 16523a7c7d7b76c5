"""What a finished run measured, as a table: stage, items, seconds, tokens a second, and the figures that came out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rso_core.terminal import clock
from webapp.runs.demo import interval


@dataclass(frozen=True)
class Measured:
    """The status of a finished run as its page gives it to programs, and what it was made of."""

    status: Mapping[str, Any]
    seconds: float
    preferences: str
    base: str

    @property
    def results(self) -> Mapping[str, Any]:
        """Return the figures of the run."""
        results: Mapping[str, Any] = self.status["results"]
        return results


def as_markdown(measured: Measured) -> str:
    """Return the measured table, then the figures, as Markdown."""
    lines = [
        f"# {measured.status['name']}", "",
        _made_of(measured), "",
        "| stage | items | seconds | tokens/s |", "|---|---:|---:|---:|",
        *(_row(stage) for stage in measured.status["stages"]), "",
        "| measured | value |", "|---|---|",
        *(f"| {name} | {value} |" for name, value in figures(measured.results).items()), "",
        _verdict(measured.results), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _made_of(measured: Measured) -> str:
    took = f"{clock(measured.seconds)} from sign-in to the result, imports included."
    return f"Preferences: `{measured.preferences}`. Base model: `{measured.base}`. {took}"


def _row(stage: Mapping[str, Any]) -> str:
    items = f"{stage['total']:,} {stage['unit']}" if stage["total"] else ""
    seconds = "" if stage["seconds"] is None else f"{stage['seconds']:,.1f}"
    rate = f"{stage['tokens_per_second']:,.0f}" if stage["tokens_per_second"] else ""
    return f"| {stage['title']} | {items} | {seconds} | {rate} |"


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a run by name, percentages with their 95 % intervals."""
    reward, acceptance = results["reward_model"], results["acceptance"]
    shown = {"reward model, held-out accuracy": interval(reward.get("accuracy"))}
    for rule in ("longer_wins", "first_shown_wins"):
        shown[f"blind rule, {rule.replace('_', ' ')}"] = interval(reward.get(rule))
    for name in ("observed", "expected", "theorem1"):
        value = acceptance.get(f"{name}_acceptance")
        shown[f"acceptance rate, {name}"] = "–" if value is None else f"{value:.1%}"
    for metric in results["policy"]:
        shown[f"{metric} win rate, SFT"] = interval(results["sft"][metric])
        shown[f"{metric} win rate, RSO"] = interval(results["policy"][metric])
        shown[f"{metric} win rate, RSO − SFT (paired)"] = interval(results["difference"][metric])
    return shown


def _verdict(results: Mapping[str, Any]) -> str:
    difference = results["difference"].get("proxy")
    if difference and difference["low"] > 0:
        return "The paired interval of the proxy win rate lies above 0."
    return "The paired interval of the proxy win rate contains 0 or lies below it: no improvement is claimed."


def as_json(measured: Measured) -> dict[str, Any]:
    """Return everything for programs."""
    return {
        "preferences": measured.preferences, "base": measured.base, "seconds": round(measured.seconds, 1),
        "name": measured.status["name"], "stages": measured.status["stages"], "results": measured.results,
    }  # fmt: skip
