import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.errors import UserError
from rso_core.mini_tldr import (
    AUTHORS,
    FREE_WORDS,
    TARGET_AUTHOR,
    VALUES,
    WEIGHTS,
    Author,
    blind_rules,
    draw_facts,
    generate_dataset,
    gold_reward,
    vocabulary_words,
    write_post,
)
from rso_core.vocabulary import DatasetKind

FACTS = {"who": "boss", "did": "sold", "thing": "car", "place": "work", "day": "monday", "wants": "money"}
META = json.dumps({"facts": FACTS})
seeds = st.integers(min_value=0, max_value=2**31 - 1)


def mean_gold(author: Author, count: int = 400) -> float:
    rng = random.Random(7)  # noqa: S311
    total = 0.0
    for _ in range(count):
        facts = draw_facts(rng)
        total += gold_reward(json.dumps({"facts": facts}), author.write(facts, rng))
    return total / count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my boss sold my car at work on monday and i want money.", 5.0),
        ("my boss sold my car.", 3.0),
        ("someone took something.", 0.0),
        ("", 0.0),
        ("My BOSS sold my car!", 3.0),
        ("my sister sold my car.", 2.0 - 1.0),  # a wrong fact costs more than leaving it out
        ("my boss sold my car on monday on monday.", 3.5 - 0.5),
        ("my boss or my sister sold my car.", 3.0 - 1.0),
        ("my boss my boss my boss.", 1.0 - 2 * 0.5),
        ("my sister my sister.", -1.0 - 0.5),
        ("my boss sold my car " + "and " * (FREE_WORDS - 5) + "so it was.", 3.0 - 0.3),
    ],
)
def test_the_gold_reward_counts_facts_errors_repetition_and_length(text: str, expected: float) -> None:
    assert gold_reward(META, text) == pytest.approx(expected)


def test_the_best_summary_states_every_fact_in_few_words() -> None:
    best = "my boss sold my car at work on monday and i want money."
    assert gold_reward(META, best) == sum(WEIGHTS.values())
    assert len(best.split()) <= FREE_WORDS


@given(seed=seeds)
def test_no_summary_of_any_author_beats_the_weights_of_all_facts(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    facts = draw_facts(rng)
    meta = json.dumps({"facts": facts})
    for author in (TARGET_AUTHOR, *AUTHORS.values()):
        assert gold_reward(meta, author.write(facts, rng)) <= sum(WEIGHTS.values())


@given(seed=seeds)
def test_a_post_states_each_fact_exactly_once_and_no_other(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    facts = draw_facts(rng)
    words = write_post(facts, rng).replace(".", "").split()
    for slot, values in VALUES.items():
        assert [word for word in words if word in values] == [facts[slot]]


def test_word_lists_are_disjoint_and_hold_no_word_of_the_templates() -> None:
    words = [word for values in VALUES.values() for word in values]
    assert len(words) == len(set(words))
    assert len(vocabulary_words()) == len(set(vocabulary_words()))


@pytest.mark.parametrize("meta", ["", "{}", "[]", '{"facts": {"who": "boss"}}'])
def test_the_gold_reward_refuses_rows_without_facts(meta: str) -> None:
    with pytest.raises(UserError, match=r"evaluation\.gold to none"):
        gold_reward(meta, "my boss sold my car.")


@pytest.mark.parametrize("kind", ["sft", "preference", "prompts"])
def test_a_dataset_is_a_function_of_its_seed_with_distinct_prompts(kind: DatasetKind) -> None:
    rows = list(generate_dataset(kind, size=300, seed=5))
    assert rows == list(generate_dataset(kind, size=300, seed=5))
    assert rows[:100] == list(generate_dataset(kind, size=100, seed=5))
    assert rows != list(generate_dataset(kind, size=300, seed=6))
    assert len({row["prompt"] for row in rows}) == 300


def test_kinds_draw_different_posts_and_have_their_own_columns() -> None:
    rows = {kind: next(generate_dataset(kind, size=1)) for kind in ("sft", "preference", "prompts")}
    assert {kind: set(row) for kind, row in rows.items()} == {
        "sft": {"prompt", "target", "meta"},
        "preference": {"prompt", "chosen", "rejected", "meta"},
        "prompts": {"prompt", "meta"},
    }
    assert len({row["prompt"] for row in rows.values()}) == 3


@pytest.mark.parametrize("size", [0, -1, 1_000_001])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(UserError, match="1 to 1,000,000"):
        next(generate_dataset("sft", size=size))


def test_human_labels_agree_with_gold_more_often_than_blind_rules_do() -> None:
    rows = list(generate_dataset("preference", size=4000))
    agrees = 0.0
    for row in rows:
        meta = json.dumps(row["meta"])
        difference = gold_reward(meta, row["chosen"]) - gold_reward(meta, row["rejected"])
        agrees += 0.5 if difference == 0 else float(difference > 0)
    blind = {rule: sum(blind_rules(row)[rule] for row in rows) / len(rows) for rule in ("longer", "coverage")}
    assert 0.88 < agrees / len(rows) < 0.95
    assert abs(blind["longer"] - 0.5) < 0.05
    assert blind["coverage"] < 0.67


def test_preferences_hold_wrong_facts_and_repetitions_on_the_losing_side_more_often() -> None:
    wrong = {"chosen": 0, "rejected": 0}
    again = {"chosen": 0, "rejected": 0}
    for row in generate_dataset("preference", size=2000):
        for side in wrong:
            words = row[side].rstrip(".").split()
            content = [word for word in words if any(word in values for values in VALUES.values())]
            wrong[side] += any(word not in row["meta"]["facts"].values() for word in content)
            again[side] += len(content) > len(set(content))
    assert wrong["rejected"] > 2 * wrong["chosen"] > 0
    assert again["rejected"] > again["chosen"] > 0


def test_the_targets_are_neither_the_best_nor_the_worst_policy() -> None:
    qualities = {name: mean_gold(author) for name, author in AUTHORS.items()}
    assert min(qualities.values()) < mean_gold(TARGET_AUTHOR) < qualities["careful"]
