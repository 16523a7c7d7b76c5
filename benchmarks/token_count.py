"""Run a module as `python -m` does, and write down how many tokens went through its language models.

    python -m benchmarks.token_count FILE ROWS PAD MODULE [ARGUMENT …]

A token counts once each time an embedding of ROWS rows is asked for it, in training and elsewhere. Tokens PAD at either end
of a row are padding and do not count (PAD -1: there is no padding). FILE gets `{"tokens": NUMBER}` when the module has ended.
"""

import json
import runpy
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import torch


class TokenCounter:
    """Counts the tokens of `torch.nn.functional.embedding`, which it takes the place of."""

    def __init__(self, rows: int, padding: int) -> None:
        self.tokens = 0
        self._rows, self._padding, self._lock = rows, padding, Lock()
        self._embedding = torch.nn.functional.embedding

    def __call__(self, ids: torch.Tensor, weight: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Count and embed."""
        if len(weight) == self._rows:
            with self._lock:
                self.tokens += real_tokens(ids, self._padding)
        found: torch.Tensor = self._embedding(ids, weight, *arguments, **options)
        return found


def real_tokens(ids: torch.Tensor, padding: int) -> int:
    """Return how many tokens of the rows [..., width] stand between the first and the last that is no padding."""
    real = (ids.reshape(-1, ids.shape[-1]) != padding).int()
    if not real.numel():
        return 0
    first, last = real.argmax(dim=1), real.shape[1] - 1 - real.flip(1).argmax(dim=1)
    return int(((last - first + 1) * real.amax(dim=1)).sum())


def main() -> None:
    """Run the module with its arguments, then write the file."""
    file, rows, padding, module, *arguments = sys.argv[1:]
    counter = TokenCounter(int(rows), int(padding))
    torch.nn.functional.embedding = counter
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    Path(file).write_text(json.dumps({"tokens": counter.tokens}), encoding="utf-8")


if __name__ == "__main__":
    main()
