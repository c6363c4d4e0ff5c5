"""Subword vocabularies, trained locally and the same every time.

Source: byte-level byte-pair encoding, Radford et al. 2019, section 2.2, after Sennrich et al. 2016.
"""

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from models.data.errors import DataError
from models.symbols import SPECIALS
from models.vocabulary import Vocabulary

_NUM_BYTES = 256


def train_subwords(texts: Iterable[str], max_size: int) -> tuple[tokenizers.Tokenizer, Vocabulary]:
    """Learn a byte-level BPE vocabulary: every text can be written in it, and decoding gives the text back.

    Args:
        texts: Training text, normalised as it will be when used.
        max_size: Entries in all: 4 special symbols, 256 bytes and the merges.

    Returns:
        The subword model, and the vocabulary with the same ids.

    Raises:
        DataError: `max_size` leaves no room for the bytes.
    """
    if max_size < len(SPECIALS) + _NUM_BYTES:
        raise DataError(
            "subword vocabulary too small", expected=f"at least {len(SPECIALS) + _NUM_BYTES}", got=str(max_size)
        )
    model = tokenizers.Tokenizer(models.BPE())
    # The prefix space makes a word at the start of a text the same token as elsewhere; decoding takes it off again.
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=max_size,
        special_tokens=[AddedToken(symbol, special=True) for symbol in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    ids = model.get_vocab()
    return model, Vocabulary(tuple(sorted(ids, key=ids.__getitem__)), len(SPECIALS))
