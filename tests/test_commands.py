"""Every command of ours in documents, scripts and container files exists and has valid flags; none is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from nanochat.cli.main import parse_command
from nanochat.cli.verbs import GROUPS, VERBS

pytestmark = pytest.mark.slow  # some hundred command lines, at some milliseconds each

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SCRIPTS = sorted([*ROOT.glob("runs/*.sh"), *ROOT.glob("runs/*.slurm")])
SKYPILOT = ROOT / "runs" / "skypilot.yaml"
DOCKERFILE = ROOT / "Dockerfile"

Words = list[str]


def _simple_commands(script: str) -> Iterator[Words]:
    """The words of every simple command of a shell script, without assignments before it."""
    script = re.sub(r"(?m)(^|\s)#.*$", "", script.replace("\\\n", " ").replace("…", ""))
    script = re.sub(r"\$\{[^}]*\}|\$\w+", "1", script.replace('"$@"', ""))  # what variables hold is unknown
    lexer = shlex.shlex(script, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: Words = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&\n"):
            yield words
            words = []
        elif words or not re.match(r"\w+=", word):
            words.append(word)


def _after_options(words: Words) -> Words:
    """Without leading options, which have their values after a `=`."""
    return words[next((at for at, word in enumerate(words) if not word.startswith("-")), len(words)) :]


def _in_a_container(words: Words) -> Iterator[Words]:
    if words[0] == "run":  # the image's name is its program's
        yield words[words.index("nanochat") :]


def _in_bash(words: Words) -> Iterator[Words]:
    if words[0] == "-c":
        yield from _simple_commands(words[1])
    else:
        yield ["script", words[0]]


def _in_a_job(words: Words) -> Iterator[Words]:
    if "bash" in words:
        yield words[words.index("bash") :]


def _in_slurm(words: Words) -> Iterator[Words]:
    script, *arguments = _after_options(words)
    yield ["script", script]
    if arguments:
        yield ["nanochat", *arguments]


def _under_torchrun(words: Words) -> Iterator[Words]:
    try:
        parsed = get_args_parser().parse_args(words)
    except SystemExit:
        raise ValueError(f"torchrun {shlex.join(words)}: wrong options") from None
    yield [parsed.training_script, *parsed.training_script_args]


WRAPPERS: dict[str, Callable[[Words], Iterator[Words]]] = {
    "bash": _in_bash,
    "docker": _in_a_container,
    "exec": lambda words: iter([words]),
    "hf": _in_a_job,
    "nice": lambda words: iter([_after_options(words)]),
    "python": lambda words: iter([words[1:]] if words[:1] == ["-m"] else []),
    "sbatch": _in_slurm,
    "set": lambda words: iter([["nanochat", *words[1:]]] if words[0] == "--" else []),
    "sky": lambda words: iter([["script", word] for word in words if word.startswith("runs/")]),
    "srun": lambda words: iter([_after_options(words)]),
    "torchrun": _under_torchrun,
}


def faults(script: str) -> list[str]:
    """What is wrong with the commands of ours in a shell script."""
    return [fault for words in _simple_commands(script) for fault in _faults(words)]


def _faults(words: Words) -> Iterator[str]:
    if not words:
        return
    program, arguments = words[0].rsplit("/")[-1], words[1:]
    if program == "script":
        if arguments[0].startswith("runs/") and not (ROOT / arguments[0]).is_file():
            yield f"{arguments[0]} does not exist"
    elif program == "nanochat":
        yield from _faults_of_ours(arguments)
    elif program in WRAPPERS and arguments:
        try:
            for inner in WRAPPERS[program](arguments):
                yield from _faults(inner)
        except ValueError as error:
            yield str(error)


def _faults_of_ours(words: Words) -> Iterator[str]:
    if words[:1] in ([], ["--help"], ["VERB"]) or (words[0] in GROUPS and len(words) == 1):
        return
    if not any(tuple(words[:n]) in VERBS for n in (1, 2)):
        yield f"nanochat {shlex.join(words)}: no such verb"
        return
    try:
        parse_command([word for word in words if word not in ("--json", "--help")])
    except ValueError as error:
        yield f"nanochat {shlex.join(words)}: {error}"


# ---- where commands stand


def _in_document(text: str) -> str:
    """The shell blocks of a document."""
    return "\n".join(re.findall(r"^ *```bash\n(.*?)```", text, re.MULTILINE | re.DOTALL))


def _in_comments(text: str) -> str:
    """The commands that a file's first comment tells to type."""
    return "\n".join(
        re.findall(r"^#\s+(?:[A-Z]+:\s+)?((?:sbatch|srun|sky|docker|bash) .*)$", text, re.MULTILINE)
    )


def _of_sky(text: str) -> str:
    task = yaml.safe_load(text)
    return f"{task['setup']}\n{task['run']}"


def _of_the_container(text: str) -> str:
    (entry,), (command,) = (
        [json.loads(line) for line in re.findall(rf"^{word} (\[.*\])$", text, re.MULTILINE)]
        for word in ("ENTRYPOINT", "CMD")
    )
    return shlex.join([*entry, *command])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents(document: Path) -> None:
    assert faults(_in_document(document.read_text())) == []


def test_what_the_page_on_places_quotes() -> None:
    text = (ROOT / "docs" / "where-to-run.md").read_text()
    quoted = re.findall(r"`((?:nanochat|bash|docker|sky)\s[^`]*)`", text.replace("```", ""))
    assert len(quoted) > 5
    assert faults("\n".join(" ".join(command.split()) for command in quoted)) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts(script: Path) -> None:
    text = script.read_text()
    assert faults(text) == []
    assert faults(_in_comments(text)) == []


def test_skypilot() -> None:
    text = SKYPILOT.read_text()
    assert set(yaml.safe_load(text)) <= {"name", "workdir", "resources", "envs", "setup", "run"}
    assert faults(_of_sky(text)) == []
    assert faults(_in_comments(text)) == []


def test_the_container() -> None:
    text = DOCKERFILE.read_text()
    assert faults(_of_the_container(text)) == []
    assert faults(_in_comments(text)) == []


def test_the_container_copies_what_exists_and_is_not_ignored() -> None:
    lines = re.findall(r"^COPY (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {word for line in lines for word in line.split()[:-1]}
    everything, *kept = (ROOT / ".dockerignore").read_text().split()
    assert everything == "*"
    assert copied == {word[1:] for word in kept if word.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize(
    "broken",
    [
        "nanochat pretain",
        "nanochat pretrain --deep 4",
        "cd x && nanochat sft --from-tag",
        "bash runs/nowhere.sh",
        "torchrun --nproc=8 -m nanochat pretrain --dept 4",
        "docker run --rm nanochat server",
        "sbatch --nodes=4 runs/multinode.slurm pretrain --nodes 4",
        "srun --gpus=1 bash runs/set-up.sh",
        "sky launch -c nanochat runs/sky.yaml",
        "hf jobs run --flavor l4x1 python:3.12 bash -c 'x && .venv/bin/nanochat run --quick'",
        "A=1 python -m nanochat evaluate  # all",
    ],
)
def test_a_wrong_command_would_be_found(broken: str) -> None:
    assert faults(broken) != []
