"""Where a loader stands in its data: what a checkpoint keeps, and what makes two loaders the same."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class RowPosition:
    """The next row of a stream, and what became of the tokens before it. Plain numbers, all of them counts."""

    place: tuple[int, ...]
    """The window that holds the row, as its source counts windows."""
    offset: int = 0
    """Tokens of that window before the row."""
    rows: int = 0
    """Rows taken so far, over all processes."""
    dropped: int = 0
    """Tokens of documents that are in no row."""
    padded: int = 0

    def __post_init__(self) -> None:
        counts = {"offset": self.offset, "rows": self.rows, "dropped": self.dropped, "padded": self.padded}
        for name, value in [*counts.items(), *(("place", number) for number in self.place)]:
            if value < 0:
                raise ValueError(f"{name} of a data position must not be negative: {value}")


@dataclass(frozen=True)
class DataIdentity:
    """What decides the rows of a stream and their order. A position means nothing in another stream."""

    max_seq_len: int
    policy: str
    seed: int
    tokenizer: str
    """Hash of the vocabulary."""
    data: str
    """Digest of the text's files, or of the rendered conversations."""
    files: int | None = None
    """Files of text; None for conversations."""


@dataclass(frozen=True)
class DataPosition:
    """A row position with the identity of the stream that it belongs to."""

    identity: DataIdentity
    row: RowPosition


def check_identity(now: DataIdentity, position: DataPosition | None) -> None:
    """Raise ValueError unless `position` belongs to the stream `now`."""
    if position is None:
        return
    for field in fields(DataIdentity):
        then, value = getattr(position.identity, field.name), getattr(now, field.name)
        if then != value:
            raise ValueError(
                f"cannot resume the data stream: {field.name} was {then!r} and is now {value!r}; "
                "resume with the same data and settings, or start a new run"
            )
