"""The bounds of the playground: what one question may ask for, and how long it may take."""

from datetime import timedelta

MODELS = 3
LONGEST_PROMPT = 20_000  # characters
LONGEST_ANSWER = 512  # tokens
REGISTERED_PROMPT_TOKENS = 2048  # of a registered model, which no run's settings limit
LIVE_QUESTIONS = 2  # of one person at once
ATTEMPTS = 2  # at one answer, when the worker is lost

LEASE = timedelta(seconds=20)  # a worker reports at least once a second
LONGEST_WORK = timedelta(minutes=3)  # of one answer, loading the model included
LONGEST_WAIT = timedelta(minutes=10)  # for a worker
UNWATCHED = timedelta(seconds=60)  # browsers let a page in the background speak once a minute
CPU_PATIENCE = timedelta(seconds=2)  # how long a GPU worker has to take an answer before a CPU worker does
