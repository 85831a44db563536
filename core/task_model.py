"""Our models as lm-eval sees them: it asks for log-likelihoods of continuations, we answer from streamed blocks.

Imported only where the optional package lm-eval is installed. How text is cut into context and continuation tokens is the
library's own (`TemplateLM`), so that scores compare with published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from transformers import PreTrainedTokenizerBase

from core.continuations import Continuation, Score
from core.errors import BadOption


class Scorer(TemplateLM):  # type: ignore[misc]
    """`score(requests)` gives one score per request, in order."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, score: Callable[[Sequence[Continuation]], Sequence[Score]]) -> None:
        super().__init__()
        self.tokenizer, self.score = tokenizer, score

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        end = self.tokenizer.eos_token_id
        return int(end) if isinstance(end, int) else 0

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation without context."""
        begin = self.tokenizer.bos_token_id
        return int(begin) if isinstance(begin, int) else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; as the tokeniser sees fit unless told, and without a second begin token."""
        begin = self.tokenizer.bos_token
        wanted = add_special_tokens if add_special_tokens is not None else not (begin and string.startswith(str(begin)))
        return list(self.tokenizer(string, add_special_tokens=wanted)["input_ids"])

    def _loglikelihood_tokens(self, requests: list[tuple[tuple[str, str], list[int], list[int]]],
                              **kwargs: Any) -> list[tuple[float, bool]]:
        scores = self.score([Continuation(tuple(context), tuple(scored)) for _, context, scored in requests])
        return [(s.log_likelihood, s.greedy) for s in scores]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refused: tasks with choices never ask for it."""
        raise BadOption("Only multiple-choice tasks can be run.", "This one scores whole texts.", "Leave it out.")

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Refused: tasks with choices never ask for it."""
        raise BadOption("Only multiple-choice tasks can be run.", "This one lets the model write.", "Leave it out.")
