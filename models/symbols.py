"""The special symbols: every vocabulary but the closed ones, such as tags, begins with them. No torch."""

from typing import Final

PAD: Final = "<pad>"  # fills rows up; never read, never answered
UNK: Final = "<unk>"  # stands for every token that is not in the vocabulary
BOS: Final = "<s>"  # read before a text's first token, never predicted
EOS: Final = "</s>"  # predicted after a text's last token
SPECIALS: Final = (PAD, UNK, BOS, EOS)  # in id order
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(len(SPECIALS))

# What no text ever continues with, and the log-probability (nats) that it gets instead of its own. Whoever searches or
# samples drops what has it.
NEVER_NEXT: Final = (PAD_ID, BOS_ID)
NEVER_LOG_PROB: Final = -1e9
