"""What other programs read: datasets folders, JSON lines, the policy with its card; and TRL itself on them."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rso_core.config import RunConfig, parse_run_config
from rso_core.errors import UserError
from rso_core.exports import export_run
from rso_core.models import load
from rso_core.plan import Plan
from rso_core.policy_training import pair_loss
from rso_core.protocol import add_summaries
from rso_core.token_pairs import TokenPairs
from tests.rso_core.chain import Chain, toy_config

PEERS = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


@dataclass
class Exported:
    chain: Chain
    config: RunConfig
    plan: Plan
    folder: Path
    record: dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exports")
    # Of a toy policy's responses few end in time and read back as they were sampled, so there are many of them.
    many = {"sampling": {"num_candidates": 24}, "rejection_sampling": {"num_samples": 16}}
    chain, config = Chain(folder), toy_config(name="A toy | run", **many)
    plan = chain.run(config)
    stages = {
        stage.key: {
            "fingerprint": stage.fingerprint,
            "digest": chain.digests[stage.fingerprint],
            "summary": add_summaries(chain.summaries[stage.fingerprint]),
        }
        for stage in plan.stages
        if stage.kind != "length_profile"
    }
    record = {"config": config.model_dump(mode="json"), "stages": stages}
    export_run(record, chain.store, folder / "out")
    return Exported(chain, config, plan, folder / "out", record)


def dataset(folder: Path, cache: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_dataset(str(folder), split="train", cache_dir=str(cache)).to_list()
    return rows


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def test_pairs_are_a_dataset_and_json_lines_with_the_columns_of_other_trainers(
    exported: Exported, tmp_path: Path
) -> None:
    rows = dataset(exported.folder / "pairs", tmp_path)
    made = exported.chain.rows(exported.plan, "pairs")

    assert rows == lines(exported.folder / "pairs")
    assert list(rows[0])[:3] == ["prompt", "chosen", "rejected"]
    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "policy")
    for row, pair in zip(rows, made, strict=True):
        assert (row["chosen"], row["rejected"]) == (pair["chosen"], pair["rejected"])
        ids = pair["prompt_token_ids"]
        assert tokenizer(row["prompt"])["input_ids"] == ids
        assert tokenizer(row["prompt"] + row["chosen"])["input_ids"][: len(ids)] == ids


def test_candidates_are_a_dataset_with_their_rewards(exported: Exported, tmp_path: Path) -> None:
    rows = dataset(exported.folder / "candidates", tmp_path)
    pool, scores = (exported.chain.rows(exported.plan, key) for key in ("sampling", "scoring"))

    assert rows == lines(exported.folder / "candidates")
    expected = [
        (row["prompt_id"], c["sample_index"], c["text"], reward)
        for row, score in zip(pool, scores, strict=True)
        for c, reward in zip(row["candidates"], score["rewards"], strict=True)
    ]
    assert [(r["prompt_id"], r["sample_index"], r["response"], r["reward"]) for r in rows] == expected


def test_the_policy_is_a_transformers_folder_with_its_card(exported: Exported) -> None:
    folder = exported.folder / "policy"
    model = AutoModelForCausalLM.from_pretrained(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")

    assert sum(p.numel() for p in model.parameters()) > 0
    assert card.startswith("---\nlibrary_name: transformers\n")
    recipe = card.split("```yaml\n")[1].split("```")[0]
    assert parse_run_config(recipe) == exported.config
    report = exported.chain.report(exported.plan)
    assert f"{report['policy']['proxy']['value']:.1%}" in card
    for stage in exported.plan.stages:
        if stage.kind != "length_profile":
            assert stage.fingerprint[:16] in card
            assert exported.chain.digests[stage.fingerprint][:16] in card


def test_nothing_is_written_over(exported: Exported) -> None:
    with pytest.raises(UserError, match="policy exists, and nothing is written over: remove it"):
        export_run(exported.record, exported.chain.store, exported.folder)


def test_a_run_without_pairs_and_scores_exports_what_it_has(exported: Exported, tmp_path: Path) -> None:
    kept = {key: stage for key, stage in exported.record["stages"].items() if key in {"sft", "sampling"}}
    written = export_run(exported.record | {"stages": kept}, exported.chain.store, tmp_path / "out")
    assert list(written) == ["candidates"]
    assert {row["reward"] for row in lines(written["candidates"])} == {None}


def as_their_texts_say(exported: Exported) -> list[int]:
    """Return the pairs of which both texts, behind the prompt, give the token ids that were sampled and their end.

    TRL puts an end of sequence behind every response, and our pairs leave it out where the length limit came first.
    """
    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "policy")

    def same(row: dict[str, Any], pair: dict[str, Any]) -> bool:
        return all(
            tokenizer(row["prompt"] + row[side])["input_ids"] + [tokenizer.eos_token_id]
            == pair["prompt_token_ids"] + pair[f"{side}_token_ids"]
            for side in ("chosen", "rejected")
        )

    both = zip(lines(exported.folder / "pairs"), exported.chain.rows(exported.plan, "pairs"), strict=True)
    return [number for number, (row, pair) in enumerate(both) if same(row, pair)]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "theirs"), [("sigmoid_norm", "sigmoid"), ("hinge_norm", "hinge")])
def test_trl_reads_the_pairs_as_they_are_and_has_the_same_loss(exported: Exported, loss: str, theirs: str) -> None:
    if not PEERS.exists():
        pytest.skip(f"{PEERS} is not there: `make bench-peers` makes the environment that has TRL")
    chain, plan = exported.chain, exported.plan
    sft, policy = chain.store.path(chain.digest(plan, "sft")) / "model", exported.folder / "policy"
    files = [chain.store.files(chain.digest(plan, key)) for key in ("pairs", "reference_log_probs")]
    pairs = TokenPairs.of_files(files[0]).with_references(files[1])
    chosen = as_their_texts_say(exported)[:16]
    assert len(chosen) >= 4
    batch = [pairs[number] for number in chosen]
    training = {"loss": loss, "gamma": 0.3, "dropout": 0.0}
    ours = pair_loss(load(policy), batch, training).total.item() / len(batch)

    command = [PEERS, Path(__file__).parent / "trl_loss.py", exported.folder / "pairs", policy, sft, theirs, 0.3]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*map(str, command), ",".join(map(str, chosen))],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split("loss ")[-1].split()[0]) == pytest.approx(ours, abs=1e-4)
