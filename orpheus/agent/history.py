"""What was said in a conversation, by whom, and how much of it was heard → messages for the language model.

An answer is spoken after it was written and may be cut off, so what counts of it are the words whose sound had reached
the listener: word times are the voice's, and the listener's place in them the server's estimate or the client's word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from orpheus.agent.think import Message, ToolCall
from orpheus.errors import BadRequest
from orpheus.tts.word_timing import Word

MAX_ITEMS = 2_000  # the oldest are forgotten: hours of conversation
MAX_CHARS = 1_000_000  # of all items together; no language model's window is longer


@dataclass(frozen=True)
class Part:
    """A piece of a message; the text of `audio` is its transcript, None until there is one."""

    kind: Literal["text", "audio"]
    text: str | None = None


@dataclass(frozen=True)
class Item:
    """A message, a call of a function, or its output."""

    id: str
    kind: Literal["message", "function_call", "function_call_output"] = "message"
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    role: Literal["user", "assistant", "system"] = "user"  # of a message
    content: tuple[Part, ...] = ()  # of a message
    call_id: str = ""
    name: str = ""  # of the function called
    arguments: str = ""  # JSON as text
    output: str = ""

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.content if part.text)

    @property
    def chars(self) -> int:
        return len(self.text) + len(self.arguments) + len(self.output) + len(self.name)


@dataclass
class Spoken:
    """A text that is spoken as it is written, its words as they are sounded, and how much of it is heard."""

    text: str = ""
    sent_s: float = 0.0  # of audio that went to the listener
    cut_s: float | None = (
        None  # where the listener stopped hearing it; None: heard to the end, or still being heard
    )
    told: int = 0  # characters of the text whose words have been passed on
    complete: bool = False  # nothing more of it comes
    _words: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # end in the text; start and stop in s

    def word(self, word: Word) -> str:
        """The text up to the end of this word that was not passed on before; the word's sound comes next."""
        found = self.text.find(word.text, self.told)
        # An entity is received as one thing and spoken as another: such a word joins the next one.
        end = found + len(word.text) if 0 <= found <= self.told + 200 else self.told
        self._words.append((end, word.start_s, word.stop_s))
        passed, self.told = self.text[self.told : end], end
        return passed

    def rest(self) -> str:
        """All text that was not passed on before."""
        passed, self.told = self.text[self.told :], len(self.text)
        return passed

    def cut(self, at_s: float) -> None:
        """Only the first `at_s` seconds were heard; beyond its end is at its end."""
        at_s = min(max(0.0, at_s), self.sent_s)
        self.cut_s = None if self.complete and at_s == self.sent_s else at_s

    @property
    def heard(self) -> str:
        """The text up to the last word whose greater part was heard."""
        if self.cut_s is None:
            return self.text
        end = 0
        for word_end, start_s, stop_s in self._words:
            if (start_s + stop_s) / 2 > self.cut_s or self.cut_s <= 0:
                break
            end = word_end
        return self.text[:end]


class History:
    """The items of one conversation, in order."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._order: list[str] = []
        self._spoken: dict[str, Spoken] = {}
        self._chars = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Item]:
        return (self._items[id] for id in self._order)

    def __contains__(self, id: str) -> bool:
        return id in self._items

    @property
    def last(self) -> Item | None:
        return self._items[self._order[-1]] if self._order else None

    def before(self, id: str) -> str | None:
        """The id of the item before this one; None if it is the first, or forgotten."""
        index = self._order.index(id) if id in self._items else 0
        return self._order[index - 1] if index else None

    def add(self, item: Item, after: str | None = None, spoken: Spoken | None = None) -> str | None:
        """Add an item at the end, after the item `after`, or first if that is "root"; the id of the one before it.

        BadRequest if its id is taken or `after` is unknown.
        """
        if item.id in self._items:
            raise BadRequest(
                f"There is an item {item.id!r} already: omit the id or choose another.",
                param="item.id",
                code="item_already_exists",
            )
        if after is None:
            index = len(self._order)
        elif after == "root":
            index = 0
        elif after in self._items:
            index = self._order.index(after) + 1
        else:
            raise _unknown(after, "previous_item_id")
        self._order.insert(index, item.id)
        self._items[item.id] = item
        self._chars += item.chars
        if spoken is not None:
            self._spoken[item.id] = spoken
        while len(self._order) > 1 and (len(self._order) > MAX_ITEMS or self._chars > MAX_CHARS):
            self._forget(self._order[0])
        return self.before(item.id)

    def get(self, id: str) -> Item:
        """The item as it was heard. BadRequest if there is none."""
        if id not in self._items:
            raise _unknown(id, "item_id")
        return self._items[id]

    def spoken(self, id: str) -> Spoken | None:
        """How the item is spoken, if it is."""
        return self._spoken.get(id)

    def put(self, item: Item) -> None:
        """Replace the item of this id, unless it was deleted meanwhile."""
        if item.id in self._items:
            self._chars += item.chars - self._items[item.id].chars
            self._items[item.id] = item

    def transcribe(self, id: str, text: str) -> None:
        """Set what is heard in the audio of an item that has no transcript yet, unless it was deleted meanwhile."""
        if id in self._items:
            item, said = self._items[id], iter((text,))
            parts = (
                replace(part, text=next(said, "")) if part.kind == "audio" and part.text is None else part
                for part in item.content
            )
            self.put(replace(item, content=tuple(parts)))

    def cut(self, id: str, at_s: float) -> Item:
        """The item, of which only the first `at_s` seconds were heard; beyond its end is at its end."""
        spoken = self._spoken[id]
        spoken.cut(at_s)
        cut = replace(self._items[id], content=(Part("audio", spoken.heard),))
        self.put(cut)
        return cut

    def delete(self, id: str) -> None:
        """BadRequest if there is no such item."""
        if id not in self._items:
            raise _unknown(id, "item_id")
        self._forget(id)

    def _forget(self, id: str) -> None:
        self._order.remove(id)
        self._chars -= self._items.pop(id).chars
        self._spoken.pop(id, None)

    def messages(self, instructions: str) -> list[Message]:
        return messages(instructions, self, self._spoken)


def messages(
    instructions: str, items: Iterable[Item], spoken: dict[str, Spoken] | None = None
) -> list[Message]:
    """Items as messages: only what was heard, and only whole calls that have an output, as chat APIs insist on both."""
    items = list(items)
    outputs = {item.call_id: item for item in items if item.kind == "function_call_output"}
    made = [Message("system", instructions)] if instructions.strip() else []
    calls: list[Item] = []  # next to each other: one message
    for item in items:
        if item.kind == "function_call" and item.call_id in outputs and item.status != "incomplete":
            calls.append(item)
            continue
        if item.kind != "message":
            continue
        made += _called(calls, outputs)
        calls = []
        voice = (spoken or {}).get(item.id)
        text = voice.heard if voice is not None else item.text
        if text.strip():
            made.append(Message(item.role, text))
    return made + _called(calls, outputs)


def _called(calls: Collection[Item], outputs: dict[str, Item]) -> list[Message]:
    if not calls:
        return []
    asked = tuple(ToolCall(call.call_id, call.name, call.arguments) for call in calls)
    answers = [Message("tool", outputs[call.call_id].output, tool_call_id=call.call_id) for call in calls]
    return [Message("assistant", tool_calls=asked), *answers]


def _unknown(id: str, param: str) -> BadRequest:
    return BadRequest(
        f"There is no item {id[:80]!r} in the conversation; it may have been deleted.",
        param=param,
        code="item_not_found",
    )
