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

    Args:
        tokenizer: Of the answer.
        after: Ids of the text that the answer continues: what separates the two is part of the answer.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[str] = []
        self._num_tokens = 0
        self._written = [i for i in after if self._is_written(i)]  # without the special symbols that no text shows
        self._shown = len(self._written)  # the text of written ids before here has been given out
        self._window = max(0, self._shown - 1)  # written ids before here are no longer decoded
        self._held: list[pb.Token] = []

    def add(self, ids: Sequence[int], log_probs: Sequence[float]) -> list[pb.Token]:
        """Take tokens that were decided and give those whose text is now certain."""
        ready: list[pb.Token] = []
        for token_id, log_prob in zip(ids, log_probs, strict=True):
            self._num_tokens += 1
            if self._is_written(token_id):
                self._written.append(token_id)
            (token,) = self._tokenizer.vocabulary.decode((token_id,))
            self._held.append(pb.Token(token=token, log_prob=log_prob))
            if not self._window_text().endswith(_UNFINISHED):
                ready += self._release()
        return ready

    def finish(self) -> list[pb.Token]:
        """Give what is still held: nothing more will complete it."""
        return self._release() if self._held else []

    @property
    def text(self) -> str:
        """What has been given so far, joined."""
        return "".join(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return self._num_tokens

    def _is_written(self, token_id: int) -> bool:
        vocabulary = self._tokenizer.vocabulary
        return token_id >= vocabulary.num_special or token_id == vocabulary.unk_id

    def _window_text(self) -> str:
        return self._tokenizer.decode(self._written[self._window :])

    def _release(self) -> list[pb.Token]:
        """Give the held tokens, the last of them with all that they add to the text."""
        before = self._tokenizer.decode(self._written[self._window : self._shown])
        self._held[-1].text = self._window_text()[len(before) :]
        self._pieces.append(self._held[-1].text)
        # The window keeps the last tokens that were given: the first token of a text decodes unlike the others.
        if self._shown < len(self._written):
            self._window, self._shown = self._shown, len(self._written)
        released, self._held = self._held, []
        return released
