"""Text from a stream of tokens. A token may end inside a character; the output never contains half of one."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes token ids as they come; the concatenated text equals `Tokenizer.decode` of all ids.

    Bytes of an incomplete character are held back until the next token. Invalid bytes become U+FFFD, as in
    `decode`.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]):
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, *tokens: int) -> str:
        """The text that the next tokens complete; empty while a character is incomplete."""
        return self._utf8.decode(b"".join(map(self._bytes_of, tokens)))

    def flush(self) -> str:
        """The rest of an incomplete character (U+FFFD or nothing). Resets the decoder."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
