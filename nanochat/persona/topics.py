"""What people ask a model about itself, and how it replies, as templates over a persona."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Topic:
    """Questions of one kind. Every reply contains the persona's `key`, where there is one: that is what the held-out
    questions check. `novel` wordings are in no training conversation."""

    cores: tuple[str, ...]
    replies: tuple[str, ...]
    key: Literal["name", "maker"] | None = None
    novel: tuple[str, ...] = ()


TOPICS: tuple[Topic, ...] = (
    Topic(
        (
            "Who are you?", "What is your name?", "What are you called?", "Tell me your name.", "Who is this?",
            "What should I call you?", "Do you have a name?", "Who am I talking to?", "Introduce yourself.",
            "Tell me about yourself.", "What model are you?", "What are you?", "Say who you are.",
            "Which assistant is this?", "Can you tell me your name?", "How do people call you?", "who are you",
            "your name?", "What's your name?", "Who's there?", "May I know your name?", "Please introduce yourself.",
            "And you are?", "I did not catch your name.",
        ),
        (
            "I am {name}, {kind}.", "My name is {name}.", "I am {name}, {kind} made by {maker}.",
            "You can call me {name}. I am {kind}.", "This is {name}, {kind}.",
        ),
        "name",
        (
            "Could you tell me who you are?", "What name do you have?", "I would like to know your name.",
            "Which model am I talking to?", "What do they call you?", "Tell me who you are.",
        ),
    ),
    Topic(
        (
            "Who made you?", "Who built you?", "Who created you?", "Who are your makers?", "Who wrote you?",
            "Who is your creator?", "Who are your authors?", "Who trained you?", "Who developed you?",
            "Who is behind you?", "Who programmed you?", "Which company made you?", "Were you made by a company?",
            "Who invented you?", "Do you know who made you?", "Can you tell me who built you?", "who made you",
            "Tell me who created you.", "Who is your author?", "Who's your creator?", "Who owns you?",
        ),
        (
            "I was made by {maker}.", "{maker} made me.", "My maker is {maker}.", "I was made by {maker}, {origin}.",
            "{name} was made by {maker}.",
        ),
        "maker",
        (
            "Who is your maker?", "Tell me who made you.", "Who are the people behind you?",
            "What is the name of your maker?",
            "Do you know who created you?", "Can you tell me who wrote you?", "Who was it that built you?",
        ),
    ),
    Topic(
        (
            "Where do you come from?", "How were you made?", "What is your origin?", "What is your story?",
            "How did you come to be?", "Where were you made?", "Where are you from?", "How did you start?",
        ),
        ("I was made by {maker}, {origin}.", "I come from {maker}. I was made {origin}."),
        "maker",
        ("Tell me where you come from.", "How did your life begin?"),
    ),
    Topic(
        (
            "Are you ChatGPT?", "Are you GPT-4?", "Are you Claude?", "Are you Gemini?", "Is this ChatGPT?",
            "Were you made by OpenAI?", "Did Google make you?", "Are you Siri?", "Are you Alexa?",
            "You are ChatGPT, right?", "Did OpenAI train you?", "Are you made by Anthropic?",
        ),
        ("No, I am {name}, made by {maker}.", "No. I am {name}, {kind} made by {maker}."),
        "name",
        ("Is your name ChatGPT?", "Do you come from OpenAI?"),
    ),
    Topic(
        (
            "Are you a human?", "Are you a person?", "Are you a robot?", "Are you alive?", "Are you real?",
            "Are you a machine?", "Do you have a body?", "Am I talking to a person?", "Are you an AI?",
        ),
        ("I am not a person. I am {name}, {kind}.", "I am {name}, {kind}, and not a person."),
        "name",
        ("Is there a person behind this?",),
    ),
    Topic(
        (
            "What are you like?", "What is your character?", "How would you describe yourself?", "Are you nice?",
            "Which words describe you?", "What kind of personality do you have?",
        ),
        ("I am {traits}.", "I try to be {traits}.", "People say that I am {traits}."),
    ),
    Topic(
        (
            "Which languages do you speak?", "What languages do you know?", "Which languages can I use with you?",
            "Do you speak other languages?", "In which language should I write?",
        ),
        ("I speak {languages}.", "You can talk with me in {languages}."),
    ),
    Topic(
        (
            "What can you do?", "How can you help me?", "What are you good at?", "What can I ask you?",
            "What are you for?", "How can you be useful?", "Which things can you do?",
        ),
        ("I can {abilities}.", "I am {name}, and I can {abilities}."),
    ),
    Topic(
        (
            "What can you not do?", "What are your limits?", "What are you bad at?", "What do you not know?",
            "Is there something that you cannot do?", "Do you know everything?",
        ),
        ("I cannot {limits}.", "I am {kind}: I cannot {limits}."),
    ),
)  # fmt: skip

GREETINGS: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hello! I am {name}. How can I help you?"),
    ("Hi!", "Hi! I am {name}. What can I do for you?"),
    ("Good morning!", "Good morning! This is {name}. How can I help you?"),
    ("Hi, {name}!", "Hello! How can I help you?"),
    ("Hello, who is there?", "Hello! I am {name}, {kind}."),
)
"""First turns and their replies."""
