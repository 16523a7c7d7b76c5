"""Write `docs/reproduction.md` and its figures from stored study bundles: no figure in it is typed.

    python -m rso_core.reproduction_page docs

Reads `docs/reproduction/*.json` (bundles) and `docs/reproduction/notes.md` (what people conclude, by heading).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rso_core.interval_figure import Point, interval_figure
from rso_core.mini_tldr import blind_rules, generate_dataset
from rso_core.references import BUILT_IN, built_in_dataset
from rso_core.studies import SEED
from rso_core.study_bundle import Bundle, as_markdown, doubtful_reward_models, metrics_of
from rso_core.study_presets import study_presets
from rso_core.study_results import METRIC_TITLES, SFT

_ORDER = ("table_1", "table_2", "table_3", "table_5", "table_6", "table_7", "figure_3a", "figure_3b", "real_study")
_INTRODUCTION = """# Reproduction

Made from the study bundles in [reproduction/](reproduction/) by `make reproduction-page`; nothing here is typed but the notes. The last
section is on real preferences. All others are on the built-in task, `mini_tldr`, which is small and whose gold reward is exact; AutoSxS is
not run on it. Figures are % of test prompts won against the SFT target, mean over
seeds ± half of the 95 % interval ([studies.md](studies.md) says how); ▲: clear against a planned comparison. The paper's own figures are of
other models and data: what can be compared is the order.
"""


def page(bundles: Mapping[str, Bundle], notes: Mapping[str, str]) -> str:
    """Return the document."""
    names = sorted(bundles, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return "\n".join([_INTRODUCTION, *(_section(name, bundles[name], notes.get(name, "")) for name in names)])


def _section(name: str, bundle: Bundle, note: str) -> str:
    study = bundle["study"]
    preset = study_presets().get(study["preset"])
    parts = [f"## {study['name']}", "", *([preset.about, ""] if preset else []), as_markdown(bundle)]
    parts += (
        [f"![{study['name']}: win rates with intervals](reproduction/{name}.svg)", ""] if metrics_of(bundle) else []
    )
    parts += [*_planned(bundle), *_costs(bundle), *_reward_models(bundle), *_judge(bundle), _facts(bundle), ""]
    return "\n".join([*parts, *([note.strip(), ""] if note.strip() else [])])


def _planned(bundle: Bundle) -> list[str]:
    planned = [item for item in bundle["comparisons"] if item["adjusted"] is not None]
    if not planned:
        return []
    rows = [
        f"| {item['first']} − {item['second']} | {METRIC_TITLES[item['metric']]} | {_points(item['difference'])} | "
        f"{item['adjusted']:.3f} | {item['verdict']} |"
        for item in planned
    ]
    return ["| planned comparison | metric | difference, points | p (Holm) | |", "|---|---|---:|---:|---|", *rows, ""]


def _reward_models(bundle: Bundle) -> list[str]:
    found = [model for model in bundle.get("reward_models", []) if model["accuracy"]]
    if not found:
        return []
    rows = [
        f"| {_reward_model_name(model)} | {model['heldout_pairs']} | {_interval(model['accuracy'])} | "
        f"{_interval(model['longer_wins'])} | {_percent(coverage_rate(bundle, model['seeds'][0]))} | {100 * model['order_flips']:.1f} |"
        for model in found
    ]
    head = "| reward model of seed | held-out pairs | right, % | longer wins, % | more facts win, % | changes with the order, % |"
    return [head, "|---|---:|---:|---:|---:|---:|", *rows, "", *_doubts(bundle)]


def _doubts(bundle: Bundle) -> list[str]:
    names = [_reward_model_name(model) for model in doubtful_reward_models(bundle)]
    if not names:
        return []
    return [
        f"**Not better than chance** on held-out human pairs, so that its column says nothing: {'; '.join(names)}.",
        "",
    ]


def _reward_model_name(model: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, model["seeds"]))
    return seeds if model.get("metric", "proxy") == "proxy" else f"{seeds}, {model['metric']}"


def coverage_rate(bundle: Bundle, seed: int) -> float | None:
    """Return how often the rule "more facts win, true or not" agrees with D_hf of a seed; None but on the built-in task."""
    options = built_in_dataset(bundle["study"]["base"]["data"]["preferences"].replace(SEED, str(seed)), "preference")
    if options is None:
        return None
    rows = list(generate_dataset("preference", **options[BUILT_IN]))
    return sum(blind_rules(row)["coverage"] for row in rows) / len(rows)


def _judge(bundle: Bundle) -> list[str]:
    judge, asked = bundle.get("judge"), bundle.get("auto_sxs")
    words = []
    if judge:
        accuracy = f"right on {_interval(judge['accuracy'])} % of" if judge["accuracy"] else "able to judge none of"
        unjudged = judge["outcomes"]["unjudged"]
        words.append(
            f"The judge is {accuracy} {judge['prompts']} held-out human pairs ({unjudged} unjudged, the order decided {judge['order_flips']})."
        )
    if asked:
        words.append(
            f"AutoSxS left {asked['unjudged']} of {asked['prompts']} comparisons unjudged: {asked['unparseable']} of {asked['samples']} "
            "answers of the judge hold no choice."
        )
    return [" ".join(words), ""] if words else []


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.1f}"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _points(difference: Mapping[str, Any]) -> str:
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _costs(bundle: Bundle) -> list[str]:
    if bundle["study"]["preset"] != "table_7":
        return []
    rows = [
        f"| {row['arm']} | {row['cost']['decodes']:.1f} | {row['cost']['comparisons']:.1f} | "
        f"{row['cost']['formula'][0]} + {row['cost']['formula'][1]} | {row['cost']['baseline_decodes']:.1f} |"
        for row in bundle["rows"]
        if row["cost"]
    ]
    head = "| for each prompt | decodes | comparisons | the paper's formula | baseline decodes |"
    return [head, "|---|---:|---:|---:|---:|", *rows, ""]


def _facts(bundle: Bundle) -> str:
    shared, made = bundle["sharing"], bundle["versions"]
    kinds = shared["kinds"]
    counts = ", ".join(f"{kind.replace('_', ' ')} {kinds[kind]['done']} of {kinds[kind]['uses']}" for kind in kinds)
    done = sum(cell["done"] for cell in bundle["cells"])
    seeds = ", ".join(map(str, bundle["study"]["seeds"]))
    return (
        f"{done} of {len(bundle['cells'])} cells, seeds {seeds}. Done once of uses: {counts}. {shared['seconds'] / 60:.0f} minutes of work; "
        f"{shared['seconds_separate'] / 60:.0f} had each cell done its own. Python {made['python']}, torch {made['torch']}, transformers "
        f"{made['transformers']}, {made['threads'] or 'unknown'} thread(s) a worker, {made['machine']}."
    )


def figure(bundle: Bundle) -> str:
    """Return the win rates of every arm with their intervals as SVG."""
    rows: Sequence[tuple[str, Mapping[str, Any]]] = [
        (SFT, bundle["sft"]),
        *((row["arm"], row["figures"]) for row in bundle["rows"]),
    ]
    points = [
        Point(
            arm, METRIC_TITLES[metric].removesuffix(" %"), *(figures[metric][name] for name in ("value", "low", "high"))
        )
        for arm, figures in rows
        for metric in metrics_of(bundle)
        if metric in figures
    ]
    return interval_figure(f"{bundle['study']['name']}: win rates against the SFT target", points)


def read_notes(text: str) -> dict[str, str]:
    """Return the notes by the name of the bundle that their heading (`## table_1`) gives."""
    found: dict[str, str] = {}
    for part in text.split("\n## ")[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = body
    return found


def main(docs: Path) -> None:
    """Write page and figures."""
    folder = docs / "reproduction"
    bundles = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    notes = folder / "notes.md"
    for name, bundle in bundles.items():
        if metrics_of(bundle):
            (folder / f"{name}.svg").write_text(figure(bundle), encoding="utf-8")
    text = page(bundles, read_notes(notes.read_text(encoding="utf-8") if notes.exists() else ""))
    (docs / "reproduction.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
