"""Text from tokens as they arrive. A token may end inside a character; a reader must not see half of one."""

import codecs
from collections.abc import Callable, Iterable


class StreamDecoder:
    """Turns token ids into text one at a time; the pieces joined equal `Tokenizer.decode` of all the ids.

    Bytes of an unfinished character wait for the next token. Bytes that no character can contain come out
    as U+FFFD, as they do in `decode`.
    """

    def __init__(self, decode_bytes: Callable[[Iterable[int]], bytes]):
        self._decode_bytes = decode_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        return self._utf8.decode(self._decode_bytes((token,)))

    def flush(self) -> str:
        """What an unfinished character leaves behind (U+FFFD or nothing); afterwards it starts anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
