"""Ids to text as they come: what each token adds, such that the pieces joined are the text of the whole."""

from collections.abc import Sequence

from models.tokenizer import Tokenizer
from protos.carryover.v1 import carryover_pb2 as pb

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer, token by token.

    Characters and whitespace-separated tokens decode one by one. Of a subword vocabulary a token may end inside a
    character: it is held until the token that completes the character (or the end of the answer), because a piece of
    text once sent cannot be taken back. Only a window of the last ids is decoded anew for each token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._written: list[int] = []  # without the special symbols that no text shows
        self._window = 0  # written ids before here are no longer decoded
        self._shown = 0  # the text of written ids before here has been given out
        self._held: list[pb.Token] = []

    def add(self, ids: Sequence[int], log_probs: Sequence[float]) -> list[pb.Token]:
        """Take tokens that were decided and give those whose text is now certain."""
        ready: list[pb.Token] = []
        for token_id, log_prob in zip(ids, log_probs, strict=True):
            self._ids.append(token_id)
            vocabulary = self._tokenizer.vocabulary
            if token_id >= vocabulary.num_special or token_id == vocabulary.unk_id:
                self._written.append(token_id)
            (token,) = vocabulary.decode((token_id,))
            self._held.append(pb.Token(token=token, log_prob=log_prob))
            if not self._window_text().endswith(_UNFINISHED):
                ready += self._release()
        return ready

    def finish(self) -> list[pb.Token]:
        """Give what is still held: nothing more will complete it."""
        return self._release() if self._held else []

    @property
    def text(self) -> str:
        """The text of all tokens so far."""
        return self._tokenizer.decode(self._ids)

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    def _window_text(self) -> str:
        return self._tokenizer.decode(self._written[self._window :])

    def _release(self) -> list[pb.Token]:
        """Give the held tokens, the last of them with all that they add to the text."""
        before = self._tokenizer.decode(self._written[self._window : self._shown])
        self._held[-1].text = self._window_text()[len(before) :]
        # The window keeps the last tokens that were given: the first token of a text decodes unlike the others.
        if self._shown < len(self._written):
            self._window, self._shown = self._shown, len(self._written)
        released, self._held = self._held, []
        return released
