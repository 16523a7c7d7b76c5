import json
from pathlib import Path
from typing import Any

import pytest

from rso_core.artifacts import ArtifactStore, iterate_rows
from rso_core.errors import UserError
from rso_core.hub_datasets import choose_files
from rso_core.lengths import histogram, response_lengths
from rso_core.mini_tldr import gold_reward
from rso_core.models import load_tokenizer
from rso_core.protocol import Event, Log, Progress, Result, StageSpec
from rso_core.run_data import assign_split
from rso_core.stages import execute
from rso_core.templates import policy_prompt_ids, response_ids, reward_input_ids
from tests.rso_core.toys import toy_model

SPLIT = {"seed": 0, "validation_fraction": 0.1, "test_fraction": 0.1}
LIMITS = {
    "task": "dialogue", "prompt_template": "auto", "max_prompt_tokens": 12, "max_response_tokens": 6,
    "max_length": 40, "split": SPLIT,
}  # fmt: skip
WORDS = ("the", "cat", "sat", "on", "mat", "good", "bad", "question")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def run(store: ArtifactStore, kind: str, config: dict[str, Any], **inputs: str) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    spec = StageSpec(kind=kind, fingerprint="f" * 64, config=config, inputs=inputs)
    return execute(spec, store, events.append), events


def upload(store: ArtifactStore, name: str, *records: Any) -> str:
    staging = store.staging()
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    (staging / name).write_text(text, encoding="utf-8")
    return store.commit(staging, kind="upload")


def preference(number: int, length: int = 3) -> dict[str, str]:
    words = [WORDS[(number + i) % len(WORDS)] for i in range(length)]
    return {"prompt": f"question {number} " + " ".join(words), "chosen": "good " * (length % 9 + 1), "rejected": "bad"}


def test_an_uploaded_file_becomes_rows_and_rejects_with_counts(store: ArtifactStore) -> None:
    digest = upload(store, "rows.jsonl", preference(1), "{", preference(2))

    result, events = run(store, "import_dataset", {"kind": "preference", "layout": "auto"}, upload=digest)

    counts = {name: result.summary[name] for name in ("rows_in", "rows_kept", "rows_rejected", "layout", "file")}
    assert counts == {
        "rows_in": 3, "rows_kept": 2, "rows_rejected": 1, "layout": "preference", "file": "rows.jsonl",
    }  # fmt: skip
    assert len(list(iterate_rows(store.files(result.digest)))) == 2
    reject = json.loads(store.files(result.digest, "rejects.jsonl")[0].read_text(encoding="utf-8"))
    assert (reject["line"], reject["code"], reject["excerpt"]) == (2, "invalid_json", "{")
    assert any(isinstance(event, Progress) and event.unit == "bytes" for event in events)
    assert any(isinstance(event, Log) and "3 rows in = 2 kept + 1 rejected" in event.message for event in events)


def test_the_same_import_gives_the_same_artifact(store: ArtifactStore) -> None:
    digest = upload(store, "rows.jsonl", preference(1), "{")

    first, second = (run(store, "import_dataset", {"kind": "preference"}, upload=digest)[0] for _ in range(2))

    assert first.digest == second.digest


def test_a_preference_dataset_gives_an_sft_dataset_of_its_chosen_replies(store: ArtifactStore) -> None:
    imported, _ = run(
        store, "import_dataset", {"kind": "preference"}, upload=upload(store, "a.jsonl", *map(preference, range(3)))
    )

    derived, _ = run(store, "import_dataset", {"kind": "sft"}, dataset=imported.digest)

    pairs, targets = (list(iterate_rows(store.files(item.digest))) for item in (imported, derived))
    assert [row["target"] for row in targets] == [row["chosen"] for row in pairs]
    assert [row["root"] for row in targets] == [row["root"] for row in pairs]


def test_the_built_in_task_is_imported_with_the_facts_its_gold_reward_needs(store: ArtifactStore) -> None:
    for kind, column in (("preference", "chosen"), ("sft", "target")):
        result, _ = run(store, "import_dataset", {"kind": kind, "mini_tldr": {"size": 20, "seed": 1}})

        rows = list(iterate_rows(store.files(result.digest)))
        assert len(rows) == result.summary["rows_kept"]
        assert all(isinstance(gold_reward(row["meta"], row[column]), float) for row in rows)
    result, _ = run(store, "import_dataset", {"kind": "prompts", "mini_tldr": {"size": 20, "seed": 1}})
    assert result.summary["rows_kept"] == 20


def test_an_import_without_a_source_and_a_hub_that_is_not_there_say_what_to_do(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(UserError, match="needs a source: an uploaded file"):
        run(store, "import_dataset", {"kind": "sft"})
    with pytest.raises(UserError, match=r"cannot reach the Hugging Face hub.*import it here as an upload"):
        run(store, "import_dataset", {"kind": "sft", "hub": "owner/name"})
    with pytest.raises(UserError, match="needs a source: an uploaded GGUF file"):
        run(store, "import_model", {})
    assert list((store.root / "staging").iterdir()) == []


def test_the_files_of_a_hub_dataset_are_chosen_or_asked_for() -> None:
    parts = ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet"]
    several = ["a/train.jsonl.gz", "b/train.jsonl.gz", ".gitattributes"]

    assert choose_files(parts, hub="o/n") == parts[1:3]
    assert choose_files(parts, hub="o/n", split="test") == parts[3:]
    assert choose_files(["rows.csv", "dataset_infos.json"], hub="o/n") == ["rows.csv"]
    assert choose_files(several, hub="o/n", file="b/train.jsonl.gz") == ["b/train.jsonl.gz"]
    with pytest.raises(UserError, match=r"several tables to import: a/train\.jsonl\.gz, b/train\.jsonl\.gz\. Name one"):
        choose_files(several, hub="o/n")
    with pytest.raises(UserError, match="no data file of split validation"):
        choose_files(parts, hub="o/n", split="validation")
    with pytest.raises(UserError, match="holds no file 'c'"):
        choose_files(several, hub="o/n", file="c")


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_model_folder_becomes_an_artifact_with_its_description(
    store: ArtifactStore, tmp_path: Path, family: Any
) -> None:
    folder = toy_model(tmp_path / "toy", family, words=WORDS)

    result, _ = run(store, "import_model", {"path": str(folder)})

    assert result.summary["family"] == family
    assert {"parameters", "vocabulary", "chat_template", "tokenizer_digest"} <= result.summary.keys()
    assert (store.path(result.digest) / "model" / "config.json").exists()


def test_the_base_model_of_the_built_in_task_is_imported(store: ArtifactStore) -> None:
    result, _ = run(store, "import_model", {"mini_tldr": {"family": "causal", "seed": 0}})

    assert (result.summary["family"], result.summary["chat_template"]) == ("causal", False)


# Lengths


@pytest.fixture(params=["causal", "seq2seq"])
def base(store: ArtifactStore, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    chat = request.param == "causal"
    folder = toy_model(tmp_path / "toy", request.param, words=WORDS, chat_template=chat)
    return run(store, "import_model", {"path": str(folder)})[0].digest


def preferences(store: ArtifactStore) -> str:
    rows = [preference(i, length=i % 40) for i in range(120)]
    rows += [{"prompt": "question [CONTEXT]", "chosen": "good [RESPONSE A] </s>", "rejected": "the cat"}]
    return run(store, "import_dataset", {"kind": "preference"}, upload=upload(store, "a.jsonl", *rows))[0].digest


def test_a_length_profile_counts_every_row_as_the_templates_would_one_by_one(store: ArtifactStore, base: str) -> None:
    data = preferences(store)

    result, _ = run(store, "length_profile", LIMITS, base=base, preferences=data)

    assert result.summary["datasets"]["preferences"]["splits"] == counted_one_by_one(store, base, data)
    totals = result.summary["datasets"]["preferences"]
    assert min(totals[name] for name in ("truncated_prompts", "excluded_rows", "reward_truncated")) > 0
    assert totals["escaped_markers"] == 2


def counted_one_by_one(store: ArtifactStore, base: str, data: str) -> dict[str, dict[str, int]]:
    from rso_core.templates import ResponsesTooLongError

    tokenizer, family = load_tokenizer(store.path(base) / "model")
    names = ("rows", "truncated_prompts", "excluded_rows", "reward_truncated", "reward_excluded", "escaped_markers")
    counts = {split: dict.fromkeys(names, 0) for split in ("train", "validation", "test")}
    for row in iterate_rows(store.files(data)):
        found = counts[assign_split(row["root"], SPLIT)]
        prompt = policy_prompt_ids(
            tokenizer, family, json.loads(row["messages"]), task="dialogue", prompt_template="auto", max_tokens=12
        )
        longest = max(len(response_ids(tokenizer, row[side])) for side in ("chosen", "rejected"))
        found["rows"] += 1
        found["truncated_prompts"] += prompt.truncated
        found["excluded_rows"] += longest > 6
        try:
            made = reward_input_ids(
                tokenizer, family, task="dialogue", context=row["prompt"], first=row["chosen"], second=row["rejected"],
                max_length=40,
            )  # fmt: skip
            found["reward_truncated"] += made.truncated
            found["escaped_markers"] += made.escaped
        except ResponsesTooLongError:
            found["reward_excluded"] += 1
    return counts


def test_a_length_profile_shows_one_row_token_by_token(store: ArtifactStore, base: str) -> None:
    result, _ = run(store, "length_profile", LIMITS, base=base, preferences=preferences(store))

    profile = json.loads(store.files(result.digest, "profile.json")[0].read_text(encoding="utf-8"))
    tokens = profile["example"]["policy"]["tokens"]
    assert tokens[-1] == {"text": "</s>", "id": tokens[-1]["id"], "special": True, "part": "response"}
    assert {token["part"] for token in tokens} <= {"prompt", "response", "template"}
    assert "question" in [token["text"] for token in tokens if token["part"] == "prompt"]
    reward = "".join(token["text"] for token in profile["example"]["reward"]["tokens"])
    assert "[CONTEXT]" in reward


def test_a_length_profile_serves_targets_and_prompts_alone(store: ArtifactStore, base: str) -> None:
    records = [{"prompt": f"question {i}", "target": "good " * i} for i in range(1, 9)]
    digest = upload(store, "a.jsonl", *records)
    sft = run(store, "import_dataset", {"kind": "sft"}, upload=digest)[0].digest
    prompts = run(store, "import_dataset", {"kind": "prompts", "layout": "prompts"}, upload=digest)[0].digest

    result, _ = run(store, "length_profile", LIMITS, base=base, sft=sft, prompts=prompts)

    measured = result.summary["datasets"]
    assert measured["sft"]["histograms"]["target"]["max"] == 9
    assert measured["sft"]["excluded_rows"] == 3
    assert measured["prompts"]["histograms"].keys() == {"prompt"}


@pytest.mark.parametrize(("max_length", "warned"), [(40, True), (400, False)])
def test_targets_too_long_for_a_win_rate_are_told_before_any_training(
    store: ArtifactStore,
    base: str,
    max_length: int,
    warned: bool,  # noqa: FBT001
) -> None:
    digest = upload(store, "a.jsonl", *({"prompt": f"question {i}", "target": "good " * 30} for i in range(60)))
    sft = run(store, "import_dataset", {"kind": "sft"}, upload=digest)[0].digest
    rows = list(iterate_rows(store.files(sft)))
    held_out = sum(assign_split(row["root"], SPLIT) != "train" for row in rows)

    _, events = run(store, "length_profile", {**LIMITS, "max_length": max_length}, base=base, sft=sft)

    told = [event.message for event in events if isinstance(event, Log) and "reward.max_length" in event.message]
    assert len(told) == warned
    assert all(text.startswith(f"{held_out} validation or test targets") for text in told)
    assert held_out > 0


def test_responses_are_as_long_in_a_batch_as_one_by_one(tmp_path: Path) -> None:
    for family in ("causal", "seq2seq"):
        tokenizer, _ = load_tokenizer(toy_model(tmp_path / family, family, words=WORDS))
        texts = ["the cat", "", "good </s> bad", "unknownword"]

        assert response_lengths(tokenizer, texts) == [len(response_ids(tokenizer, text)) for text in texts]
        assert response_lengths(tokenizer, []) == []


def test_a_histogram_holds_every_length_once() -> None:
    made = histogram({0: 2, 7: 3, 399: 1})

    assert (sum(made["counts"]), made["total"], made["max"], made["median"]) == (6, 6, 399, 7)
    assert len(made["edges"]) == len(made["counts"]) + 1 <= 41
    assert made["counts"][0] == 5
    assert histogram({})["counts"] == []
