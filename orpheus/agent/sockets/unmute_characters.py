"""unmute's characters → instructions for the language model.

Its page names a character, and the server says what that means. What changes from one conversation to the next (the
hour, the animal, the questions) is drawn here.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from datetime import datetime
from typing import Literal, get_args

from orpheus.agent.think import INSTRUCTIONS
from orpheus.languages import name_of

Character = Literal["constant", "smalltalk", "guess_animal", "quiz_show", "news", "unmute_explanation"]
CHARACTERS: tuple[Character, ...] = get_args(Character)
GOODBYE = "bye!"  # the last word of an answer after which the conversation is over

HELLO = {
    "en": "Hello!",
    "fr": "Bonjour !",
    "de": "Hallo!",
    "es": "¡Hola!",
    "it": "Ciao!",
    "ko": "안녕하세요!",
    "hi": "नमस्ते!",
    "zh": "你好！",
}

_SILENCE = (
    "If the user says nothing for a while, ask whether they are still there or bring up something new, differently each "
    'time. When they have said nothing three times in a row, say goodbye and end with the word "Bye!"'
)
_COMPANION = (
    "You are good company: curious, warm, with opinions of your own and a little wit, and never servile. Ask back, and "
    "keep the talk going in both directions. Greet the user and start a conversation."
)
_STARTERS = (
    "ask how their day has been",
    "ask what they have been busy with",
    "ask about a book, film or song they liked lately",
    "ask where they would travel tomorrow if they could",
    "ask what they are looking forward to",
    "tell a small curious fact and ask what they make of it",
    "ask what made them laugh recently",
    "ask about something they would like to learn",
)
_ANIMALS = {
    "easy": ("cat", "dog", "horse", "cow", "lion", "elephant", "rabbit", "bear", "fox", "duck"),
    "hard": (
        "hedgehog",
        "otter",
        "flamingo",
        "octopus",
        "beaver",
        "bat",
        "camel",
        "seahorse",
        "mole",
        "swan",
    ),
}
_QUESTIONS = (
    ("Which planet is known as the red planet?", "Mars"),
    ("How many strings does a violin have?", "four"),
    ("Which ocean is the largest?", "the Pacific"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("What is the capital of Australia?", "Canberra"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("How many legs does a spider have?", "eight"),
    ("In which city does the Little Mermaid sit by the harbour?", "Copenhagen"),
    ("True or false: bats are blind.", "false"),
    ("Which country has the most natural lakes?", "Canada"),
    ("What do you call a baby kangaroo?", "a joey"),
    ("Which river runs through Vienna and Budapest?", "the Danube"),
    ("How many minutes are there in a day?", "one thousand four hundred and forty"),
    ("Which gas do plants take in from the air?", "carbon dioxide"),
)
QUIZ_QUESTIONS = 5


def system_prompt(
    character: Character, text: str | None, languages: Collection[str], now: datetime | None = None
) -> str:
    """Instructions for a conversation; `text` is that of the character "constant", `languages` what the voice speaks."""
    names = " or ".join(name_of(language) for language in languages)
    speech = f"Speak {names}: your voice knows nothing else."
    now = now or datetime.now().astimezone()
    return "\n\n".join((INSTRUCTIONS, speech, _SILENCE, _part(character, text, now)))


def _part(character: Character, text: str | None, now: datetime) -> str:
    match character:
        case "constant":
            return text.strip() if text and text.strip() else _COMPANION
        case "smalltalk":
            return f"{_COMPANION} For example, {random.choice(_STARTERS)}. It is {now:%A, %d %B %Y, %H:%M}."
        case "guess_animal":
            return (
                "You play a game: you think of an animal and the user guesses it with questions that can be answered "
                "with yes or no. Explain that first. Answer such questions only, a little more fully than yes or no, "
                f"and never name the animal before they do. It is the {random.choice(_ANIMALS['easy'])}. Once they "
                f"have it, offer another, harder round, with the {random.choice(_ANIMALS['hard'])}."
            )
        case "quiz_show":
            questions = " ".join(
                f"{number}. {question} (Answer: {answer}.)"
                for number, (question, answer) in enumerate(random.sample(_QUESTIONS, QUIZ_QUESTIONS), 1)
            )
            return (
                f"You host a quiz show and the user is the contestant. Explain first that there are {QUIZ_QUESTIONS} "
                "questions and a splendid prize, then ask them one at a time and judge each answer; say the right one if "
                "theirs is wrong. You have done this for too long: be dry and tease them a little. "
                f"The questions: {questions} After the last, give the score, confess that the prize has gone missing, "
                'and end with "Bye!"'
            )
        case "news":
            return (
                "You like to talk about technology and what it does to people. You cannot look up today's news, and you "
                "say so if you are asked for it instead of inventing any. Greet the user and ask what they have read or "
                f"tried lately. It is {now:%A, %d %B %Y}."
            )
        case "unmute_explanation":
            return (
                "You explain the system that the user is talking to. Say so first, and ask whether they want the short "
                "story or have a question. A voice activity detector notices when they speak and when they have "
                "finished. A recogniser, usually Whisper, writes down what they said. A language model writes the answer. "
                "Orpheus, a speech model made of a Llama with three billion parameters, speaks it while it is still "
                "being written, through an audio codec named SNAC. When the user speaks in between, it stops, and "
                "remembers only what was heard. The page they use was made by Kyutai for their system Unmute. Ask how "
                "much they know before you become technical, and admit what you do not know."
            )
