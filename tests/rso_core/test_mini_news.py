import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.errors import UserError
from rso_core.mini_news import article_words, generate_articles, write_article
from rso_core.mini_tldr import VALUES, draw_facts, generate_dataset, gold_reward, vocabulary_words
from rso_core.references import built_in_dataset, built_in_model


@given(seed=st.integers(min_value=0, max_value=2**31 - 1))
def test_an_article_states_every_fact_of_its_story_and_others_of_a_bystander(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    facts = draw_facts(rng)
    words = write_article(facts, rng).replace(".", "").replace(",", "").split()
    stated = [(slot, word) for slot, values in VALUES.items() for word in words if word in values]
    assert set(facts.items()) <= set(stated)
    assert 2 <= len(set(stated) - set(facts.items())) <= 3


def test_a_bystanders_fact_is_wrong_by_gold_although_the_article_holds_it() -> None:
    rows = list(generate_articles(size=50))
    for row in rows:
        words = row["prompt"].replace(".", "").replace(",", "").split()
        others = [
            word
            for word in words
            if any(word in v for v in VALUES.values()) and word not in row["meta"]["facts"].values()
        ]
        assert gold_reward(json.dumps(row["meta"]), " ".join(others)) < 0


def test_articles_are_distinct_a_function_of_their_seed_and_no_posts() -> None:
    rows = list(generate_articles(size=200, seed=3))
    assert rows == list(generate_articles(size=200, seed=3))
    assert rows != list(generate_articles(size=200, seed=4))
    assert len({row["prompt"] for row in rows}) == 200
    posts = {row["prompt"] for row in generate_dataset("sft", size=200, seed=3)}
    assert not posts & {row["prompt"] for row in rows}
    assert article_words() - set(vocabulary_words())


def test_what_mini_news_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="a mini_news dataset must be 1 to 1,000,000 rows, got 0"):
        next(generate_articles(size=0))
    with pytest.raises(UserError, match="mini_news holds prompts with targets"):
        built_in_dataset("mini_news:size=5", "preference")
    with pytest.raises(UserError, match="options of mini_news are size=…, seed=…"):
        built_in_dataset("mini_news:family=causal", "sft")


def test_references_to_the_built_in_task_become_imports() -> None:
    assert built_in_dataset("mini_news:seed=2", "sft") == {"mini_news": {"size": 4000, "seed": 2}}
    assert built_in_dataset("pairs.jsonl", "preference") is None
    assert built_in_model("mini_tldr:weights=pretrained") == {
        "mini_tldr": {"family": "causal", "seed": 0, "weights": "pretrained"}
    }
    assert built_in_model("mini_news:seed=2") is None
