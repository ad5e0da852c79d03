"""Who says what: the roles of the tokens of a text that was made of messages.

`Roles` are those of one text. Whoever runs the text gives them (`generating(..., roles=...)`, as
`LanguageModel.chat` does); which tokens of a forward they are says `role_masks`. What a model goes
on to say is the assistant's, or thinking where a mark has opened it and none has closed it.
"""

import re
from collections.abc import Callable, Sequence

import attrs
import torch

from tenterhook_selections.positions import Positions, is_among, positions_of

ROLES = ("assistant", "system", "thinking", "tool", "user")
"""The words for roles."""

BY_MODEL = ("assistant", "thinking")
"""Those that a model's own words have."""

_INDEXED = re.compile(r"(\w+)\[([^\[\]]*)\]")


@attrs.frozen(eq=False, kw_only=True)
class Roles:
    """The roles of one text's tokens."""

    ids: Sequence[int]
    """The text's token ids, special ones included."""

    names: Sequence[str | None] = attrs.field()
    """The role of each; `None` for what a template puts around messages."""

    thinks: Callable[[Sequence[int]], Sequence[bool]] | None = None
    """Says of each token of the turn that a model goes on with, given its ids, whether it is
    thinking; `None` where nothing marks thinking."""

    turn: int = attrs.field()
    """Where that turn begins among `ids`."""

    refused: str | None = None
    """Why the roles cannot be told."""

    spans: Sequence[tuple[int, int]] | None = None
    """Where the characters of each token are in the text, if the tokenizer tells."""

    @turn.default
    def _end(self) -> int:
        return len(self.ids)

    @names.validator
    def _check_names(self, _: object, names: Sequence[str | None]) -> None:
        if len(names) != len(self.ids):
            raise ValueError(f"There are {len(self.ids)} tokens and {len(names)} roles.")

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, role: str) -> list[int]:
        """Return the positions of a role's tokens; `"user[-1]"` means the last of the user's.

        Raises `ValueError` where there is no such role, or the roles cannot be told.
        """
        word, positions = parse_role(role)
        self.check()
        found = [at for at, name in enumerate(self.names) if name == word]
        if positions is None:
            return found
        chosen = is_among(
            positions, torch.arange(len(found)), torch.full((len(found),), len(found))
        )
        return torch.tensor(found, dtype=torch.long)[chosen].tolist()

    def check(self) -> None:
        """Raise `ValueError` where the roles cannot be told."""
        if self.refused is not None:
            raise ValueError(f"Tokens of a role are selected, and {self.refused}.")

    def going_on(self, ids: Sequence[int]) -> list[str | None]:
        """Return the roles of the text and of `ids` that a model has said after it."""
        if self.thinks is None or not len(ids):
            return [*self.names, *["assistant"] * len(ids)]
        turn = [*self.ids[self.turn :], *ids]
        flags = self.thinks(turn)[len(turn) - len(ids) :]
        return [*self.names, *("thinking" if flag else "assistant" for flag in flags)]


def is_role(word: str) -> bool:
    """Whether a word, with positions or without, is one for a role: `"user"`, `"user[-1]"`."""
    found = _INDEXED.fullmatch(word)
    return (word if found is None else found[1]) in ROLES


def parse_role(word: str) -> tuple[str, Positions | None]:
    """Return the role of `"user[-1]"` and which of its tokens; `None` for all of them.

    Raises `ValueError` for another word, and for what are no positions.
    """
    found = _INDEXED.fullmatch(word)
    role = word if found is None else found[1]
    if role not in ROLES:
        raise ValueError(f"{role!r} is not a role. The roles are {', '.join(map(repr, ROLES))}.")
    if found is None:
        return role, None
    inside = found[2].strip()
    numbers = [part.strip() for part in inside.split(",")]
    if all(re.fullmatch(r"-?\d+", number) for number in numbers):
        return role, tuple(map(int, numbers))
    return role, positions_of(inside)
