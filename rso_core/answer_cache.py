"""Answers of judges that were given before, so that nobody pays twice for the same question.

One folder a judge, under the artifact store's root; each process that asks writes a file of its own, so that writers
never meet, and reads what all others left. A line that was cut off by a kill is passed over and asked again.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self


@dataclass(frozen=True)
class Answer:
    """One sample of a language model. `truncated`: the limit came before the end. Token counts are 0 where unknown."""

    text: str
    truncated: bool
    prompt_tokens: int
    completion_tokens: int


class AnswerCache:
    """What one judge has answered, by key of the question. Use as a context manager, which closes the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None
        self._known = {key: answers for file in sorted(folder.glob("*.jsonl")) for key, answers in _read(file)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, key: str) -> list[Answer] | None:
        """Return the answers to a question, None when it was never asked."""
        return self._known.get(key)

    def put(self, key: str, answers: Sequence[Answer]) -> None:
        """Keep the answers to a question; they are on their way to the disk when this returns."""
        self._known[key] = list(answers)
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / f"{os.getpid()}-{uuid.uuid4().hex}.jsonl").open("w", encoding="utf-8")
        self._file.write(json.dumps([key, [asdict(answer) for answer in answers]], ensure_ascii=False) + "\n")
        self._file.flush()


def _read(file: Path) -> Iterator[tuple[str, list[Answer]]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                key, answers = json.loads(line)
                yield key, [Answer(**answer) for answer in answers]
            except (ValueError, TypeError):
                continue  # cut off in the middle
