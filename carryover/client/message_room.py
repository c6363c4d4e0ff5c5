"""How many commands go out as one message: the clients join what is ready together."""

from google.protobuf.message import Message

MAX_COMMANDS = 256  # of one message
# Of the commands of one message, unless a single one is larger: far below what a server takes by default (4 MiB).
MAX_JOINED_BYTES = 256 * 2**10
_MAX_FRAMING_BYTES = 6  # a tag, and the length of a command of less than 2^35 bytes


class MessageRoom:
    """What is left of one message; joined commands must not make one that the server refuses for its size."""

    def __init__(self) -> None:
        self._num_commands = 0
        self._num_bytes = 0

    def takes(self, command: Message) -> bool:
        """Make room for a command, or say that it belongs in the next message; the first one always fits."""
        num_bytes = command.ByteSize() + _MAX_FRAMING_BYTES
        full = self._num_commands >= MAX_COMMANDS or self._num_bytes + num_bytes > MAX_JOINED_BYTES
        if self._num_commands and full:
            return False
        self._num_commands += 1
        self._num_bytes += num_bytes
        return True
