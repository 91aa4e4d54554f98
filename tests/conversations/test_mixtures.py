import json
import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.builtin.holdout import held_out_letter
from nanochat.conversations.formats import fault
from nanochat.conversations.mixtures import absolute_mixture, load_conversations, show_mixture
from nanochat.conversations.sources import open_jsonl
from nanochat.paths import default_paths
from nanochat.tasks.spellingbee import word_list
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import traced


def user(text):
    return {"role": "user", "content": text}


def assistant(content):
    return {"role": "assistant", "content": content}


def chats(n, name="chat"):
    return [{"messages": [user(f"{name} question {i}"), assistant(f"{name} answer {i}")]} for i in range(n)]


def write_jsonl(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8"
    )
    return path


def write_hub(repo, config, split, rows, files=1):
    folder = default_paths().task_data / repo / config / split
    folder.mkdir(parents=True)
    for i in range(files):
        pq.write_table(pa.Table.from_pylist(rows[i::files]), folder / f"{i:04d}.parquet")


@pytest.fixture
def byte_tokenizer():
    return Tokenizer({bytes([i]): i for i in range(256)}, r"\s+|\S+")


def texts(conversations):
    return sorted(json.dumps(conversation) for conversation in conversations)


def test_a_mixture_holds_every_part_as_often_as_it_says(tmp_path):
    one, two = (
        write_jsonl(tmp_path / "one.jsonl", chats(70)),
        write_jsonl(tmp_path / "two.jsonl", chats(5, "b")),
    )
    mixture = load_conversations(f"{one}+{two} * 3".replace(" ", ""), default_paths())
    ours = [*open_jsonl(one, "train").conversations, *(list(open_jsonl(two, "train").conversations) * 3)]
    assert len(mixture) == len(ours)
    assert texts(mixture) == texts(ours)
    assert [(part.repeats, len(part.conversations)) for part in mixture.parts] == [(1, 68), (3, 4)]


@pytest.mark.parametrize("times", ["0.25", "2.5", "1.0", "0.99"])
def test_a_fraction_is_an_even_share(tmp_path, capsys, times):
    path = write_jsonl(tmp_path / "chats.jsonl", chats(102))
    mixture = load_conversations(f"{path}*{times}", default_paths())
    [part] = mixture.parts
    assert len(mixture) == part.size == round(len(part.conversations) * float(times))
    counts = Counter(texts(mixture))
    assert set(counts.values()) <= {int(float(times)), int(float(times)) + 1}
    places = sorted(int(json.loads(text)["messages"][0]["content"].split()[-1]) for text in set(counts))
    assert places[-1] > 102 * 0.9  # also of the file's end
    show_mixture(mixture)
    shown = capsys.readouterr().err
    assert f"{part.size}" in shown
    assert "100.0%" in shown


@pytest.mark.parametrize("mixture", ["smoltalk*0.00005+identity", "mmlu*3", "builtin*0.5"])
def test_a_mixture_made_absolute_is_the_same(mixture):
    assert absolute_mixture(mixture) == mixture


def test_order_is_a_function_of_the_seed(tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", chats(100))
    orders = [list(load_conversations(str(path), default_paths(), seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert texts(orders[0]) == texts(orders[2])


@pytest.mark.parametrize("repeats", [1, 7, 500])
def test_the_order_is_numpys_permutation(tmp_path, repeats):
    path = write_jsonl(tmp_path / "chats.jsonl", chats(10))
    mixture = load_conversations(f"{path}*{repeats}", default_paths(), seed=3)
    [part] = mixture.parts
    order = np.random.default_rng(3).permutation(len(part.conversations) * repeats)
    assert list(mixture) == [part.conversations[place % len(part.conversations)] for place in order]


def test_a_mixture_beyond_the_limit_is_refused_before_it_takes_memory():
    with (
        traced() as most_bytes,
        pytest.raises(ValueError, match=r"holds 1,000,000,000,000 conversations.* the limit is 100,000,000"),
    ):
        load_conversations("identity*1000000000", default_paths())
    assert most_bytes() < 20_000_000


def test_splits_do_not_overlap_and_lose_nothing(tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", chats(100))
    train, val = (load_conversations(str(path), default_paths(), split=split) for split in ("train", "val"))
    assert len(val) == 3
    assert texts([*train, *val]) == texts(chats(100))
    few = write_jsonl(tmp_path / "few.jsonl", chats(4))
    assert len(load_conversations(str(few), default_paths(), split="val")) == 1


def test_indexing_is_that_of_a_sequence(tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", chats(50))
    mixture = load_conversations(str(path), default_paths())
    whole = list(mixture)
    assert len(whole) == len(mixture)
    assert mixture[-1] == whole[-1]
    assert mixture[3:7] == whole[3:7]
    with pytest.raises(IndexError):
        mixture[len(mixture)]
    assert pickle.loads(pickle.dumps(mixture))[5] == whole[5]


def test_faulty_lines_are_dropped_and_counted(tmp_path, capsys):
    good = chats(40)
    bad = [
        {"messages": [user("a"), user("b"), assistant("c")]},
        {"messages": [user("a")]},
        {"messages": [user("a"), assistant(" \n")]},
        {"messages": [user(""), assistant("b")]},
        {"text": "no conversation"},
        {"messages": [user("a"), assistant([{"type": "image", "text": "x"}])]},
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", [*bad, *good])
    with open(path, "a") as file:
        file.write('\n{"messages": [\n' + "[" * 100_000 + "\n")
    mixture = load_conversations(str(path), default_paths())
    [part] = mixture.parts
    assert part.dropped == {
        "roles out of turn": 2,
        "empty message": 2,
        "not a list of messages": 1,
        "content that is not text": 1,
        "malformed line": 2,
    }
    complaint = capsys.readouterr().err
    assert "8 conversations dropped" in complaint
    assert "2 x malformed line (line 48)" in complaint
    assert "1 x not a list of messages (line 5)" in complaint
    assert texts(mixture) == texts(open_jsonl(path, "train").conversations)


def test_a_bare_list_of_messages_is_a_conversation_too(tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [chat["messages"] for chat in chats(3)])
    assert texts(load_conversations(str(path), default_paths())) == texts(chats(2))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("q"), assistant("a")], None),
        ([{"role": "system", "content": "s"}, user("q"), assistant("a"), user("q"), assistant("a")], None),
        (
            [user("q"), assistant([{"type": "python", "text": "1"}, {"type": "python_output", "text": ""}])],
            None,
        ),
        ([], "roles out of turn"),
        ([{"role": "system", "content": "s"}], "roles out of turn"),
        ([assistant("a"), user("q")], "roles out of turn"),
        (
            [user("q"), assistant("a"), {"role": "system", "content": "s"}, assistant("b")],
            "roles out of turn",
        ),
        ([user([{"type": "text", "text": "q"}]), assistant("a")], "content that is not text"),
        ([user("q"), assistant(None)], "content that is not text"),
        ([user("q"), assistant([])], "empty message"),
        ("text", "not a list of messages"),
        ([1], "not a list of messages"),
    ],
)
def test_fault(messages, reason, byte_tokenizer):
    assert fault(messages) == reason
    if reason is None:
        render(byte_tokenizer, {"messages": messages})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builtin", "identity", "spelling", "spellingbee"])
def test_our_own_sources_are_sound_and_learnable(name, byte_tokenizer):
    train = load_conversations(name, default_paths())
    val = load_conversations(name, default_paths(), split="val")
    assert len(train) > len(val) > 0
    for i in range(0, len(train), len(train) // 200):
        assert fault(train[i]["messages"]) is None
        ids, mask = render(byte_tokenizer, train[i])
        assert sum(mask) > 0
        assert len(ids) == len(mask)


def test_spellingbee_counts_by_the_tool_and_holds_pairs_out():
    for split in ("train", "val"):
        conversations = load_conversations("spellingbee", default_paths(), split=split)
        for i in range(200):
            call, output, _ = conversations[i]["messages"][1]["content"]
            word, letter = call["text"][1:].split('".count("')
            assert int(output["text"]) == word.count(letter[:-2])
            assert held_out_letter(word, letter[:-2]) == (split == "val")


def test_the_users_word_list_replaces_ours():
    paths = default_paths()
    assert "garden" in word_list(paths)
    paths.task_data.mkdir(parents=True)
    (paths.task_data / "words_alpha.txt").write_bytes(b"a\r\nzyzzyva\r\nquokka\r\nabcdefghijklmnopq\r\n")
    assert word_list(paths) == ("zyzzyva", "quokka")
    assert '"zyzzyva"' in json.dumps(load_conversations("spelling", paths)[:50]).replace('\\"', '"')


def test_the_users_identity_replaces_ours():
    paths = default_paths()
    ours = load_conversations("identity", paths)
    write_jsonl(paths.identity, chats(64, "me"))
    theirs = load_conversations("identity", paths)
    assert len(ours) == 1000
    assert "nanochat" in json.dumps(ours[:20])
    assert len(theirs) == 62
    assert "me question" in json.dumps(theirs[0])


def test_hub_sources():
    paths = default_paths()
    rows = [{"messages": chat["messages"], "source": "s"} for chat in chats(9)]
    rows.append({"messages": [user("q")], "source": "s"})
    write_hub("HuggingFaceTB/smol-smoltalk", "default", "train", rows, files=2)
    mmlu = {"question": "Which is odd?", "subject": "", "choices": ["2", "3", "4", "8"], "answer": 1}
    write_hub("cais/mmlu", "all", "auxiliary_train", [mmlu])
    gsm = {"question": "6 x 2?", "answer": "She has 6*2=<<6*2=12.0>>12 eggs.\n#### 12"}
    write_hub("openai/gsm8k", "main", "train", [gsm])
    arc = {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]}, "answerKey": "2"}
    write_hub("allenai/ai2_arc", "ARC-Easy", "train", [arc])
    mixture = load_conversations("smoltalk+mmlu*3+gsm8k*4+arc-easy*2", paths)
    assert len(mixture) == 9 + 3 + 4 + 2
    assert mixture.parts[0].dropped == {"roles out of turn": 1}
    assert texts(mixture.parts[0].conversations) == texts(chats(9))
    assert mixture.parts[1].conversations[0]["messages"] == [
        user("Which is odd?\nA. 2\nB. 3\nC. 4\nD. 8\nAnswer with the letter."),
        assistant("B"),
    ]
    assert mixture.parts[3].conversations[0]["messages"] == [
        user("Why?\nA. so\nB. no\nAnswer with the letter."),
        assistant("B"),
    ]
    assert mixture.parts[2].conversations[0]["messages"][1]["content"] == [
        {"type": "text", "text": "She has 6*2="},
        {"type": "python", "text": "6*2"},
        {"type": "python_output", "text": "12"},
        {"type": "text", "text": "12 eggs.\n#### 12"},
    ]


def test_real_hub_data(shared_data, byte_tokenizer):
    paths = default_paths()
    paths.base.mkdir(parents=True)
    paths.task_data.symlink_to(shared_data / "hub")
    mixture = load_conversations("smoltalk+gsm8k", paths)
    assert 8000 < len(mixture) <= 900 + 7473
    for i in range(0, len(mixture), 40):
        ids, mask = render(byte_tokenizer, mixture[i])
        assert 0 < sum(mask) < len(ids)


@pytest.mark.parametrize(
    ("mixture", "line"),
    [
        ("", "cannot read the mixture"),
        ("builtin++mmlu", "cannot read the mixture"),
        ("builtin*0", "cannot read the mixture"),
        ("builtin*0.0", "cannot read the mixture"),
        ("identity*0.0001", "holds no conversation"),
        ("nothing", "unknown conversations 'nothing': choose from builtin, nameless, smoltalk"),
        ("spelling:large", "unknown conversations 'spelling:large'"),
        ("builtin:huge", "unknown size 'huge'"),
        ("missing.jsonl", "no conversations at missing.jsonl"),
    ],
)
def test_mistakes_are_one_clear_line(mixture, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_conversations(mixture, default_paths())
    assert line in str(error.value)


def test_a_file_without_a_conversation_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "notes.jsonl", [{"text": "x"}])
    with pytest.raises(ValueError, match=r"no conversation in .*1 x not a list of messages"):
        load_conversations(str(path), default_paths())


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown split 'test'"):
        load_conversations("builtin", default_paths(), split="test")
