from __future__ import annotations

import pytest

from orpheus.agent import history
from orpheus.agent.history import History, Item, Part
from orpheus.agent.think import Message


def said(id: str, text: str = "Hi.") -> Item:
    return Item(id, content=(Part("text", text),))


def test_the_oldest_items_are_forgotten_and_a_new_one_still_has_the_right_one_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_ITEMS", 3)
    items = History()
    assert [items.add(said(id)) for id in "abcde"] == [None, "a", "b", "c", "d"]
    assert [item.id for item in items] == ["c", "d", "e"]
    assert items.before("c") is None
    assert items.before("b") is None  # forgotten
    assert items.add(said("f"), after="c") is None  # c is forgotten for it
    assert [item.id for item in items] == ["f", "d", "e"]


def test_long_items_push_out_as_many_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_CHARS", 10)
    items = History()
    for id in "abc":
        items.add(said(id, "1234"))
    assert [item.id for item in items] == ["b", "c"]
    assert items.add(said("d", "more than ten")) is None
    assert [item.id for item in items] == ["d"]
    items.delete("d")
    assert items.last is None


def test_a_transcript_goes_where_there_is_none_and_text_beside_it_stays() -> None:
    items = History()
    parts = (Part("text", "Look."), Part("audio", "given"), Part("audio"), Part("audio"))
    items.add(Item("a", content=parts))
    items.transcribe("a", "What is it?")
    items.transcribe("deleted", "Nothing.")
    assert [part.text for part in items.get("a").content] == ["Look.", "given", "What is it?", ""]
    assert items.messages("") == [Message("user", "Look. given What is it?")]
