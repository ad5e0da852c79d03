"""Which tokens of a forward have a role, by what is known of their texts."""

import torch
from torch import Tensor

from tenterhook_selections.positions import is_among
from tenterhook_selections.roles import BY_MODEL, parse_role
from tenterhook_selections.tokens import Seen


def has_role(tokens: Seen, word: str) -> Tensor:
    """Return which tokens of a forward have a role, bool `(batch, seq)`; see `Roles.where`.

    Positions count the role's tokens in each row, negative ones from the latest when a token was
    new. Raises `ValueError` where it is not known who says what.
    """
    role, positions = parse_role(word)
    if tokens.roles is None and bool(tokens.real.any()):
        raise ValueError(
            f"Tokens of the role {role!r} are selected, and it is not known who says what in this "
            "forward. Run messages by lm.chat(messages) or lm.inference, or say it: "
            "generating(lengths, roles=lm.roles(conversations))."
        )
    found = torch.zeros_like(tokens.real)
    for row in range(len(tokens.real)):
        real = tokens.real[row]
        if not bool(real.any()):
            continue
        names = _names_of_row(tokens, row, by_model=role in BY_MODEL)
        has = torch.tensor([name == role for name in names])
        at = tokens.position[row][real]
        chosen = has[at]
        if positions is not None:
            order = has.cumsum(0)
            known = order[tokens.known[row][real] - 1]
            chosen &= is_among(positions, order[at] - 1, known)
        found[row, real] = chosen
    return found


def _names_of_row(tokens: Seen, row: int, *, by_model: bool) -> list[str | None]:
    """Return the roles of a row's tokens so far, from its first on.

    Those of generated tokens matter `by_model` alone.
    """
    assert tokens.roles is not None
    roles = tokens.roles[row // tokens.copies]
    roles.check()
    real, position = tokens.real[row], tokens.position[row]
    given = real & (position < len(roles))
    ids = None if tokens.ids is None else tokens.ids[row].cpu()
    wanted = torch.tensor([int(id) for id in roles.ids])
    if int(tokens.prompt[row]) != len(roles) or (
        ids is not None and not torch.equal(ids[given].long(), wanted[position[given]])
    ):
        raise ValueError(
            f"Tokens of a role are selected, and row {row} of the forward is another text than "
            "that whose roles are known. Was it cut?"
        )
    made = int(position[real].max()) + 1 - len(roles)
    if made <= 0:
        return list(roles.names)
    if not by_model:
        return [*roles.names, *[None] * made]
    if roles.thinks is None:
        return roles.going_on([0] * made)
    so_far = tokens.ids_so_far(row)
    if so_far is None:
        raise ValueError(
            "Tokens of a role are selected, and whether the next one is thinking depends on those "
            "before, which are not known in this search: with beams or a loop of one's own, run it "
            "with use_cache=False."
        )
    return roles.going_on(so_far[len(roles) :])
