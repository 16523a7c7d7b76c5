"""Questions of the playground in tests."""

from typing import Any

from rso_core.protocol import Partial
from webapp.accounts.models import User
from webapp.playground import answering, asking
from webapp.playground.asking import Sampling
from webapp.playground.models import Generation, Question
from webapp.playground.policies import Policy

MESSAGES: Any = [{"role": "user", "content": "the cat sat on the mat"}]


def made_policy(name: str, **values: Any) -> Policy:
    """Return a model that needs not exist, for tests in which nothing is generated."""
    limits = {"task": "dialogue", "max_prompt_tokens": 64}
    known = {"kind": "model", "digest": (name.encode().hex() * 64)[:64], "run": None, "stage_id": None}
    return Policy(key=f"model:{name}", label=name, limits=limits, **{**known, **values})


def asked(owner: User, *names: str, is_blind: bool = False, **sampling: Any) -> Question:
    policies = [made_policy(name) for name in names or ("one", "two")]
    return asking.ask(owner, MESSAGES, policies, is_blind=is_blind, sampling=Sampling(**sampling))


def claimed(worker: str = "gpu@here") -> answering.AnswerClaim:
    claim = answering.claim(worker=worker, has_gpu_queue=True)
    assert claim is not None
    return claim


def answered(question: Question, **texts: str) -> None:
    """Answer all of a question, each model with its text or with its name."""
    for _ in question.generations.filter(status="waiting"):
        claim = claimed()
        text = texts.get(generation_of(claim).label, f"answer of {generation_of(claim).label}")
        answering.tell(claim, Partial(text=text[:4], tokens=1))
        answering.finish(claim, {"text": text, "tokens": 3, "truncated": False, "prompt_truncated": False})


def generation_of(claim: answering.AnswerClaim) -> Generation:
    return Generation.objects.get(pk=claim.generation_id)
