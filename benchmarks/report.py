"""Make `docs/performance.md` from the result files in `benchmarks/results` and the notes in `benchmarks/notes`.

    python -m benchmarks.report [--results FOLDER] [--output FILE]

Every figure in the document stands in a result file; what people wrote about approaches stands in the notes and is taken
over as it is. The same files give the same document. A row that has not been measured says so.
"""

import argparse
import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
NOTES = ROOT / "benchmarks" / "notes"
Result = Mapping[str, Any]
Results = Mapping[str, Result]


@dataclass(frozen=True)
class Target:
    """A row of the table: the result file, what is measured, against what, and what is to be reached."""

    name: str
    work: str
    against: str
    speedup: float | None = None
    memory: float | None = None
    bound_share: float | None = None
    utilisation: float | None = None


TARGETS = (
    Target(
        "fitting_200_48",
        "policy fitting, 8 prompts × 8 responses, 200 + 48 tokens",
        "TRL's DPOTrainer",
        speedup=6,
        memory=0.5,
        utilisation=0.25,
    ),
    Target("fitting_hh", "policy fitting, lengths of HH", "TRL's DPOTrainer", speedup=5, memory=0.5, utilisation=0.25),
    Target(
        "fitting_oasst", "policy fitting, lengths of OpenAssistant", "TRL's DPOTrainer", memory=0.5, utilisation=0.25
    ),
    Target("fitting_t5", "policy fitting, T5", "plain transformers", bound_share=0.7),
    Target("direct_pairs", "policy fitting, direct pairs", "TRL's DPOTrainer", speedup=3.5),
    Target(
        "scoring_hh_both", "scoring, both orders, lengths of HH", "length-sorted batches", speedup=2.1, utilisation=0.4
    ),
    Target(
        "scoring_382_34_both",
        "scoring, both orders, 382 + 34 tokens",
        "length-sorted batches",
        speedup=5,
        utilisation=0.4,
    ),
    Target(
        "scoring_hh_one", "scoring, one order, lengths of HH", "length-sorted batches", speedup=3.1, utilisation=0.4
    ),
    Target(
        "scoring_382_34_one",
        "scoring, one order, 382 + 34 tokens",
        "length-sorted batches",
        bound_share=0.7,
        utilisation=0.4,
    ),
    Target(
        "scoring_oasst_both", "scoring, both orders, lengths of OpenAssistant", "length-sorted batches", bound_share=0.7
    ),
    Target(
        "scoring_oasst_one", "scoring, one order, lengths of OpenAssistant", "length-sorted batches", bound_share=0.7
    ),
    Target("sampling_200", "sampling, prompts of 200 tokens", "`generate`", speedup=3),
    Target("sampling_hh", "sampling, prompts of HH", "`generate`", speedup=3),
    Target("sampling_oasst", "sampling, prompts of OpenAssistant", "`generate`", speedup=3),
    Target("two_workers_sampling", "sampling, two workers of one thread", "one worker of one thread", speedup=1.8),
    Target("two_workers_scoring", "scoring, two workers of one thread", "one worker of one thread", speedup=1.8),
    Target("two_workers_matmul", "matrix products alone, two workers of one thread", "one worker of one thread"),
    Target("reward_training", "reward-model training", "plain transformers", speedup=1.5),
    Target("reward_training_oasst", "reward-model training, all pairs of a prompt", "plain transformers", speedup=1.5),
    Target("whole_run", "whole run on the OpenAssistant file", "TRL and transformers", speedup=4),
    Target("study_grid", "3 × 3 grid over shared stages", "9 separate runs of ours", bound_share=0.9),
)
# What has a section of its own, or a page of its own.
_OTHERS = ("matmul", "cost_growth", "import_rows", "human_eval_coverage", "web_pages", "web_viewers")


def main() -> None:
    """Write the document."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--output", type=Path, default=DOCUMENT)
    options = made.parse_args()
    results = load(options.results)
    options.output.write_text(document(results, notes(NOTES)), encoding="utf-8")
    print(json.dumps({"document": str(options.output), "results": sorted(results)}))


def load(folder: Path) -> dict[str, Result]:
    """Return the results in a folder by name; lists (older files of other benchmarks) are left out."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def notes(folder: Path) -> list[str]:
    """Return the notes, in the order of their file names."""
    return [path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.md"))]


def document(results: Results, written: Sequence[str]) -> str:
    """Return the whole document."""
    parts = [
        "# Performance",
        "<!-- Made by `make bench-report` from benchmarks/results/*.json and benchmarks/notes/*.md; edit those. -->",
        _introduction(),
        "## Against what people would otherwise use",
        table(results),
        "## Utilisation",
        utilisation(results),
        *whole_run(results),
        "## Growth of cost",
        growth(results),
        "## The web side",
        web(results),
        "## Settings, machine and commands",
        settings(results),
        *written,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction() -> str:
    return (
        "Everything here is measured on CPU only; nothing has been run on a GPU. A speed-up is the ratio of items per second, ours ÷ theirs, in\n"
        "the same round: both sides are processes of their own with the same threads, dtype and token ids, and work in turn. The figure is the median\n"
        "over rounds, with the lowest and the highest behind it. The *token bound* is the ratio of the tokens that must go through the model:\n"
        "what reading a prompt once can give at most when every token costs the same. Memory is peak resident memory, ours ÷ theirs.\n"
        "Results are exact: the same losses, gradients and distributions, which the tests compare with the plain computation."
    )


# The table ---------------------------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Return the table of targets, and of results that have no target."""
    known = {target.name for target in TARGETS}
    more = [Target(name, name.replace("_", " "), "–") for name, found in results.items() if _is_row(name, found, known)]
    head = (
        "| work | against | prompt / response tokens | token bound | speed-up | target | memory | target | reached |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    )
    return "\n".join([*head, *(_row(target, results.get(target.name), results) for target in (*TARGETS, *more))])


def _is_row(name: str, found: Result, known: set[str]) -> bool:
    return name not in known and name not in _OTHERS and "speedup_median" in found


def _row(target: Target, found: Result | None, results: Results) -> str:
    if found is None:
        return f"| {target.work} | {target.against} | | | not measured | {_target(target)} | | {_memory_target(target)} | |"
    low, high = found["speedup_range"]
    bound = found.get("token_bound") or found.get("sharing_bound")
    memory = found.get("memory_ratio")
    cells = (
        target.work,
        target.against if target.against != "–" else found.get("peer", {}).get("name", "–"),
        _lengths(found.get("lengths", {})),
        f"{bound:.2f}" if bound else "–",
        f"**{found['speedup_median']:.2f}** ({low:.2f}–{high:.2f})",
        _target(target),
        f"{memory:.2f}" if memory else "–",
        _memory_target(target),
        _reached(target, found, results),
    )
    return f"| {' | '.join(cells)} |"


def _target(target: Target) -> str:
    if target.speedup is not None:
        return f"≥ {target.speedup:g}"
    return f"≥ {target.bound_share:.0%} of the bound" if target.bound_share is not None else "–"


def _memory_target(target: Target) -> str:
    return f"≤ {target.memory:g}" if target.memory is not None else "–"


def _lengths(lengths: Result) -> str:
    """Return median lengths as "200 / 48", or with the limit of what is sampled; ranges are in the result file."""
    prompt, response = lengths.get("prompt_tokens"), lengths.get("response_tokens")
    limit = lengths.get("response_tokens_limit")
    shown = _median(response) if response is not None else f"≤ {limit}" if limit else ""
    return f"{_median(prompt)} / {shown}" if prompt is not None and shown else "–"


def _median(value: Any) -> str:
    return f"{value['median']:g}" if isinstance(value, Mapping) else str(value)


def _reached(target: Target, found: Result, results: Results) -> str:
    """Return yes, or what was missed."""
    missed = [name for name, reached in verdicts(target, found, results).items() if not reached]
    if not verdicts(target, found, results):
        return "–"
    return "yes" if not missed else f"no: {', '.join(missed)}"


def verdicts(target: Target, found: Result, results: Results) -> dict[str, bool]:
    """Return for each target of a row whether it is reached; what cannot be told is left out."""
    speedup = found["speedup_median"]
    bound = found.get("token_bound") or found.get("sharing_bound")
    judged: dict[str, bool] = {}
    if target.speedup is not None:
        judged["speed-up"] = speedup >= target.speedup
    if target.bound_share is not None and bound:
        judged["speed-up"] = speedup >= target.bound_share * bound
    if target.memory is not None and found.get("memory_ratio"):
        judged["memory"] = found["memory_ratio"] <= target.memory
    share = utilisation_of(found, results)
    if target.utilisation is not None and share is not None:
        judged["utilisation"] = share[0] >= target.utilisation
    return judged


# The roof ----------------------------------------------------------------------------------------------------------------


def utilisation_of(found: Result, results: Results) -> tuple[float, float] | None:
    """Return a row's operations per second ÷ the matmul rate at the model's shapes, and ÷ the machine's peak."""
    roof = roof_of(found, results)
    if roof is None or not found.get("flops_per_second"):
        return None
    return found["flops_per_second"] / roof[0], found["flops_per_second"] / roof[1]


def roof_of(found: Result, results: Results) -> tuple[float, float] | None:
    """Return the matmul rate at the model's shapes (for as many tokens at once as the row has), and the peak rate."""
    rates = results.get("matmul", {}).get("dtypes", {}).get(found.get("dtype", ""))
    if rates is None:
        return None
    tokens = found.get("ours", {}).get("facts", {}).get("tokens_per_forward", 1024)
    nearest = min(rates["tokens"], key=lambda size: (abs(int(size) - tokens), int(size)))
    trains = "fitting" in found["name"] or found["name"].startswith(("direct_pairs", "reward_training"))
    return rates["tokens"][nearest]["training" if trains else "forward"], rates["peak"]


def utilisation(results: Results) -> str:
    """Return the roofline: the matmul rates, and what of them each row reaches."""
    if "matmul" not in results:
        return "Not measured."
    lines = ["Matrix products alone, in GFLOP/s; a training pass is the forward product and its two gradients.", ""]
    lines += ["| dtype | tokens at once | forward | training | peak of square products |", "|---|---:|---:|---:|---:|"]
    for dtype, rates in sorted(results["matmul"]["dtypes"].items()):
        for tokens, rate in sorted(rates["tokens"].items(), key=lambda item: int(item[0])):
            figures = (rate["forward"], rate["training"], rates["peak"])
            lines.append(f"| {dtype} | {tokens} | " + " | ".join(f"{value / 1e9:,.0f}" for value in figures) + " |")
    rows = [row for target in TARGETS if (row := _utilisation_row(target, results))]
    if rows:
        lines += [
            "",
            "Operations that the algorithm needs (no padding, no recomputation), per second of the whole step.",
            "",
        ]
        lines += [
            "| work | GFLOP/s | of the rate at the model's shapes | target | of the peak |",
            "|---|---:|---:|---:|---:|",
        ]
    return "\n".join([*lines, *rows])


def _utilisation_row(target: Target, results: Results) -> str:
    found = results.get(target.name)
    shares = None if found is None else utilisation_of(found, results)
    if found is None or shares is None:
        return ""
    wanted = f"≥ {target.utilisation:.0%}" if target.utilisation is not None else "–"
    return f"| {target.work} | {found['flops_per_second'] / 1e9:,.0f} | {shares[0]:.0%} | {wanted} | {shares[1]:.0%} |"


def whole_run(results: Results) -> list[str]:
    """Return the section on the stages of a whole run, where there is a result."""
    found = results.get("whole_run")
    if found is None:
        return []
    lines = ["| stage | ours, s | theirs, s |", "|---|---:|---:|"]
    stages = {side: _stage_seconds(found, side) for side in ("ours", "peer")}
    for stage in dict.fromkeys([*stages["ours"], *stages["peer"]]):
        figures = [stages[side].get(stage) for side in ("ours", "peer")]
        shown = " | ".join("–" if value is None else f"{value:,.1f}" for value in figures)
        lines.append(f"| {stage.replace('_', ' ')} | {shown} |")
    words = f"{len(found['rounds'])} rounds; medians. Theirs counts all evaluation of the test prompts as one stage."
    return ["## Stages of the whole run", words, "\n".join(lines)]


def _stage_seconds(found: Result, side: str) -> dict[str, float]:
    """Return the median seconds of each stage of a side, in the order in which they were done."""
    rounds = [entry[side]["stages"] for entry in found["rounds"]]
    return {stage: statistics.median(stages[stage] for stages in rounds) for stage in rounds[0]}


# Growth, settings ----------------------------------------------------------------------------------------------------------


def growth(results: Results) -> str:
    """Return how time and memory grow."""
    found = results.get("cost_growth")
    if found is None:
        return "Not measured."
    lines = [
        "Cost of one more item at the large sizes ÷ at the small ones (1 is linear, less is better than linear; at most 1.1 is wanted), and the",
        f"largest sizes themselves. {found['steps']} fitting steps at every number of prompts: the slowest took {found['fitting_steps_ratio']:.2f} times the fastest.",
        "",
        "| what grows | stage | sizes | seconds | peak MB | time ratio | memory ratio |",
        "|---|---|---|---|---|---:|---:|",
    ]
    for what, stages in sorted(found["growth"].items(), reverse=True):
        sizes = sorted(found["sizes"][what], key=int)
        for stage, ratios in stages.items():
            at = [found["sizes"][what][size][stage] for size in sizes]
            seconds = ", ".join(f"{figures['seconds']:.1f}" for figures in at)
            peaks = ", ".join(f"{figures['peak_bytes'] / 1e6:,.0f}" for figures in at)
            shown = ", ".join(f"{int(size):,}" for size in sizes)
            name = stage.replace("_", " ")
            lines.append(
                f"| {what} | {name} | {shown} | {seconds} | {peaks} | {ratios['seconds']:.2f} | {ratios['peak_bytes']:.2f} |"
            )
    return "\n".join(lines)


_SLOWEST = 12


def web(results: Results) -> str:
    """Return what pages, viewers and imports take."""
    parts = [
        _pages(results.get("web_pages")),
        _viewers(results.get("web_viewers")),
        _imports(results.get("import_rows")),
        _service_memory(results.get("service_memory")),
    ]
    return "\n\n".join(parts)


def _pages(found: Result | None) -> str:
    if found is None:
        return "Pages: not measured."
    pages = [page for page in found["pages"] if not page["download"]]
    files = [page for page in found["pages"] if page["download"]]
    within = len(pages) - len(found["missed"])
    rows = ", ".join(f"{count:,} × {word}" for word, count in sorted(found["rows"].items(), key=lambda item: -item[1]))
    lines = [
        f"Pages over a database with {rows}: one request at a time over HTTP to the started product, {found['repeat']} of each page.",
        f"The target, a p95 of at most {found['target']['p95_ms']:g} ms, is reached by {within} of {len(pages)}; the median page's p95 is "
        f"{statistics.median(page['p95_ms'] for page in pages):.0f} ms. The {_SLOWEST} slowest"
        + (
            f"; the first byte of the slowest file comes after {max(page['p95_ms'] for page in files):.0f} ms:"
            if files
            else ":"
        ),
        "",
        "| page | address | p50, ms | p95, ms | KB |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {page['name']} | `{page['path']}` | {page['p50_ms']:.0f} | {page['p95_ms']:.0f} | {page['bytes'] / 1000:.0f} |"
        for page in pages[:_SLOWEST]
    ]
    return "\n".join(lines)


def _viewers(found: Result | None) -> str:
    if found is None:
        return "Viewers: not measured."
    return (
        f"{found['viewers']} people watch one run that goes on, each polling two parts of its page every 2 s: {found['polls_per_second']:.0f} polls/s,\n"
        f"the web process needs **{found['core_share']:.0%}** of one core (target: under {found['target']['core_share']:.0%}), "
        f"a poll waits {found['p50_ms']:.0f} ms (p95 {found['p95_ms']:.0f} ms)."
    )


def _imports(found: Result | None) -> str:
    if found is None:
        return "Imports: not measured."
    figures = ", ".join(
        f"{ending} {measured['seconds']:.0f} s and {measured['peak_bytes'] / 1e6:.0f} MB"
        for ending, measured in sorted(found["formats"].items())
    )
    return f"Import of {found['rows']:,} rows as long as those of HH (target: under {found['target']['seconds']:g} s): {figures}."


def _service_memory(found: Result | None) -> str:
    if found is None:
        return "Memory over more and more pairs: not measured."
    sizes = sorted(found["sizes"], key=int)
    lines = [
        "The most memory of processes that hold no model, in MB, each size with processes of its own: an import (all it holds), and without mapped files",
        "a worker's supervisor that stores the pairs of a stage, and a web process that shows them and sends all of them as JSON lines and as CSV",
        f"(target: the largest takes at most {found['target']['rise_bytes'] / 1e6:.0f} MB more than the smallest).",
        "",
        f"| process | {' | '.join(f'{int(size):,} pairs' for size in sizes)} | rise |",
        f"|---|{'---:|' * (len(sizes) + 1)}",
    ]
    for process, rise in found["rises"].items():
        peaks = " | ".join(f"{found['sizes'][size][process] / 1e6:.0f}" for size in sizes)
        lines.append(f"| {process} | {peaks} | {rise / 1e6:.0f} |")
    return "\n".join(lines)


def settings(results: Results) -> str:
    """Return machine, command and both sides' settings of every result."""
    told = {name: found for name, found in sorted(results.items()) if isinstance(found.get("machine"), Mapping)}
    return "\n\n".join(_settings(name, found) for name, found in told.items()) or "Nothing has been measured."


def _settings(name: str, found: Result) -> str:
    machine = found["machine"]
    calibration = [entry["calibration_seconds"] for entry in found.get("rounds", ()) if "calibration_seconds" in entry]
    lines = [
        f"### {name}",
        "",
        f"    {' '.join(shlex.quote(word) for word in found['command'].split())}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GB, {' '.join(machine['bfloat16']) or 'no bfloat16'}; "
        f"{found['threads']} threads, {found['dtype']}; measured {found['measured_at']}"
        + (f"; calibration loop {min(calibration):.3f}–{max(calibration):.3f} s" if calibration else "")
        + ".",
    ]
    lines += [_side(side, found[side]) for side in ("ours", "peer") if isinstance(found.get(side), Mapping)]
    return "\n".join(lines)


def _side(side: str, described: Result) -> str:
    """Return what a side is, its settings but for the data, and its versions."""
    shown = {**described.get("settings", {}), **described.get("facts", {})}
    small = {
        key: value for key, value in shown.items() if key != "tried" and len(json.dumps(value)) <= _LONGEST_SETTING
    }
    versions = ", ".join(f"{key} {value}" for key, value in sorted(described.get("versions", {}).items()))
    words = ", ".join(f"{key} {value}" for key, value in sorted(small.items()))
    tried = "".join(f"; tried {_tried(entry)}" for entry in shown.get("tried", ()))
    return f"\n- {side}: {described.get('name', '')}. {words}{tried}. {versions}."


_LONGEST_SETTING = 120


def _tried(entry: Result) -> str:
    words = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("items_per_second", "peak_bytes"))
    return f"({words}: {entry['items_per_second']:.2f}/s)"


if __name__ == "__main__":
    main()
