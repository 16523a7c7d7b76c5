"""The card that goes with a policy: recipe, data, figures and lineage, as Markdown that the hub reads.

Everything in it is of the run's record: nothing is typed in, and a figure that was not measured has no row.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rso_core.config import RunConfig, dump_run_config
from rso_core.costs import cost_of

_RATES = {"proxy": "proxy win rate against the SFT target", "gold": "gold win rate against the SFT target"}


@dataclass(frozen=True)
class Made:
    """A finished stage of a run: what it is called, what identifies it, what it made, and its summary."""

    key: str
    fingerprint: str
    digest: str
    summary: Mapping[str, Any]


def model_card(config: RunConfig, stages: Iterable[Made]) -> str:
    """Return the card of the policy that a run has made. Ends with a line break."""
    made = list(stages)
    summaries = {stage.key: stage.summary for stage in made}
    parts = [
        _front(config),
        f"# {config.name}\n\n{_about(config)}",
        "## Figures\n\nOn test prompts that no training, sampling or selection has seen; 95 % intervals over conversations.\n\n"
        + _table(("figure", "value"), _figures(config, summaries)),
        f"## Data\n\n{_table(('data', 'value'), _data(config, summaries))}",
        f"## Recipe\n\n```yaml\n{dump_run_config(config)}```",
        "## Lineage\n\n" + _table(("stage", "fingerprint", "artifact"), _lineage(made)),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _front(config: RunConfig) -> str:
    return f"---\nlibrary_name: transformers\ntags: [rso, preference-optimization, {config.fitting.loss}]\n---"


def _about(config: RunConfig) -> str:
    how = f"the loss `{config.fitting.loss}` on `{config.pairs.pair_source}`"
    if config.pairs.label == "coin_label":
        how += ", labelled by a coin"
    return (
        f"A policy fitted from `{config.model.base}` for {config.task} with {how} (γ {config.fitting.gamma:g}, β "
        f"{config.rejection_sampling.beta:g}), by RSO Studio. The method is that of arXiv:2309.06657."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _interval(value: Mapping[str, Any]) -> str:
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}], {value['n']} prompts"


def _figures(config: RunConfig, summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    report, policy = summaries.get("report", {}), summaries.get("win_rate_policy", {})
    for key, title in _RATES.items():
        for who, name in (("policy", "policy"), ("sft", "SFT"), ("difference", "policy − SFT, paired")):
            if (report.get(who) or {}).get(key):
                yield f"{title}, {name}", _interval(report[who][key])
        if (policy.get("length_controlled") or {}).get(key):
            yield f"{title}, at equal length", _interval(policy["length_controlled"][key])
    if "variety" in policy:
        yield "distinct-2", f"{policy['variety']['distinct_2']:.1%}"
    for figure in summaries.get("checkpoint_figures", {}).get("checkpoints", ()):
        if figure["step"] == summaries.get("checkpoint_selection", {}).get("selected_step"):
            kl = figure["kl"]
            yield "KL from π_sft", f"{kl['value']:.2f} [{kl['low']:.2f}, {kl['high']:.2f}] nats a response"
    if summaries.get("reward_training", {}).get("accuracy"):
        yield "reward model, held-out accuracy", _interval(summaries["reward_training"]["accuracy"])
    cost = cost_of(config, summaries)
    if cost:
        yield "cost a prompt", f"{cost.decodes:g} decodes, {cost.comparisons:g} comparisons"


def _data(config: RunConfig, summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "preferences", f"`{config.data.preferences}`"
    yield "SFT targets and prompts", f"`{config.data.sft}`"
    for key, name, what in (
        ("sft", "examples", "SFT examples"),
        ("sampling", "prompts", "prompts sampled from"),
        ("pairs", "pairs", "training pairs"),
        ("targets", "targets", "training targets"),
    ):
        if summaries.get(key, {}).get(name):
            yield what, f"{summaries[key][name]:,}"


def _lineage(stages: Iterable[Made]) -> Iterator[tuple[str, ...]]:
    for stage in stages:
        yield stage.key.replace("_", " "), f"`{stage.fingerprint[:16]}`", f"`{stage.digest[:16]}`"
