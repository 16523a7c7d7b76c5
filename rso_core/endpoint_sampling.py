"""Candidates from an OpenAI-compatible endpoint: another engine decodes, the policy's tokenizer reads what it says.

Text is the interchange: each answer is tokenised once, on entry, and the policy is trained on those ids. Where they do
not give the text back (words that the tokenizer does not know) it is counted. The endpoint's model is the proposal q
of the target q·exp(r/β), whatever π_sft is.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from rso_core.answer_cache import Answer, AnswerCache
from rso_core.artifacts import Row
from rso_core.endpoint import Endpoint, Request
from rso_core.endpoint_settings import find_endpoint
from rso_core.stages import Job
from rso_core.templates import PLAIN_CUE, response_ids
from rso_core.vocabulary import Message, Task, canonical_json

PROMPTS_TOGETHER = 8  # prompts whose requests are under way together


class EndpointPool:
    """Asks the stage's endpoint for the candidates of prompts, and counts."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self._job, self._tokenizer = job, tokenizer
        self._settings = find_endpoint(**job.config["endpoint"])
        self._endpoint = Endpoint(self._settings)
        self.counts: dict[str, float] = {
            "round_trip_mismatches": 0,
            "single_answer_prompts": 0,
            "answers_cached": 0,
            "prompt_tokens": 0,
            "cost": 0.0,
        }
        if job.config["sampling"]["top_k"] and not self._settings.sends_top_k:
            job.log("the endpoint is not told top_k: it samples among all tokens (sends_top_k)", warning=True)

    def candidates(self, rows: Sequence[Row], seeds: Sequence[int]) -> Iterator[list[Row]]:
        """Yield the candidates of each prompt in order, with the baseline as the last one."""
        name = hashlib.sha256(canonical_json(self._job.config["endpoint"]).encode()).hexdigest()[:32]
        with AnswerCache(self._job.store.root / "sampled_answers" / name) as cache:
            for start in range(0, len(rows), PROMPTS_TOGETHER):
                block = list(zip(rows, seeds, strict=True))[start : start + PROMPTS_TOGETHER]
                for answers in self._answers([self._requests(row, seed) for row, seed in block], cache):
                    self.counts["single_answer_prompts"] += len({answer.text for answer in answers}) == 1
                    yield [self._candidate(index, answer) for index, answer in enumerate(answers)]
        self.counts["retries"] = self._endpoint.retries
        if 2 * self.counts["single_answer_prompts"] > len(rows):
            self._job.log(
                f"the endpoint gave all samples of {self.counts['single_answer_prompts']} of {len(rows)} prompts the same text: "
                f"does it sample at all? transformers serve is greedy unless the model's generation_config says do_sample",
                warning=True,
            )

    def _requests(self, row: Row, seed: int) -> list[Request]:
        sampling = self._job.config["sampling"]
        messages = chat_messages(json.loads(row["messages"]), self._job.config["task"])
        return [
            Request(
                messages,
                temperature=sampling["temperature"],
                max_tokens=self._job.config["max_response_tokens"],
                seed=(seed + number) % 2**31,
                top_k=sampling["top_k"],
            )
            for number in range(sampling["num_candidates"] + 1)
        ]

    def _answers(self, prompts: Sequence[list[Request]], cache: AnswerCache) -> Iterator[list[Answer]]:
        keys = [
            hashlib.sha256(canonical_json([vars(r) for r in requests]).encode()).hexdigest() for requests in prompts
        ]
        new = [requests for key, requests in zip(keys, prompts, strict=True) if cache.get(key) is None]
        coming = chain.from_iterable(self._endpoint.ask(list(chain.from_iterable(new))))
        for key, requests in zip(keys, prompts, strict=True):
            found = cache.get(key)
            if found is None:
                found = list(islice(coming, len(requests)))
                cache.put(key, found)
            else:
                self.counts["answers_cached"] += len(found)
            yield found

    def _candidate(self, index: int, answer: Answer) -> Row:
        ids = response_ids(self._tokenizer, answer.text)
        ids = ids[:-1] if answer.truncated else ids
        back = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.counts["round_trip_mismatches"] += back != answer.text
        self.counts["prompt_tokens"] += answer.prompt_tokens
        self.counts["cost"] += self._settings.cost(answer.prompt_tokens, answer.completion_tokens)
        return {"sample_index": index, "text": answer.text, "token_ids": ids, "truncated": answer.truncated}


def chat_messages(messages: Sequence[Message], task: Task) -> tuple[Message, ...]:
    """Return a prompt as a chat; a post to be summarised ends with the cue that a plain prompt has."""
    if task == "dialogue":
        return tuple(messages)
    last = messages[-1]
    cue = PLAIN_CUE[task].rstrip()
    return (
        *messages[:-1],
        {"role": last["role"], "content": last["content"].rstrip().removesuffix(cue.strip()).rstrip() + cue},
    )
