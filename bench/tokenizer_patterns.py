"""Split-pattern presets compared by script: bytes per token on held-out text of each language.

    python bench/tokenizer_patterns.py --text FOLDER --vocab-size 16384

FOLDER holds one folder (or one .txt file) per language. For every preset, one tokenizer is trained on all languages,
with the same number of bytes of each, and measured on a held-out twentieth of the files (of the lines for a .txt).
"""

import argparse
from pathlib import Path

from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.patterns import SPLIT_PATTERNS

HELD_OUT = 20


def documents(place: Path) -> list[str]:
    if place.is_dir():
        return [path.read_text("utf-8", "replace") for path in sorted(place.rglob("*")) if path.is_file()]
    return place.read_text("utf-8", "replace").splitlines(keepends=True)


def share(texts: list[str], size: int) -> list[str]:
    """The first texts, of at most `size` bytes in total."""
    taken = []
    for text in texts:
        size -= len(text.encode())
        if size < 0:
            break
        taken.append(text)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=16_384)
    arguments = parser.parse_args()

    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    for place in sorted(arguments.text.iterdir()):
        texts = documents(place)
        train[place.stem] = [text for i, text in enumerate(texts) if i % HELD_OUT]
        held_out[place.stem] = texts[::HELD_OUT]
    size = min(sum(len(text.encode()) for text in texts) for texts in train.values())
    together = [text for texts in train.values() for text in share(texts, size)]

    print(f"{size / 1e6:.2f} MB of each language, {arguments.vocab_size} tokens; bytes per token")
    print(f"{'':12s}" + "".join(f"{name:>9s}" for name in SPLIT_PATTERNS))
    tokenizers = [
        train_tokenizer(together, arguments.vocab_size, pattern=name, max_chars=10**9, doc_cap=10**9)
        for name in SPLIT_PATTERNS
    ]
    for language, texts in held_out.items():
        total = sum(len(text.encode()) for text in texts)
        counts = [sum(map(len, tokenizer.encode_batch(texts))) for tokenizer in tokenizers]
        print(f"{language:12s}" + "".join(f"{total / count:9.3f}" for count in counts))


if __name__ == "__main__":
    main()
