"""The benchmarks still run, and the limits that the product promises hold."""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253 - what is measured
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    comparisons,
    fitting,
    fitting_ours,
    flops,
    harness,
    report,
    reward_ours,
    reward_training,
    sampling_ours,
    scoring_ours,
    texts,
    two_workers,
    whole_run,
)
from benchmarks.cost_growth import growth_of, slope_ratio
from benchmarks.peers import plain_reward
from benchmarks.peers import sampling as peer_sampling
from benchmarks.peers import scoring as peer_scoring
from benchmarks.study_grid import settings, sharing_bound
from benchmarks.token_count import TokenCounter, real_tokens
from rso_core.errors import UserError
from rso_core.grouped_forward import _plain_log_probs, _shared_log_probs, shares_prompts
from rso_core.models import load
from rso_core.templates import label_ids
from tests.rso_core.toys import toy_model

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "import_rows.py"
LONGEST_SECONDS = 1800  # on a machine that does much else; alone each takes a minute or two


def import_rows(rows: int, ending: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--rows", str(rows), "--format", ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_an_import_is_measured() -> None:
    found = import_rows(2000, "jsonl.gz")
    assert (found["rows_kept"], found["rows_rejected"]) == (2000, 0)
    assert 0 < found["peak_bytes"] < 1 << 29


def test_claims_are_measured_and_right(server_url: str) -> None:
    script = str(SCRIPT.with_name("claims.py"))
    few = ["--raters", "6", "--items", "8", "--processes", "1", "--repeat", "1", "--no-targets"]
    done = subprocess.run(
        [sys.executable, script, *few],
        env={**os.environ, "DATABASE_URL": server_url},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["wanted"], found["claims"]) == (24, 24)
    assert (found["over_assigned"], found["same_rater_duplicates"]) == (0, 0)
    assert found["claims_per_second"] > 0 < found["p99_ms"]


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_160_000_rows_are_imported_in_90_seconds_and_1_gb(ending: str) -> None:
    found = import_rows(160_000, ending)
    assert found["rows_kept"] == 160_000
    assert found["processor_seconds"] < 90  # the clock of a busy machine counts what others do
    assert found["peak_bytes"] < 1 << 30


def run_benchmark(name: str, *arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def tree(path: Path) -> Path:
    """Write preferences in a layout that the importers know."""
    rows = [
        {
            # Words that the toy model knows: it reads every number as the same unknown one.
            "prompt": "the cat sat on the mat " + " ".join(("a", "the")[int(bit)] for bit in f"{n:06b}"),
            "chosen": "a good dog ran " * (n + 1),
            "rejected": "the bad tree " * 3,
        }
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SIDE = """
from benchmarks.worker import Prepared, Round

def prepare(settings):
    print("libraries print")
    def run():
        held = bytearray(settings["megabytes"] << 20)
        return Round(items=10, tokens=len(held), seconds=settings["seconds"], extra={"threads": settings["threads"]})
    return Prepared(run, {"loaded": True})
"""


def test_two_sides_are_compared_in_processes_of_their_own_in_alternating_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "measured_side.py").write_text(SIDE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = harness.parser("").parse_args(["--rounds", "2", "--threads", "1", "--results", str(tmp_path / "results")])
    ours = harness.Side(
        "ours",
        "measured_side",
        {"megabytes": 1, "seconds": 1.0, "ids": [*range(999)], "pairs": [{"prompt": [*range(99)], "text": "good"}]},
    )
    slow, fast = {"seconds": 9.0}, {"seconds": 3.0}
    peer = harness.best_setting(harness.Side("peer", "measured_side", {"megabytes": 64}), [slow, fast], options)

    found = harness.compare("toy", ours, peer, options, lengths={}, token_bound=4.0, target={"speedup": 2})

    assert peer.settings["seconds"] == 3.0
    assert [one["items_per_second"] for one in peer.settings["tried"]] == pytest.approx([10 / 9, 10 / 3])
    assert found["speedup_median"] == pytest.approx(3.0)
    assert [one["first"] for one in found["rounds"]] == ["ours", "peer"]
    assert found["rounds"][0]["ours"]["extra"] == {"threads": 1}
    assert found["memory_ratio"] < 1
    assert found["peak_bytes"]["peer"] - found["peak_bytes"]["ours"] > 50 << 20
    assert found["ours"]["facts"] == {"loaded": True}
    described = found["ours"]["settings"]
    assert described | {"ids": "", "pairs": ""} == {"megabytes": 1, "seconds": 1.0, "ids": "", "pairs": ""}
    for name in ("ids", "pairs"):  # texts stay out of results
        assert re.fullmatch("sha256:[0-9a-f]{64}", described[name])
    assert harness.save(found, options.results).name == "toy.json"

    options.more, options.rounds = True, 1
    again = harness.compare("toy", ours, peer, options, lengths={}, token_bound=4.0, target={"speedup": 2})
    assert again["rounds"][:2] == json.loads(json.dumps(found["rounds"]))
    assert [one["first"] for one in again["rounds"]] == ["ours", "peer", "ours"]
    other = harness.best_setting(peer, [slow, fast], options, name="toy", small={"seconds": 0.0})
    assert other.settings == peer.settings  # what was tried is known
    peer.settings["megabytes"] = 65
    with pytest.raises(harness.BenchmarkError, match="other settings of peer"):
        harness.compare("toy", ours, peer, options, lengths={}, token_bound=4.0, target={})


def test_a_side_that_fails_is_named(tmp_path: Path) -> None:
    options = harness.parser("").parse_args(["--threads", "1"])
    with (
        pytest.raises(harness.BenchmarkError, match="the side that is not there"),
        harness.started(harness.Side("the side that is not there", "no_such_module"), options),
    ):
        pass


def test_paths_lose_their_folders_in_results() -> None:
    assert harness.portable({"model": "/a/b/model", "n": [1, "/c/file.jsonl"]}) == {
        "model": "model",
        "n": [1, "file.jsonl"],
    }


PAIRS = [{"prompt": [n, n + 1, n + 2], "responses": [[n, 9, 1], [n, 8, 8, 8, 1]]} for n in range(10, 30)]


def test_texts_are_cut_to_the_wished_lengths_and_differ() -> None:
    groups = texts.cut_groups(PAIRS, prompts=3, responses=4, prompt_tokens=7, response_tokens=5, seed=1)
    assert [len(group["prompt"]) for group in groups] == [7, 7, 7]
    assert {len(ids) for group in groups for ids in group["responses"]} == {5}
    assert all(len({tuple(ids) for ids in group["responses"]}) == 4 for group in groups)
    assert {ids[-1] for group in groups for ids in group["responses"]} == {1}
    assert groups == texts.cut_groups(PAIRS, prompts=3, responses=4, prompt_tokens=7, response_tokens=5, seed=1)


def test_real_prompts_keep_their_own_responses_and_get_others() -> None:
    groups = texts.real_groups(PAIRS, prompts=4, responses=6, seed=0, longest=4)
    for group in groups:
        own = next(pair for pair in PAIRS if pair["prompt"] == group["prompt"])["responses"]
        assert own[0] in group["responses"]
        assert [*own[1][:3], own[1][-1]] in group["responses"]  # cut to four tokens, its end kept
        assert len(group["responses"]) == 6
    tokens = sum(len(group["prompt"]) for group in groups)
    assert texts.plain_tokens(groups) - texts.grouped_tokens(groups) == 5 * tokens


def test_operations_are_counted_as_a_loop_counts_them(tmp_path: Path) -> None:
    found = flops.matrices_of(toy_model(tmp_path / "toy", "causal", width=32))
    width, inner, layers = 32, 64, 2
    heads = [(width, width), (16, width), (16, width), (width, width), (inner, width), (inner, width), (width, inner)]
    assert sorted(found.layers) == sorted(heads * layers)
    assert found.head[1] == width
    assert found.attention_width == layers * width
    prompt, responses = 3, [2, 4]
    seen = sum(1 for i in range(prompt) for _ in range(i + 1))
    seen += sum(prompt + i + 1 for length in responses for i in range(length))
    assert flops.attended_pairs(prompt, responses) == seen
    ending = [(width, width), (inner, width), (inner, width), (width, inner)]  # only the 6 tokens that predict need it
    assert sorted(found.ending) == sorted(ending)
    dense = 2 * 9 * sum(map(math.prod, found.layers)) - 2 * 3 * sum(map(math.prod, ending))
    expected = dense + 2 * 6 * math.prod(found.head) + 4 * seen * found.attention_width
    group = {"prompt": [0] * prompt, "responses": [[0] * n for n in responses]}
    assert flops.grouped_flops(found, [group], training=False) == expected
    assert flops.grouped_flops(found, [group], training=True) == 3 * expected


token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


@given(token_lists)
def test_a_tree_holds_every_beginning_once_and_a_token_sees_its_path(sequences: list[list[int]]) -> None:
    beginnings = {tuple(ids[:end]) for ids in sequences for end in range(1, len(ids) + 1)}
    assert comparisons.tree_tokens(sequences) == len(beginnings)
    assert comparisons.attended_pairs(sequences) == sum(map(len, beginnings))


def as_side(model: Path, **settings: Any) -> dict[str, Any]:
    return {"model": str(model), "threads": torch.get_num_threads(), "dtype": "float32", "seed": 0, **settings}


@pytest.mark.parametrize("padding", ["left", "right"])
def test_both_sides_of_scoring_answer_the_same(tmp_path: Path, padding: str) -> None:
    model = toy_model(tmp_path / "toy", "causal")
    parts = comparisons.template(model)
    group = {"prompt": [*range(16, 36)], "responses": [[20 + n, *range(16, 20 + n), 1] for n in range(6)]}
    sequences = comparisons.both_orders(parts, group, orders=2)
    labels = label_ids(*texts.tokenizer_of(model))

    ours = scoring_ours.prepare(as_side(model, sequences=sequences)).run()
    peer = peer_scoring.prepare(as_side(model, sequences=sequences, labels=list(labels), rows=3, padding=padding)).run()

    assert ours.items == peer.items == 10
    assert ours.extra == pytest.approx(peer.extra, abs=1e-4)
    assert ours.tokens < peer.tokens == sum(map(len, sequences))


def test_both_sides_of_sampling_count_what_they_drew_and_read(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "toy", "causal")
    prompts = [[18, 20, 22], [30, 31]]
    work = as_side(model, prompts=prompts, responses=200, tokens=5, temperature=0.9, top_k=8)

    ours = sampling_ours.prepare(work | {"rows": 64}).run()
    peer = peer_sampling.prepare(work | {"together": 2, "cache": None, "eos": load(model).eos_id}).run()

    for side, reads in ((ours, 1), (peer, 200)):  # how often a prompt is read
        assert side.extra["candidates"] == 400
        assert side.items == pytest.approx(400 * side.extra["mean_tokens"])
        assert side.tokens == reads * 5 + side.items - 400
    assert ours.extra["mean_tokens"] == pytest.approx(peer.extra["mean_tokens"], rel=0.1)


def test_a_peer_may_take_the_setting_that_an_earlier_result_found_best(tmp_path: Path) -> None:
    options = harness.parser("").parse_args(["--results", str(tmp_path), "--tuned-by", "earlier"])
    settings = {"rows": 8, "tried": [{"rows": 8, "items_per_second": 2.0}], "sequences": "others"}
    harness.save({"name": "earlier", "peer": {"settings": settings}}, tmp_path)

    found = harness.tuned(
        harness.Side("peer", "nothing", {"sequences": "mine"}), [{"rows": 4}, {"rows": 8}], options, name="mine"
    )

    assert found.settings == {"rows": 8, "tried": settings["tried"], "sequences": "mine"}


def test_workers_together_take_as_long_as_the_slowest_and_do_what_all_do() -> None:
    class Half:
        def round(self) -> dict[str, Any]:
            time.sleep(0.2)
            return {"items": 2, "tokens": 3, "flops": 4.0, "peak_bytes": 5, "seconds": 0.2}

    found = two_workers.Together([Half(), Half()]).round()

    assert (found["items"], found["tokens"], found["flops"], found["peak_bytes"]) == (4, 6, 8.0, 10)
    assert 0.2 <= found["seconds"] < 0.39


def test_growth_is_judged_by_what_one_more_item_costs() -> None:
    assert slope_ratio([(1, 5.0), (10, 14.0), (100, 104.0)]) == pytest.approx(1.0)
    assert slope_ratio([(1, 1.0), (10, 100.0), (100, 10_000.0)]) == pytest.approx(10.0)
    assert slope_ratio([(1, 7.0), (10, 8.0), (100, 7.5)]) == 0
    sizes = {"1": {"pairs": {"seconds": 1.0, "peak_bytes": 3}}, "3": {"pairs": {"seconds": 3.0, "peak_bytes": 3}}}
    assert growth_of(sizes, ["pairs"])["pairs"] == {"seconds": pytest.approx(1.0), "peak_bytes": 0}


def test_what_sharing_can_give_is_all_stages_over_the_distinct_ones() -> None:
    stages = [
        {"fingerprint": "a", "seconds": 4.0},
        {"fingerprint": "a", "seconds": 6.0},
        {"fingerprint": "b", "seconds": 1.0},
    ]
    assert sharing_bound(stages) == pytest.approx(11 / 6)
    assert settings(["fitting.gamma=0.1", "name=x"]) == {"fitting.gamma": 0.1, "name": "x"}


def test_rounds_of_whole_runs_count_when_both_sides_have_finished(tmp_path: Path) -> None:
    for name, seconds in (("round-1-ours", 2.0), ("round-1-peer", 8.0), ("round-2-ours", 2.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
    assert [one["speedup"] for one in whole_run.complete_rounds(tmp_path)] == [4.0]


def test_the_performance_document_is_what_the_results_and_notes_make() -> None:
    made = report.document(report.load(harness.RESULTS), report.notes(report.NOTES))
    assert report.DOCUMENT.read_text(encoding="utf-8") == made, "run `make bench-report`"


def test_a_row_says_what_is_reached_and_what_is_not() -> None:
    target = next(one for one in report.TARGETS if one.name == "fitting_200_48")
    found = {
        "name": "fitting_200_48",
        "speedup_median": 6.5,
        "speedup_range": [6, 7],
        "memory_ratio": 0.6,
        "dtype": "bfloat16",
        "flops_per_second": 30.0,
        "ours": {"facts": {"tokens_per_forward": 600}},
        "lengths": {"prompt_tokens": {"median": 200}, "response_tokens": {"median": 48}},
        "token_bound": 3.4,
    }
    rate = {"forward": 200.0, "training": 100.0}
    roof = {"dtypes": {"bfloat16": {"peak": 300.0, "tokens": {"512": rate, "2048": rate}}}}
    results = {"fitting_200_48": found, "matmul": roof}
    assert report.verdicts(target, found, results) == {"speed-up": True, "memory": False, "utilisation": True}
    assert report.utilisation_of(found, results) == (0.3, 0.1)
    assert "| 200 / 48 | 3.40 | **6.50** (6.00–7.00) | ≥ 6 | 0.60 | ≤ 0.5 | no: memory |" in report.table(results)


def test_matrix_products_are_measured_at_a_models_shapes(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "toy", "causal")
    small = ["--tokens", "8", "--squares", "16", "--rounds", "1", "--threads", "1", "--dtype", "float32"]
    found = run_benchmark("matmul", "--model", str(model), "--results", str(tmp_path), *small)
    rates = found["dtypes"]["float32"]
    assert rates["peak"] == rates["squares"]["16"] > 0 < rates["tokens"]["8"]["training"]
    assert json.loads((tmp_path / "matmul.json").read_text(encoding="utf-8"))["name"] == "matmul"


SMALL_RUN = (
    "sampling.max_prompts=2", "sampling.num_candidates=4", "rejection_sampling.num_samples=2", "reward.max_steps=1",
    "fitting.max_steps=2", "evaluation.max_test_prompts=2", "evaluation.max_validation_prompts=2", "data.max_response_tokens=8",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_a_grid_over_shared_stages_is_measured_against_separate_runs(tmp_path: Path) -> None:
    data = ("data.preferences=mini_tldr:size=300,seed=0", "data.sft=mini_tldr:size=300,seed=0", "sft.max_steps=1")
    changes = [f"--set={text}" for text in (*data, *SMALL_RUN)]
    found = run_benchmark("study_grid", "--rounds", "1", "--threads", "1", "--results", str(tmp_path), *changes)
    assert found["speedup_median"] > 1
    written = json.loads((tmp_path / "study_grid.json").read_text(encoding="utf-8"))
    assert len(written["rounds"][0]["separate"]["stages"]) == len(written["rounds"][0]["shared"]["stages"]) > 9 * 9


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_growth_of_cost_is_measured(tmp_path: Path) -> None:
    small = ["--prompts", "200", "400", "--candidates", "9", "18", "--rounds", "1", "--steps", "3"]
    found = run_benchmark("cost_growth", *small, "--results", str(tmp_path))
    assert set(found["growth"]["candidates"]) == {"sampling", "scoring", "rejection_sampling"}


def small_benchmark(tmp_path: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark of a toy model with toy texts, one round."""
    model = toy_model(tmp_path / "toy", "causal", chat_template=True, context=4096)
    files = ["--model", str(model), "--preferences", str(tree(tmp_path / "hh.jsonl")), "--results", str(tmp_path)]
    return run_benchmark(name, *files, "--rounds", "1", "--threads", "1", "--dtype", "float32", *arguments)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
@pytest.mark.parametrize(("name", "result"), [("sampling", "sampling_hh"), ("scoring", "scoring_hh_both")])
def test_sampling_and_scoring_are_measured_on_both_sides(tmp_path: Path, name: str, result: str) -> None:
    if not (harness.PEERS / "bin" / "python").exists():
        pytest.skip("the peers' environment is made by `make bench-peers`")
    small_benchmark(tmp_path, name, "--only", result)
    written = json.loads((tmp_path / f"{result}.json").read_text(encoding="utf-8"))
    assert written["token_bound"] > 1
    assert written["speedup_median"] > 0 < written["flops_per_second"]


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_two_workers_are_measured_against_one(tmp_path: Path) -> None:
    found = small_benchmark(tmp_path, "two_workers")
    assert [row["name"] for row in found["rows"]] == sorted(two_workers.CASES)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_whole_runs_are_measured_on_both_sides_and_go_on_where_they_ended(tmp_path: Path) -> None:
    if not (harness.PEERS / "bin" / "python").exists():
        pytest.skip("the peers' environment is made by `make bench-peers`")
    model = toy_model(tmp_path / "toy", "causal", chat_template=True, context=4096)
    files = ["--model", str(model), "--preferences", str(tree(tmp_path / "pairs.jsonl"))]
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    small = ["--rounds", "1", "--threads", "1", "--dtype", "float32", *(f"--set={text}" for text in SMALL_RUN)]
    assert run_benchmark("whole_run", *files, *places, *small, "--only", "ours")["complete_rounds"] == 0
    assert run_benchmark("whole_run", *files, *places, *small)["speedup_median"] > 0
    (counted,) = run_benchmark("whole_run", *files, *places, *small, "--tokens")["rows"]
    assert counted["token_bound"] > 1
    written = json.loads((tmp_path / "whole_run.json").read_text(encoding="utf-8"))
    assert written["lengths"]["prompt_tokens"]["max"] > 2
    assert {"sampling", "policy_fitting"} <= set(written["rounds"][0]["peer"]["stages"])


def test_padding_at_the_ends_of_a_row_does_not_count_as_tokens() -> None:
    pad = 2
    rows = torch.tensor([[2, 2, 5, 2, 7], [5, 6, 2, 2, 2], [2, 2, 2, 2, 2], [1, 3, 4, 5, 6]])
    assert real_tokens(rows, pad) == 3 + 2 + 0 + 5
    assert real_tokens(rows, -1) == rows.numel()
    assert real_tokens(rows[0], pad) == 3
    assert real_tokens(rows[:0], pad) == 0


def test_tokens_of_the_embedding_count_and_other_tables_do_not() -> None:
    weight, places, ids = torch.randn(10, 3), torch.randn(4, 3), torch.tensor([[1, 2, 0], [3, 0, 0]])
    counter = TokenCounter(rows=10, padding=0)
    assert torch.equal(counter(ids, weight), weight[ids])
    assert counter.tokens == 3
    counter(torch.tensor([[1, 2]]), places)
    assert counter.tokens == 3


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS)
def test_the_peer_of_fitting_starts_at_the_loss_of_equal_policies(tmp_path: Path) -> None:
    if not (harness.PEERS / "bin" / "python").exists():
        pytest.skip("the peers' environment is made by `make bench-peers`")
    model = toy_model(tmp_path / "toy", "causal")
    options = harness.parser("").parse_args(["--threads", "1", "--dtype", "float32"])
    pairs = [{"prompt": [5, 6, 7], "chosen": [8, n, 1], "rejected": [9, n, n, 1]} for n in range(20, 24)]
    side = {"model": str(model), "pairs": pairs, "micro_pairs": 2, "gradient_checkpointing": False, "weights": "same"}
    rates = {"optimizer": "adafactor", "learning_rate": 1e-3, "gamma": 0.1}
    with harness.started(
        harness.Side("TRL", "benchmarks.peers.dpo", side | rates, harness.peer_python()), options
    ) as peer:
        first, second = peer.round(), peer.round()
    assert (first["items"], first["tokens"]) == (4, 4 * 13)
    assert first["extra"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert second["extra"]["loss"] < first["extra"]["loss"]


GROUPS = [{"prompt": [4 + n, 5, 6], "responses": [[7, 8, n, 1], [9, n, 1]]} for n in range(20, 24)]


def small_settings(model: Path, **more: Any) -> dict[str, Any]:
    sizes = {"tokens": 1, "flops": 0.0, "tokens_per_forward": 1}
    return {"model": str(model), "dtype": "float32", "threads": 1, "seed": 0, **sizes, **more}


def test_our_side_of_fitting_goes_on_step_by_step_from_the_loss_of_equal_policies(tmp_path: Path) -> None:
    rates = {"learning_rate": 1e-2, "gamma": 0.1, "loss": "sigmoid_norm"}
    model = toy_model(tmp_path / "toy", "causal")
    prepared = fitting_ours.prepare(small_settings(model, pairs=fitting.as_pairs(GROUPS), fitting=rates))
    losses = [prepared.run().extra["loss"] for _ in range(3)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[0] > losses[1] > losses[2]


def test_what_ends_a_training_is_told_to_who_asks_for_a_step(tmp_path: Path) -> None:
    pairs = [pair | {"prompt": []} for pair in fitting.as_pairs(GROUPS)]
    references = {"reference_chosen": -1.0, "reference_rejected": -1.0}
    model = toy_model(tmp_path / "toy", "causal")
    settings_ = small_settings(model, pairs=[pair | references for pair in pairs], fitting={})
    with pytest.raises(UserError, match="needs a prompt"):
        fitting_ours.prepare(settings_).run()


def test_both_sides_of_reward_training_learn_to_answer(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "toy", "causal")
    rows = [{"prompt": "the cat sat", "chosen": f"good {word}", "rejected": "bad mat"} for word in ("dog", "tree")]
    ours = reward_ours.prepare(small_settings(model, rows=rows, reward={"learning_rate": 1e-2}))
    examples = [{"ids": [5, 6, 7], "label": 8}, {"ids": [6, 9], "label": 3}]
    rates = {"optimizer": "adafactor", "learning_rate": 1e-2, "micro_pairs": 2}
    peer = plain_reward.prepare(small_settings(model, examples=examples, logits="last", **rates))
    for side in (ours, peer):
        losses = [side.run().extra["loss"] for _ in range(8)]
        assert min(losses) < losses[0]
    everywhere = plain_reward.prepare(small_settings(model, examples=examples, logits="all", **rates))
    again = plain_reward.prepare(small_settings(model, examples=examples, logits="last", **rates))
    assert everywhere.run().extra["loss"] == pytest.approx(again.run().extra["loss"], rel=1e-5)


def test_reward_training_of_ranked_replies_has_all_pairs_of_a_prompt(tmp_path: Path) -> None:
    rows = [(f"question {n % 12}", f"good {n}", f"bad {n}") for n in range(60)] + [("asked once", "good", "bad")]
    file = tmp_path / "pairs.jsonl"
    names = ("prompt", "chosen", "rejected")
    file.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    found = reward_training._whole_prompts(argparse.Namespace(oasst=file, seed=0))

    assert len(found) == 32
    counts = list(Counter(row["prompt"] for row in found).values())
    assert counts[:-1] == [5] * 6
    assert counts[-1] == 2


def test_operations_of_t5_are_those_of_its_matrices() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(**fitting.T5))
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "bias" not in name}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder.block"))
    across = sum(size for name, size in sizes.items() if "EncDecAttention.k" in name or "EncDecAttention.v" in name)
    decoder = sum(size for name, size in sizes.items() if name.startswith("decoder.block")) - across
    head = fitting.T5["vocab_size"] * fitting.T5["d_model"]
    assert fitting._t5_flops(5, 0) == 6 * 5 * (encoder + across)
    assert fitting._t5_flops(0, 3) == 6 * 3 * (decoder + head)


def test_a_prompt_read_once_for_all_responses_takes_less_time_than_once_for_each(tmp_path: Path) -> None:
    """A guard, not a measurement: 328 tokens instead of 1,728 are 3 to 5 times faster; half of that must be left."""
    lm = load(toy_model(tmp_path / "toy", "causal", width=256))
    trees = [(tuple(range(4, 39)) * 5, [(*range(5 + n, 20 + n), 1) for n in range(8)])]

    def seconds(log_probs: Any) -> float:
        start = time.process_time()
        log_probs(lm, trees).sum().backward()
        return time.process_time() - start

    assert shares_prompts(lm)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = {way: min(seconds(way) for _ in range(4)) for way in (_shared_log_probs, _plain_log_probs)}
    finally:
        torch.set_num_threads(threads)
    assert times[_plain_log_probs] > 1.5 * times[_shared_log_probs]
