"""Every order of claiming, finishing, failing, losing, stopping and resuming, against a model in plain dictionaries."""

from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from hypothesis import seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pytest_django import Settings

from tests.webapp.graphs import DIAMOND, claim, expire_lease, finish, forget_delays, researcher, run_of
from webapp.runs import jobs, services
from webapp.runs.failures import BOUNDS, Failed
from webapp.runs.jobs import Claim, LeaseLost
from webapp.runs.models import LIVE, Attempt, Run, Shard, Stage, Status
from webapp.runs.reaper import reap

pytestmark = pytest.mark.django_db

# Two runs share SFT and sampling; each has stages of its own.
GRAPHS = {
    "first": DIAMOND,
    "second": {"sft": ((), 1), "sampling": (("sft",), 3), "rejection_sampling": (("sampling",), 1)},
}
runs = st.sampled_from(sorted(GRAPHS))
positions = st.integers(0, 1000)


class Jobs(RuleBasedStateMachine):
    """The model: who holds each shard, which shards are done, how often each failed, which runs are live."""

    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        user = researcher()
        self.runs = {name: run_of(graph, user) for name, graph in GRAPHS.items()}
        self.live = set(GRAPHS)
        self.granted: list[Claim] = []
        self.holder: dict[int, Claim] = {}
        self.done: set[int] = set()
        self.failures: dict[int, int] = {}
        self.broken: set[int] = set()  # stages that failed and that nobody has asked for again

    def stages_of(self, name: str) -> set[int]:
        return set(self.runs[name].stages.values_list("pk", flat=True))

    def any_claim(self, position: int) -> Claim | None:
        return self.granted[position % len(self.granted)] if self.granted else None

    def check_fence(self, claimed: Claim, write: Any) -> bool:
        """Write as the holder of a claim; return whether the model says that it holds it still."""
        if self.holder.get(claimed.shard_id) is claimed:
            write()
            return True
        with pytest.raises(LeaseLost):
            write()
        return False

    def release_unwanted(self) -> None:
        wanted = {stage for name in self.live for stage in self.stages_of(name)}
        self.holder = {shard: held for shard, held in self.holder.items() if held.stage_id in wanted}

    def break_stage(self, stage: int) -> None:
        self.broken.add(stage)
        self.live -= {name for name in self.live if stage in self.stages_of(name)}
        self.holder = {shard: held for shard, held in self.holder.items() if held.stage_id != stage}
        self.release_unwanted()

    def count_failure(self, claimed: Claim, bound: int) -> None:
        shard = claimed.shard_id
        del self.holder[shard]
        self.failures[shard] = self.failures.get(shard, 0) + 1
        if self.failures[shard] >= bound:
            self.break_stage(claimed.stage_id)

    @rule(name=runs, position=positions)
    def claim_something(self, name: str, position: int) -> None:
        keys = sorted(GRAPHS[name])
        forget_delays()
        claimed = claim(self.runs[name], keys[position % len(keys)])
        if claimed is not None:
            assert claimed.shard_id not in self.holder
            assert claimed.shard_id not in self.done
            assert claimed.stage_id not in self.broken
            assert all(claimed.spec.inputs.values())
            self.holder[claimed.shard_id] = claimed
            self.granted.append(claimed)

    @rule(position=positions)
    def report(self, position: int) -> None:
        if (claimed := self.any_claim(position)) is not None:
            self.check_fence(claimed, lambda: jobs.record(claimed))

    @rule(position=positions)
    def finish_one(self, position: int) -> None:
        claimed = self.any_claim(position)
        if claimed is not None and self.check_fence(claimed, lambda: finish(claimed)):
            del self.holder[claimed.shard_id]
            self.done.add(claimed.shard_id)

    @rule(position=positions, reason=st.sampled_from(["user", "transient", "killed", "internal"]))
    def fail_one(self, position: int, reason: Any) -> None:
        claimed = self.any_claim(position)
        if claimed is not None and self.check_fence(claimed, lambda: jobs.fail_shard(claimed, Failed(reason, "m"))):
            self.count_failure(claimed, BOUNDS.get(reason, 1))

    @rule(position=positions)
    def give_one_back(self, position: int) -> None:
        claimed = self.any_claim(position)
        if claimed is not None and self.check_fence(claimed, lambda: jobs.release(claimed)):
            del self.holder[claimed.shard_id]

    @rule(position=positions)
    def lose_one(self, position: int) -> None:
        claimed = self.any_claim(position)
        if claimed is not None and self.holder.get(claimed.shard_id) is claimed:
            expire_lease(claimed)
            reap()
            self.count_failure(claimed, BOUNDS["lease_lost"])
            forget_delays()
            again = jobs.claim(stage_id=claimed.stage_id, worker="another")
            assert (again is None) == (claimed.stage_id in self.broken)
            if again is not None:
                self.holder[again.shard_id] = again
                self.granted.append(again)

    @rule()
    def reap_for_nothing(self) -> None:
        reap()

    @rule(name=runs)
    def stop(self, name: str) -> None:
        services.stop_run(run=self.runs[name])
        self.live.discard(name)
        self.release_unwanted()

    @rule(name=runs)
    def resume(self, name: str) -> None:
        was_done = Run.objects.get(pk=self.runs[name].pk).status == Status.DONE
        ended = set(
            Stage.objects.filter(pk__in=self.stages_of(name), status__in=["failed", "stopped"]).values_list(
                "pk", flat=True
            )
        )
        services.resume_run(run=self.runs[name])
        if name not in self.live and not was_done:
            self.live.add(name)
            self.broken -= ended
            self.forget_failures(ended)

    def forget_failures(self, stages: set[int]) -> None:
        for shard in Shard.objects.filter(stage__in=stages):
            self.failures.pop(shard.pk, None)

    @invariant()
    def held_shards_run_and_no_others(self) -> None:
        running = Shard.objects.filter(status="running").values_list("pk", "attempt")
        assert dict(running) == {shard: held.attempt for shard, held in self.holder.items()}
        assert set(Shard.objects.filter(status="done").values_list("pk", flat=True)) == self.done
        assert Attempt.objects.filter(ended=None).count() == len(self.holder)

    @invariant()
    def every_stale_writer_is_refused(self) -> None:
        for claimed in self.granted[-6:]:
            self.check_fence(claimed, lambda claimed=claimed: jobs.record(claimed))

    @invariant()
    def a_stage_is_done_when_its_shards_are_and_starts_when_its_inputs_are(self) -> None:
        for stage in Stage.objects.prefetch_related("shards", "inputs__upstream"):
            shards_done = all(shard.pk in self.done for shard in stage.shards.all())
            assert (stage.status == "done") == shards_done
            inputs_done = all(arrow.upstream.status == "done" for arrow in stage.inputs.all())
            if stage.status in {"ready", "running", "done"}:
                assert inputs_done
            if stage.status == "waiting":
                assert not inputs_done
            assert (stage.status == "failed") == (stage.pk in self.broken)

    @invariant()
    def a_stage_lives_exactly_while_a_live_run_wants_it(self) -> None:
        wanted = {stage for name in self.live for stage in self.stages_of(name)}
        for stage in Stage.objects.exclude(status__in=["done", "failed"]):
            assert (stage.status in LIVE) == (stage.pk in wanted)

    @invariant()
    def a_run_says_what_its_stages_are(self) -> None:
        for name, run in self.runs.items():
            status = Run.objects.get(pk=run.pk).status
            stages = set(run.stages.values_list("status", flat=True))
            if name in self.live:
                assert status == "done" if stages == {"done"} else status in {"ready", "running"}
            else:
                assert status in {"stopped", "failed", "done"}

    def teardown(self) -> None:
        try:
            self.everything_ends_well_when_nothing_fails_any_more()
        finally:
            transaction.set_rollback(True)
            self.block.__exit__(None, None, None)

    def everything_ends_well_when_nothing_fails_any_more(self) -> None:
        for held in list(self.holder.values()):
            jobs.release(held)
        for run in self.runs.values():
            services.resume_run(run=run)
        forget_delays()
        for _ in range(4):
            for name, run in self.runs.items():
                for key in GRAPHS[name]:
                    while (claimed := claim(run, key)) is not None:
                        finish(claimed)
        assert {run.status for run in Run.objects.all()} == {"done"}
        assert Attempt.objects.filter(outcome="done").count() == Shard.objects.count()


def test_no_order_of_events_breaks_the_rules(settings: Settings, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    options = hypothesis_settings(max_examples=12, stateful_step_count=30, deadline=None, database=None)
    run_state_machine_as_test(Jobs, settings=options)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_no_order_of_very_many_events_breaks_the_rules(settings: Settings, tmp_path: Path, part: int) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    options = hypothesis_settings(max_examples=25, stateful_step_count=100, deadline=None, database=None)
    run_state_machine_as_test(seed(part)(type("Jobs", (Jobs,), {})), settings=options)
