"""Pairs explorer: the prompts of a run, and for each all candidates, what was kept, and the pairs."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs.models import LIVE, Pair, Run, RunStage, Status
from webapp.runs.pool_rows import acceptance_figure, human_prompt_page, prompt_page, prompt_pool, reward_histogram
from webapp.runs.run_results import system_of
from webapp.runs.sharing import may_change
from webapp.runs.views_runs import artifacts_needed, find_run

_POOL_KEYS = ("sampling", "scoring", "rejection_sampling", "pairs")


@dataclass(frozen=True)
class Pool:
    """Which artifacts of a run the explorer reads; empty where a stage has not finished."""

    digests: dict[str, str]
    summaries: dict[str, dict[str, Any]]
    pairs_stage: int | None
    waits_for: list[str]

    @property
    def prompts(self) -> str:
        """Return the artifact that the prompts are listed from: the richest there is."""
        return self.digests.get("rejection_sampling") or self.digests.get("sampling", "")


def _pool(run: Run) -> Pool:
    stages = RunStage.objects.filter(run=run, key__in=_POOL_KEYS).select_related("stage").order_by("order")
    done = {item.key: item.stage for item in stages if item.stage.status == Status.DONE}
    waits_for = [item.stage.title for item in stages if item.key not in done]
    pairs = next((item.stage_id for item in stages if item.key == "pairs"), None)
    return Pool(
        {key: stage.digest for key, stage in done.items()}, {key: stage.summary for key, stage in done.items()},
        pairs, waits_for,
    )  # fmt: skip


def _frame(request: SignedInRequest, run: Run) -> dict[str, Any]:
    """Return what the frame of every page of a run needs."""
    return {
        "run": run, "tab": "pairs", "system": system_of(run.config), "is_live": run.status in LIVE,
        "may_change": may_change(request.user, run),
    }  # fmt: skip


@require_safe
@researcher_required
@artifacts_needed
def pairs(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show acceptance, rewards and the prompts of a run."""
    run = find_run(request, pk)
    pool, words = _pool(run), request.GET.get("q", "").replace("\x00", "").strip()
    scoring = RunStage.objects.filter(run=run, key="scoring", stage__status=Status.DONE).select_related("stage").first()
    context = {**_frame(request, run), "pool": pool, "words": words, "scoring": scoring.stage if scoring else None}
    if pool.prompts:
        found = prompt_page(pool.prompts, words=words, after=_place(request))
        counts = _pair_counts(pool, [row["prompt_id"] for row in found.rows])
        context |= {"found": found, "rows": [{**row, "pairs": counts.get(row["prompt_id"], 0)} for row in found.rows]}
        context |= _figures(pool, system_of(run.config).colour)
    elif "pairs" in pool.digests:
        found = human_prompt_page(pool.digests["pairs"], words=words, after=_place(request))
        context |= {"found": found, "rows": found.rows}
    return render(request, "runs/pairs.html", context)


def _place(request: SignedInRequest) -> int:
    after = request.GET.get("after", "")
    return int(after) if after.isascii() and after.isdecimal() and len(after) < 10 else 0  # noqa: PLR2004 - fits PostgreSQL's integer


def _pair_counts(pool: Pool, prompt_ids: list[str]) -> dict[str, int]:
    rows = Pair.objects.filter(stage=pool.pairs_stage, prompt_id__in=prompt_ids)
    return dict(rows.order_by().values_list("prompt_id").annotate(pairs=Count("pk")))


def _figures(pool: Pool, colour: str) -> dict[str, Any]:
    scores, kept = pool.digests.get("scoring", ""), pool.digests.get("rejection_sampling", "")
    return {
        "histogram": reward_histogram(scores, kept, colour) if scores else None,
        "acceptance": acceptance_figure(kept, colour) if kept and scores else None,
        "acceptance_summary": pool.summaries.get("rejection_sampling") if scores else None,
    }


@require_safe
@researcher_required
@artifacts_needed
def prompt(request: SignedInRequest, pk: int, prompt_id: str) -> HttpResponse:
    """Show everything that was sampled for a prompt, what was kept, and its pairs."""
    run = find_run(request, pk)
    prompt_id = prompt_id.replace("\x00", "")  # PostgreSQL takes none
    pool = _pool(run)
    sampled = pool.digests.get("sampling", "")
    item = None
    if sampled:
        scores, kept = pool.digests.get("scoring", ""), pool.digests.get("rejection_sampling", "")
        item = prompt_pool(prompt_id, pool=sampled, scores=scores, kept=kept)
    rows = list(Pair.objects.filter(stage=pool.pairs_stage, prompt_id=prompt_id))
    if item is None and not rows:
        message = f"no prompt {prompt_id} in {run.name}."
        raise Http404(message)
    context = {**_frame(request, run), "item": item, "pairs": rows, "prompt_id": prompt_id}
    context["prompt"] = item.prompt if item else rows[0].prompt
    context["candidates"], context["sort"] = _ordered(item.candidates if item else [], request.GET.get("sort", ""))
    return render(request, "runs/prompt.html", context)


def _ordered(candidates: list[Any], wanted: str) -> tuple[list[Any], str]:
    """Return candidates in the wanted order: best reward first unless asked otherwise."""
    keys = {
        "reward": lambda c: c.reward if c.reward is not None else float("-inf"),
        "index": lambda c: c.index,
        "round": lambda c: c.round if c.round is not None else float("inf"),
        "tokens": lambda c: c.tokens,
    }
    name = wanted.removeprefix("-")
    if name not in keys:
        has_rewards = any(candidate.reward is not None for candidate in candidates)
        wanted = name = "index"
        wanted, name = ("-reward", "reward") if has_rewards else (wanted, name)
    return sorted(candidates, key=keys[name], reverse=wanted.startswith("-")), wanted
