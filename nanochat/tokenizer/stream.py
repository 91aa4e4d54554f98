"""Text from a stream of tokens. A token may end inside a character; the output never contains half of one."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes token ids one at a time; the concatenated text equals `Tokenizer.decode` of all ids.

    Bytes of an incomplete character are held back until the next token. Invalid bytes become U+FFFD, as in
    `decode`.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]):
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        return self._utf8.decode(self._bytes_of(token))

    def flush(self) -> str:
        """The rest of an incomplete character (U+FFFD or nothing). Resets the decoder."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
