"""A loader's position in its data, as kept in checkpoints, and the identity of that data."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class RowPosition:
    """The next row of a stream, and counts of the tokens before it."""

    place: tuple[int, ...]
    """The window that holds the row, in its source's numbering."""
    offset: int = 0
    """Tokens of that window before the row."""
    rows: int = 0
    """Rows taken so far, over all processes."""
    dropped: int = 0
    """Document tokens that are in no row."""
    padded: int = 0

    def __post_init__(self) -> None:
        counts = {"offset": self.offset, "rows": self.rows, "dropped": self.dropped, "padded": self.padded}
        for name, value in [*counts.items(), *(("place", number) for number in self.place)]:
            if value < 0:
                raise ValueError(f"{name} of a data position must not be negative: {value}")


@dataclass(frozen=True)
class DataIdentity:
    """What determines the rows of a stream and their order. A position is only valid in the same stream."""

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
    """A row position and the identity of its stream."""

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
