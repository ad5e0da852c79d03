"""Which tokens of one request a selection means, however its text is cut into steps.

Offline a prompt goes through the model whole, and then one token after the other. A selection is
asked as if it were so here, too: once for the whole prompt, and for each later token when it is
new. Chunks of a prompt, and tokens that pass again, take their part of that answer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tenterhook_selections import Roles, Seen, Selection

AHEAD = 64
"""Tokens that are asked for at once, where the answer does not depend on them."""

_BY_POSITION = {"last", "prompt", "generated"}


class Chosen:
    """The answers of one selection for one request."""

    def __init__(
        self, selection: Selection, prompt_ids: Sequence[int], roles: Roles | None = None
    ) -> None:
        """`roles` say who says what in the prompt, for a selection that asks."""
        self.selection = selection
        self._prompt_ids = list(prompt_ids)
        self._roles = None if roles is None else (roles,)
        self._answers = self._of_prompt() if prompt_ids else []
        self._ids: list[int] = []
        """Of generated tokens, where the answers depend on them."""
        tokens = selection.tokens
        is_word = isinstance(tokens, str) and ":" not in tokens
        self.depends = is_word and tokens not in _BY_POSITION
        """Whether what generated tokens are, and those before them, matters."""

    def at(self, start: int, ids: Sequence[int], before: Sequence[int]) -> list[bool]:
        """Say for each token from position `start` on whether it is selected.

        `ids` are theirs, `before` those of all tokens before them, if it `depends` on them.
        """
        stop = start + len(ids)
        if self.depends:
            self._ask_each(stop, [*before[:start], *ids])
        while len(self._answers) < stop:
            self._answers += self._ahead(len(self._answers))
        return self._answers[start:stop]

    def _of_prompt(self) -> list[bool]:
        count = len(self._prompt_ids)
        return self._asked(0, count, ids=self._prompt_ids)

    def _ahead(self, start: int) -> list[bool]:
        """Return the answers for generated tokens from `start` on, each when it is new."""
        found = self._asked(start, AHEAD)
        return [each and self._is_at(start + at) for at, each in enumerate(found)]

    def _ask_each(self, stop: int, ids: Sequence[int]) -> None:
        """Ask for each generated token alone, again where another took its place."""
        prompt = len(self._prompt_ids)
        for position in range(prompt, stop):
            at = position - prompt
            if at < len(self._ids) and self._ids[at] == ids[position]:
                continue
            del self._ids[at:], self._answers[position:]
            (found,) = self._asked(position, 1, ids=ids[: position + 1])
            self._answers.append(found and self._is_at(position))
            self._ids.append(ids[position])

    def _is_at(self, position: int) -> bool:
        """Say whether the step in which a generated token is new is one that is selected."""
        step = position - len(self._prompt_ids) + 1
        return self.selection.is_at(step) and step % self.selection.every == 0

    def _asked(self, start: int, count: int, *, ids: Sequence[int] | None = None) -> list[bool]:
        """Ask the selection for `count` tokens; `ids` are those of the text up to the last."""
        prompt = len(self._prompt_ids)
        if start == 0 and not self.selection.is_at(0):
            return [False] * count
        position = torch.arange(start, start + count)[None]
        seen = Seen(
            torch.ones(1, count, dtype=torch.bool),
            position,
            torch.tensor([start + count]),
            torch.tensor([prompt]),
            ids=None if ids is None else torch.tensor([list(ids[start:])]),
            roles=self._roles,
            earlier=None if ids is None else lambda: torch.tensor([list(ids[:start])]),
            known=torch.maximum(position + 1, torch.tensor(prompt)),
            first=start,
            columns=torch.ones(1, start + count, dtype=torch.bool),
        )
        mask: Tensor = self.selection.token_mask(
            torch.Size((1, count, 1)), torch.device("cpu"), seen
        )
        answers: list[bool] = mask.reshape(1, -1).expand(1, count)[0].tolist()
        return answers
