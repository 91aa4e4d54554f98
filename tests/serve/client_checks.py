"""What real clients do with a server: `python client_checks.py NAME URL MODEL`, each in an environment that has it."""

from __future__ import annotations

import sys
from typing import Any

QUESTION: Any = [{"role": "user", "content": "hi"}]


def check_openai(url: str, model: str) -> None:
    """The official package: chat, streaming, models, errors, and a stream that is closed early."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    assert model in [card.id for card in client.models.list()]
    assert client.models.retrieve(model).owned_by == "nanochat"
    sampling: Any = {"model": model, "messages": QUESTION, "seed": 3, "max_tokens": 12}
    whole = client.chat.completions.create(**sampling, n=2, logprobs=True, top_logprobs=2)
    assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].logprob <= 0
    pieces = client.chat.completions.create(**sampling, stream=True, stream_options={"include_usage": True})
    text, usage = "", None
    for piece in pieces:
        text += "".join(choice.delta.content or "" for choice in piece.choices)
        usage = piece.usage or usage
    assert text == whole.choices[0].message.content
    assert usage is not None
    assert usage.completion_tokens == 12
    stop = text[6:8]  # the package's own reader of streams refuses answers that were cut off
    with client.chat.completions.stream(**sampling, stop=stop) as stream:
        assert stream.get_final_completion().choices[0].message.content == text[: text.index(stop)]
    assert client.completions.create(model=model, prompt="ab", max_tokens=3).choices[0].text
    for fields, error, code in (
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": -1}, openai.BadRequestError, None),
        (
            {"messages": [{"role": "user", "content": "x" * 5000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ):
        assert refusal(client, {**sampling, **fields}, error).code == code
    early = client.chat.completions.create(**{**sampling, "max_tokens": 400}, stream=True)
    next(iter(early))
    early.close()
    client.close()


def refusal(client: Any, fields: dict[str, Any], error: type[Exception]) -> Any:
    """The error that a request is answered with."""
    try:
        client.chat.completions.create(**fields)
    except error as refused:
        return refused
    raise AssertionError(f"{fields} was accepted")


def check_langchain(url: str, model: str) -> None:
    """LangChain's ChatOpenAI: invoke, stream, usage."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=url, api_key="none", model=model, seed=3, max_tokens=12, max_retries=0)
    whole = chat.invoke([("system", "be brief"), ("user", "hi")])
    assert whole.usage_metadata["output_tokens"] == 12
    pieces = list(chat.stream([("system", "be brief"), ("user", "hi")]))
    assert len(pieces) > 2
    assert "".join(piece.content for piece in pieces) == whole.content


def check_llama_index(url: str, model: str) -> None:
    """LlamaIndex's OpenAILike: chat, stream, text completion."""
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    options: Any = {"api_base": url, "api_key": "none", "model": model, "max_tokens": 12, "max_retries": 0}
    chat = OpenAILike(**options, is_chat_model=True, additional_kwargs={"seed": 3})
    question = [ChatMessage(role="user", content="hi")]
    whole = chat.chat(question).message.content
    assert whole
    pieces = [piece.delta or "" for piece in chat.stream_chat(question)]
    assert "".join(pieces) == whole
    text = OpenAILike(**options, is_chat_model=False, additional_kwargs={"seed": 3})
    assert text.complete("ab").text


CHECKS = {"openai": check_openai, "langchain": check_langchain, "llama-index": check_llama_index}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](f"{sys.argv[2]}/v1", sys.argv[3])
