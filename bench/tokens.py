"""Which tokens a benchmark session feeds: a function of (session, step), so that any answer can be checked later."""

from models.symbols import SPECIALS

FIRST_WORD = len(SPECIALS)


def token(session: int, step: int, vocabulary: int) -> int:
    """The input of a session at a step; a multiplicative hash, spread over the vocabulary."""
    mixed = (session * 2_654_435_761 + step * 40_503 + 12_345) & 0xFFFFFFFF
    return FIRST_WORD + mixed % (vocabulary - FIRST_WORD)
