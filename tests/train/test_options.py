"""Every stage of training has the flags that it reads, and no others."""

import pytest

from nanochat.cli.main import parse_command

SHAPED = ("--compile=off", "--fp8")
OF_TEXT = ("--eval-bytes=7", "--sample-every=3")


@pytest.mark.parametrize(
    ("verb", "has", "lacks"),
    [
        ("pretrain", (*SHAPED, *OF_TEXT), ()),
        ("sft", SHAPED, OF_TEXT),
        ("rl", (), (*SHAPED, *OF_TEXT)),
        ("dpo", (), (*SHAPED, *OF_TEXT)),
    ],
)
def test_a_stage_has_only_flags_that_it_reads(
    verb: str, has: tuple[str, ...], lacks: tuple[str, ...]
) -> None:
    parse_command([verb, *has])
    for flag in lacks:
        with pytest.raises(ValueError, match=f"Unrecognized options: {flag}"):
            parse_command([verb, flag])
