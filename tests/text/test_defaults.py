"""Which dataset and tokenizer a stage takes when no flag says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import (
    TokenizedText,
    find_tokenizer,
    tokenizer_folder,
    tokenizer_sizes,
)
from nanochat.text.datasets import HUB_DATASETS, TextSource, dataset_key, default_dataset
from nanochat.text.own_files import absolute, unique_name
from nanochat.text.shards import shard_name, write_shard
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.vocabulary import VOCAB_SIZES, TokenizerTrainConfig
from nanochat.train.vocabulary import run as train


def download(name: str, paths: Paths) -> None:
    for index in (0, HUB_DATASETS[name].val_index):
        write_shard(paths.data(name) / shard_name(index), [f"text of {name}, shard {index}"] * 3)


def other_tokenizer(vocab_size: int, dataset: str | None = None) -> Tokenizer:
    text = [f"{a}{b} " for a in "abcdefghijkl" for b in "mnopqrstuvw"] * 2
    return train_tokenizer(text, vocab_size, max_chars=10**5, dataset=dataset)


class TestDataset:
    def test_a_downloaded_one_in_the_order_of_the_table_else_builtin(self, paths: Paths) -> None:
        assert default_dataset(paths)[0] == "builtin"
        download("climbmix", paths)
        assert default_dataset(paths)[0] == "climbmix"
        download("fineweb-edu", paths)
        assert default_dataset(paths)[0] == "fineweb-edu"

    def test_a_first_shard_without_validation_is_not_enough(self, paths: Paths) -> None:
        write_shard(paths.data("climbmix") / shard_name(0), ["text"])
        assert default_dataset(paths)[0] == "builtin"

    def test_the_choice_and_its_reason_are_printed(self, paths: Paths, capsys) -> None:
        assert TextSource().settled(paths).dataset == "builtin"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("dataset builtin: no dataset has been downloaded")
        TextSource("builtin:medium").settled(paths)
        assert capsys.readouterr().err == "", "a typed dataset needs no line"

    @pytest.mark.parametrize(
        ("dataset", "flags", "line"),
        [
            ("builtin", {"val_fraction": 1.5}, "--val-fraction must lie between 0 and 1, not 1.5"),
            (
                "climbmix",
                {"val_fraction": 0.1},
                "--val-fraction is for your own files: leave it out for climbmix",
            ),
            ("builtin", {"need_shards": -1}, "--need-shards must be at least 1, not -1"),
        ],
    )
    def test_flags_that_mean_nothing_are_refused(
        self, paths: Paths, dataset: str, flags: dict[str, Any], line: str
    ) -> None:
        with pytest.raises(ValueError, match=line):
            TextSource(dataset, **flags).settled(paths)

    def test_shards_of_another_dataset_have_no_effect_and_it_says_so(self, paths: Paths, capsys) -> None:
        assert TextSource("builtin", need_shards=3).settled(paths).dataset == "builtin"
        line = "--need-shards is for hub datasets: it has no effect on builtin"
        assert line in capsys.readouterr().err

    def test_an_unknown_name_is_refused(self, paths: Paths) -> None:
        with pytest.raises(ValueError, match=r"unknown dataset 'no-such'.*builtin, fineweb-edu"):
            TextSource("no-such").settled(paths)


class TestAbsolutePaths:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> Path:
        for name in ("one", "two", "texts[1]"):
            (tmp_path / name).mkdir()
        (tmp_path / "texts[1]" / "a.txt").write_text("a")
        (tmp_path / "texts[1]" / "b.txt").write_text("b")
        return tmp_path

    @pytest.mark.parametrize("spec", ["../texts[1]", "../texts[1]/a.txt", "../texts?1?/*.txt"])
    def test_the_same_from_every_folder(
        self, folders: Path, spec: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []
        for name in ("one", "two"):
            monkeypatch.chdir(folders / name)
            found.append((absolute(spec), unique_name(spec)))
        assert found[0] == found[1]
        assert ".." not in found[0][0]

    def test_a_pattern_below_a_folder_whose_name_looks_like_one(
        self, folders: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folders / "texts[1]")
        source = replace(TextSource("*.txt"), val_path="b.txt").settled(paths)
        monkeypatch.chdir(folders)
        dataset = source.open(paths)
        assert [path.name for path in (*dataset.train, *dataset.val)] == ["a.txt", "b.txt"]

    def test_names_stay(self, paths: Paths) -> None:
        for name in ("builtin:small:3", "fineweb-edu"):
            assert TextSource(name).settled(paths).dataset == name

    def test_datasets_of_one_name_have_different_keys(self, folders: Path) -> None:
        for name in ("one", "two"):
            (folders / name / "text.txt").write_text("x")
        keys = [dataset_key(str(folders / name / "text.txt")) for name in ("one", "two")]
        assert keys[0] != keys[1]
        assert all(key.startswith("text-") for key in keys)


class TestTokenizer:
    def test_two_datasets_of_one_size_keep_their_own(self, paths: Paths) -> None:
        for dataset in ("builtin", "climbmix", "fineweb-edu"):
            other_tokenizer(300, dataset_key(dataset)).save(tokenizer_folder(dataset, paths))
        found = [find_tokenizer(dataset, paths) for dataset in ("builtin", "climbmix", "fineweb-edu")]
        assert len(set(found)) == 3
        assert found[2] == paths.base / "tokenizers" / "tok300.tiktoken", "the place that the overview names"
        assert found[0] == paths.base / "tokenizers" / "builtin-small-s0" / "tok300.tiktoken"

    def test_a_choice_may_be_a_dataset_of_one_file(self, paths: Paths, tmp_path: Path) -> None:
        file = tmp_path / "my.txt"
        file.write_text("text")
        with pytest.raises(ValueError, match=r"my.txt has no tokenizer"):
            find_tokenizer("builtin", paths, choice=str(file))
        assert find_tokenizer("builtin", paths, choice="own.tiktoken").name == "own.tiktoken"

    def test_several_sizes_ask_for_a_choice(self, paths: Paths) -> None:
        for size in (300, 280):
            other_tokenizer(size).save(tokenizer_folder("builtin", paths))
        assert tokenizer_sizes("builtin", paths) == [280, 300]
        assert find_tokenizer("builtin", paths, vocab_size=280).name == "tok280.tiktoken"
        with pytest.raises(ValueError, match="tokenizers of 280 or 300 tokens: choose one with --vocab-size"):
            find_tokenizer("builtin", paths)

    @pytest.mark.parametrize(
        ("vocab_size", "words"),
        [
            (None, "no tokenizer: train one with `nanochat tokenizer train --dataset builtin`"),
            (999, "no tokenizer of 999 tokens: .*train --dataset builtin --vocab-size 999`"),
        ],
    )
    def test_none_says_how_to_train_one(self, paths: Paths, vocab_size: int | None, words: str) -> None:
        other_tokenizer(300).save(tokenizer_folder("climbmix", paths))
        with pytest.raises(ValueError, match=words):
            find_tokenizer("builtin", paths, vocab_size=vocab_size)

    def test_one_of_another_dataset_or_a_file_is_taken_by_name(self, paths: Paths, tmp_path: Path) -> None:
        saved = other_tokenizer(300).save(tokenizer_folder("climbmix", paths))
        assert find_tokenizer("builtin", paths, choice="climbmix") == saved
        assert find_tokenizer("builtin", paths, choice=str(saved)) == saved
        with pytest.raises(ValueError, match="has 300 tokens, not --vocab-size 280"):
            TokenizedText("builtin", tokenizer=str(saved), vocab_size=280).find_tokenizer(paths)

    def test_one_of_the_old_layout_needs_its_size(self, paths: Paths) -> None:
        saved = other_tokenizer(300).save(paths.tokenizers)
        about = json.loads(saved.with_suffix(".json").read_text())
        del about["training"]["dataset"]  # older versions wrote none
        saved.with_suffix(".json").write_text(json.dumps(about))
        for dataset in ("builtin", "fineweb-edu"):
            assert find_tokenizer(dataset, paths, vocab_size=300) == saved
            with pytest.raises(ValueError, match="earlier one with --vocab-size 300"):
                find_tokenizer(dataset, paths)

    def test_the_first_hub_datasets_is_nobody_elses(self, paths: Paths) -> None:
        other_tokenizer(300, "fineweb-edu").save(tokenizer_folder("fineweb-edu", paths))
        with pytest.raises(ValueError, match="climbmix has no tokenizer of 300"):
            find_tokenizer("climbmix", paths, vocab_size=300)


class TestVocabulary:
    @pytest.mark.slow
    def test_builtin_has_its_own_default(self, paths: Paths) -> None:
        result = train(TokenizerTrainConfig(), paths)
        assert result.vocab_size == VOCAB_SIZES["builtin"]
        assert find_tokenizer("builtin:small", paths) == result.path

    def test_small_text_gives_what_it_has_but_an_explicit_size_is_kept(self, paths: Paths, capsys) -> None:
        download("fineweb-edu", paths)
        result = train(TokenizerTrainConfig(), paths)
        assert 265 < result.vocab_size < 400
        assert "fewer than the default of 32,768" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(ValueError, match=f"--vocab-size {result.vocab_size} or less"):
            train(TokenizerTrainConfig(vocab_size=result.vocab_size + 1), paths)
        with pytest.raises(ValueError, match="too small"):
            train(TokenizerTrainConfig(vocab_size=0), paths)
