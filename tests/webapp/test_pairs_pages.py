from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from django.test import Client
from pytest_django import Settings

from rso_core.artifacts import ROWS, write_rows
from rso_core.vocabulary import prompt_id
from tests.webapp.made_runs import (
    CANDIDATES,
    config_of,
    finish_run,
    kept_row,
    launched,
    pool_rows,
    post,
    rewards_of,
)
from webapp.accounts.models import User
from webapp.runs.artifacts import store
from webapp.runs.models import Pair, Run
from webapp.runs.pool_rows import PAGE_SIZE, human_prompt_page, prompt_page, reward_histogram

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(browser: Client, researcher: User) -> Run:
    return finish_run(launched(researcher), until="policy_fitting")


def text(response: Any) -> str:
    return str(response.content.decode())


def digest(run: Run, key: str) -> str:
    return run.run_stages.get(key=key).stage.digest


def test_every_candidate_is_shown_with_its_reward_and_the_round_that_accepted_it(browser: Client, run: Run) -> None:
    row = pool_rows(1)[3]  # of the second part
    kept = kept_row(row)
    response = browser.get(f"/runs/{run.pk}/pairs/{row['prompt_id']}/")
    candidates = response.context["candidates"]
    assert len(candidates) == CANDIDATES
    rewards = rewards_of(row)
    assert [c.reward for c in candidates] == sorted(rewards, reverse=True)
    assert all(c.reward == rewards[c.index] for c in candidates)
    rounds = {c["sample_index"]: number for c, number in zip(kept["kept"], kept["rounds"], strict=True)}
    assert {c.index: c.round for c in candidates if c.is_kept} == rounds
    page = text(response)
    assert page.count('class="candidate kept"') == 8
    assert page.count('class="side chosen"') == 4
    assert "preferred with 71.0\u00a0%" in page
    assert page.count("cut at the limit") == 1


@pytest.mark.parametrize(("sort", "first"), [("index", 0), ("-index", CANDIDATES - 1), ("nonsense", None)])
def test_candidates_are_sorted_as_asked(browser: Client, run: Run, sort: str, first: int | None) -> None:
    row = pool_rows(0)[0]
    candidates = browser.get(f"/runs/{run.pk}/pairs/{row['prompt_id']}/", {"sort": sort}).context["candidates"]
    assert candidates[0].index == (first if first is not None else int(np.argmax(rewards_of(row))))


def test_prompts_are_listed_page_by_page_and_none_is_lost(browser: Client, run: Run) -> None:
    address, seen, after = f"/runs/{run.pk}/pairs/", [], 0
    while after is not None:
        found = browser.get(address, {"after": after}).context["found"]
        assert len(found.rows) <= PAGE_SIZE
        seen += [row["prompt_id"] for row in found.rows]
        after = found.after
    shards = run.run_stages.get(key="sampling").stage.shard_count
    assert seen == [row["prompt_id"] for shard in range(shards) for row in pool_rows(shard)]
    second = prompt_page(digest(run, "rejection_sampling"), after=PAGE_SIZE)
    assert second.before == 0


def test_prompts_are_found_by_their_words(browser: Client, run: Run) -> None:
    response = browser.get(f"/runs/{run.pk}/pairs/", {"q": "POST 12:"})
    assert [row["prompt_id"] for row in response.context["rows"]] == [prompt_id(post(12))]
    assert response.context["rows"][0]["pairs"] == 4
    assert "No prompt has these words" in text(browser.get(f"/runs/{run.pk}/pairs/", {"q": "zebra"}))


@pytest.mark.parametrize("after", ["-1", "x", "99999999999999999999", "²", "1000"])
def test_odd_places_are_answered(browser: Client, run: Run, after: str) -> None:
    assert browser.get(f"/runs/{run.pk}/pairs/", {"after": after}).status_code == 200


def test_the_run_shows_observed_beside_expected_acceptance_and_the_rewards(browser: Client, run: Run) -> None:
    page = text(browser.get(f"/runs/{run.pk}/pairs/"))
    assert "Observed acceptance" in page
    assert "Theorem 1" in page
    assert 'data-chart="reward-histogram"' in page
    assert 'data-chart="acceptance-by-prompt"' in page


def test_the_histogram_counts_every_candidate_once(run: Run) -> None:
    figure = reward_histogram(digest(run, "scoring"), digest(run, "rejection_sampling"), "--rso")
    everything, kept = figure["data"]
    assert sum(everything["y"]) == pytest.approx(1)
    assert sum(kept["y"]) == pytest.approx(1)
    mean = {trace["name"]: sum(x * y for x, y in zip(trace["x"], trace["y"], strict=True)) for trace in figure["data"]}
    assert mean["kept"] > mean["all candidates"]


def test_random_pairs_show_no_rewards_but_which_were_drawn(browser: Client, researcher: User) -> None:
    run = finish_run(launched(researcher, config_of(pair_source="sft_sample_rank")), until="policy_fitting")
    assert 'data-chart="reward-histogram"' not in text(browser.get(f"/runs/{run.pk}/pairs/"))
    response = browser.get(f"/runs/{run.pk}/pairs/{pool_rows(0)[0]['prompt_id']}/")
    assert [c.index for c in response.context["candidates"]] == list(range(CANDIDATES))
    assert all(c.reward is None for c in response.context["candidates"])


def test_human_pairs_are_listed_and_found(browser: Client, researcher: User) -> None:
    run = finish_run(launched(researcher, config_of(pair_source="direct")), until="policy_fitting")
    first = browser.get(f"/runs/{run.pk}/pairs/")
    second = browser.get(f"/runs/{run.pk}/pairs/", {"after": first.context["found"].after})
    assert len(first.context["rows"]) == PAGE_SIZE
    assert second.context["found"].before == 0
    assert {row["pairs"] for row in first.context["rows"]} == {1}
    assert not {r["prompt_id"] for r in first.context["rows"]} & {r["prompt_id"] for r in second.context["rows"]}
    found = browser.get(f"/runs/{run.pk}/pairs/", {"q": "Post 7:"}).context["rows"]
    assert [row["prompt_id"] for row in found] == [prompt_id(post(7))]
    page = text(browser.get(f"/runs/{run.pk}/pairs/{prompt_id(post(7))}/"))
    assert "row 8" in page
    assert "human preferences" in page


def test_prompts_of_human_pairs_come_in_the_order_of_their_first_pairs() -> None:
    columns = ("prompt_id", "prompt", "chosen", "rejected")
    texts = [("a", "red"), ("b", "blue"), ("a", "GREEN sea"), ("c", "sea"), ("b", "grey")]
    rows = [dict(zip(columns, (key, f"prompt {key}", "yes", rejected), strict=True)) for key, rejected in texts]
    staging = store().staging()
    write_rows(staging / ROWS, rows, pa.schema([(name, pa.string()) for name in columns]))
    digest = store().commit(staging, kind="preference_pairs")
    assert [(row["prompt_id"], row["pairs"]) for row in human_prompt_page(digest).rows] == [
        ("a", 2),
        ("b", 2),
        ("c", 1),
    ]
    found = human_prompt_page(digest, words="Sea")
    assert [row["prompt_id"] for row in found.rows] == ["a", "c"]
    assert (found.matches, found.before, found.after) == (2, None, None)
    later = human_prompt_page(digest, words="sea", after=3)
    assert ([row["prompt_id"] for row in later.rows], later.before) == (["c"], 0)


def test_a_run_without_candidates_yet_says_what_it_waits_for(browser: Client, researcher: User) -> None:
    run = launched(researcher)
    assert "Not there yet: sampling" in text(browser.get(f"/runs/{run.pk}/pairs/"))
    finish_run(run, until="scoring")
    page = browser.get(f"/runs/{run.pk}/pairs/{pool_rows(0)[0]['prompt_id']}/")
    assert len(page.context["candidates"]) == CANDIDATES
    assert "No pairs yet" in text(page)


@pytest.mark.parametrize("prompt", ["%00", "0%000", "%ED%A0%80", "x" * 3000])
def test_odd_prompts_are_not_found(browser: Client, run: Run, prompt: str) -> None:
    assert browser.get(f"/runs/{run.pk}/pairs/{prompt}/").status_code == 404


def test_an_unknown_prompt_is_not_found(browser: Client, run: Run) -> None:
    assert browser.get(f"/runs/{run.pk}/pairs/{'0' * 16}/").status_code == 404


def test_candidates_that_the_store_has_lost_are_explained(
    browser: Client, run: Run, settings: Settings, tmp_path: Path
) -> None:
    finish_run(run, until="generation_sft")
    settings.ARTIFACT_URL = str(tmp_path / "moved")
    for page in ("pairs/", "policy.zip"):
        response = browser.get(f"/runs/{run.pk}/{page}")
        assert response.status_code == 404
        assert "is not in the store" in text(response)


def test_texts_of_models_are_shown_as_text(browser: Client, run: Run) -> None:
    row = pool_rows(0)[0]
    Pair.objects.filter(prompt_id=row["prompt_id"]).update(chosen="<script>alert(1)</script>")
    page = text(browser.get(f"/runs/{run.pk}/pairs/{row['prompt_id']}/"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
