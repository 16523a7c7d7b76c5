"""The shards of a stage may be done by any number of workers, in any order: the artifact is the same."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from rso_core.plan import Plan
from rso_core.vocabulary import Family
from tests.rso_core.chain import Chain, toy_config
from tests.webapp.graphs import claim, researcher, stage_of
from webapp.runs import jobs, services
from webapp.runs.models import Attempt, Run
from workers.runner_process import WarmRunner
from workers.supervision import supervise

pytestmark = pytest.mark.django_db(transaction=True)

SHARDED = ("sampling", "scoring")


@pytest.fixture
def one_thread(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RUNNER_THREADS = 1
    monkeypatch.setenv("RSO_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def launch(chain: Chain, plan: Plan) -> Run:
    """Launch the sharded stages of a plan, with those done that come before them."""
    stages = tuple(plan.stage(key) for key in ("sft", "reward_training", *SHARDED))
    run = services.create_run(plan=Plan(stages, plan.counts), config=toy_config(), user=researcher())
    for key in ("sft", "reward_training"):
        claimed = claim(run, key)
        assert claimed is not None
        jobs.finish_shard(claimed, digest=chain.digest(plan, key), summary={})
    return run


def work(run: Run, names: Sequence[str]) -> None:
    """Have workers, each with a runner of its own, take shards until none is left, stage after stage."""
    stages = [stage_of(run, key).pk for key in SHARDED]
    everybody = threading.Barrier(len(names))

    def take_shards(name: str) -> None:
        try:
            with WarmRunner() as runner:
                for stage in stages:
                    everybody.wait(120)
                    while (claimed := jobs.claim(stage_id=stage, worker=name)) is not None:
                        supervise(claimed, runner, lambda: False)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(take_shards, names))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("names", [["alone"], ["first", "second"]], ids=["one", "two"])
@pytest.mark.parametrize("family", ["causal", pytest.param("seq2seq", marks=pytest.mark.slow)])
def test_one_worker_and_two_make_of_the_shards_what_one_process_makes(
    settings: Settings, tmp_path: Path, names: list[str], family: Family
) -> None:
    chain = Chain(tmp_path, family)
    settings.ARTIFACT_URL = str(chain.store.root)
    plan = chain.run(toy_config(sampling={"prompts_per_shard": 3}), until="scoring")
    run = launch(chain, plan)
    work(run, names)
    for key in SHARDED:
        stage = stage_of(run, key)
        assert stage.digest == chain.digest(plan, key)
        attempts = Attempt.objects.filter(shard__stage=stage)
        assert set(attempts.values_list("worker", flat=True)) == set(names)
        assert attempts.count() == attempts.filter(outcome="done").count() == stage.shard_count > 2
