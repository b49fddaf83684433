import sys
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.text.sentences import early_clause_end, ends_sentence, length, split_long, split_sentences


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Dr. Smith paid 3.50 at 5 p.m. to Mr. Jones of Node.js."),
        ("en", "J. K. Rowling went to the U.S. in Jan. 3 of that year."),
        ("en", 'He said, "I am here. You are not." and left.'),
        ("en", "It was late (really. It was.) and dark."),
        ("fr", "M. Dupont et Mme. Hugo, p. ex., sont venus avec le Dr. Ney."),
        ("de", "Lieber Herr Dr. Müller, z. B. am 3. Mai kommen ca. 20 Leute."),
        ("es", "El Sr. López vive aquí con la Dra. Ruiz y Ud. lo sabe."),
        ("it", "Il Sig. Rossi e la Dott.ssa Bianchi con il Prof. Verdi."),
        ("zh", "「行くよ。早く。」と言ったのでみんなで行った。"),
    ],
)
def test_abbreviations_decimals_and_quotes_do_not_end_a_sentence(language: str, text: str) -> None:
    assert list(split_sentences(text, language)) == [text]


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "This is one sentence here. That is the second of them! Or were there three of them?", 3),
        ("zh", "今天天气很好，我们去公园。你觉得怎么样呢？那太好了！", 3),
        ("hi", "यह पहला वाक्य है और लंबा है। यह दूसरा वाक्य है, है ना? हाँ, यह तीसरा वाक्य है।", 3),
        ("es", "Este es el primero de ellos. ¿Y cómo estás tú hoy? ¡Qué bien que has venido!", 3),
    ],
)
def test_sentence_ends_are_found_in_every_script(language: str, text: str, count: int) -> None:
    assert len(list(split_sentences(text, language))) == count


def test_a_sentence_is_not_cut_at_the_edge_of_a_window() -> None:
    text = "This is a sentence of a few words. " * 400
    assert set(split_sentences(text, "en")) == {"This is a sentence of a few words. "}


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("ab .,!?。，我\"'()\u0301कि\ue000"), min_size=1, max_size=300),
    st.sampled_from([20, 50]),
    st.sampled_from(["en", "fr", "zh"]),
)
def test_the_parts_concatenated_are_the_text(text: str, max_chars: int, language: str) -> None:
    assert "".join(split_sentences(text, language)) == text
    parts = list(split_long(text, max_chars, language))
    assert "".join(parts) == text
    assert all(length(part) <= max_chars for part in parts)


def test_a_long_sentence_is_split_at_a_sentence_end_or_else_a_clause_end_or_else_a_space() -> None:
    assert (
        next(split_long("one two three four. five six, seven eight nine", 30, "en")) == "one two three four. "
    )
    assert (
        next(split_long("one two three four, five six seven eight nine", 30, "en")) == "one two three four, "
    )
    assert next(split_long("one two three four five six seven eight nine", 30, "en")).endswith(" ")


def test_splitting_leaves_no_fragment() -> None:
    parts = list(split_long("word " * 30 + "no", 145, "en"))
    assert len(parts) == 2
    assert len(parts[1]) >= 20


def test_splitting_separates_no_letter_from_its_vowel_sign() -> None:
    assert all(not part.startswith("ि") for part in split_long("कि" * 100, 21, "en"))


def test_an_early_clause_is_neither_short_nor_nearly_all_of_the_sentence() -> None:
    assert early_clause_end("Well, when we came home from there, it rained, and we slept.", "en") == len(
        "Well, when we came home from there, "
    )
    assert early_clause_end("Well, yes, no, but he came home at last to us", "en") == 0
    assert early_clause_end("When we had come home from there, ok.", "en") == 0


# Of a sentence over the segment length: what must not be cut after the spaces in it.
TOGETHER = {
    "en": """
        Mr. Smith|Mrs. Smith|Ms. Smith|Dr. Smith|Prof. Smith|Rev. Smith|Gen. Smith|Sen. Smith|Gov. Smith|Capt. Smith
        Lt. Smith|Col. Smith|Sgt. Smith|Cmdr. Riker|Hon. Smith|St. Louis|Mt. Everest|Ft. Worth|Main St. Bridge
        Jan. 5|Feb. 5|Mar. 5|Apr. 5|Jun. 5|Jul. 5|Aug. 5|Sept. 5|Oct. 5|Nov. 5|Dec. 5|Mon. noon|Tue. noon|Wed. noon
        Thu. noon|Fri. noon|Sat. noon|Sun. noon|nine a.m. Monday|nine p.m. Monday|9:30 a.m. Monday|A.M. news
        e.g. apples|i.e. apples|Spain vs. France|etc. and|No. 5|vol. 2|pp. 3|p. 12|fig. 4|ch. 4|Fig. B|No. nine
        Acme Inc. Chicago|Acme Ltd. London|Acme Co. Chicago|Acme Corp. Chicago|Bros. Grimm|King Jr. Day|King Sr. Avenue
        a Ph.D. student|an M.D. degree|U.S. Army|U.K. Parliament|the D.C. area|approx. nine|dept. nine|est. nine
        min. nine|max. nine|tel. 555|ext. 7|Park Ave. Hotel|Sunset Blvd. Hotel|Mill Rd. School|5 ft. nine|9 lb. of|6 oz. of
        2 hr. later|J. R. R. Tolkien|George W. Bush|cf. page|ed. Miller|Univ. Press|et al. wrote|N.Y. Times|P.O. box
        10 000 people|$3,497 and|5 million|3 May 2024|May 3, 2024|9:30 today|(555) 123-4567|3.14 is|5 km|Room 12
    """,
    "fr": "M. Dupont|Mme. Hugo|Mlle. Roux|Dr. Roux|p. ex. Paris|av. Foch|bd. Voltaire|janv. 2024|J.-C. naquit|chap. 3|3 mai",
    "de": """
        3. Mai|2. Platz|19. Jahrhundert|z. B. Hunde|z.B. Hunde|d. h. Hunde|u. a. Hunde|i. d. R. Hunde|Nr. 5|Prof. Dr. Maier
        Hr. Maier|bzw. Maier|usw. und|ca. zwanzig|vgl. Seite|S. 12|Hauptstr. 5|St. Gallen|v. Chr. war|3. 5. 2024|1.500 Leute
    """,
    "es": "Sr. López|Sra. Ruiz|Dña. Ana|D. José|Ud. sabe|EE. UU. hay|pág. 5|p. ej. esto|5 p. m. del|3 de mayo de 2024",
    "it": "Sig. Rossi|Dott. Verdi|Avv. Neri|l'Avv. Neri|pag. 5|per es. qui|ecc. e|5 sett. scorso|S. Marco",
    "hi": "डॉ. शर्मा|श्री. वर्मा|एम. एस. धोनी|रु. 500",
    "ko": "2024. 5. 3. 입니다|Dr. Kim",
}  # fmt: skip
CASES = [
    pytest.param(language, phrase, id=f"{language}-{phrase}")
    for language, phrases in TOGETHER.items()
    for phrase in (phrase.strip() for phrase in phrases.replace("\n", "|").split("|"))
    if phrase
]


@pytest.mark.parametrize(("language", "phrase"), CASES)
def test_no_length_of_segment_cuts_what_belongs_together(language: str, phrase: str) -> None:
    around = "words that go on and on without a stop or a comma "
    text = around + phrase + " " + around
    first = next(index for index, character in enumerate(phrase) if character in ".($" or character.isdigit())
    inside = range(len(around) + first, len(around) + len(phrase))
    for max_chars in range(40, 100):
        cuts = accumulate(map(len, split_long(text, max_chars, language)))
        assert not [text[:cut] for cut in cuts if cut in inside]
    assert list(split_sentences(f"{phrase} {around}", language)) == [f"{phrase} {around}"]


@pytest.mark.parametrize("title", ["Ms.", "Dr.", "Prof.", "Mr. and Mrs.", "Lt. Col."])
def test_a_title_ends_no_sentence_whatever_comes(title: str) -> None:
    for following in ("", " ", " The", " the ", " A", "\n"):
        assert ends_sentence(f"We met {title}{following}", len(f"We met {title}"), "en") is False


@pytest.mark.parametrize(
    "written", ["at 7 a.m.", "in the U.S.", "it was plan B.", "on the No.", "bought pears, etc."]
)
def test_what_comes_yet_may_decide_whether_a_sentence_ends(written: str) -> None:
    assert ends_sentence(written, len(written), "en") is None
    assert ends_sentence(f"{written} Th", len(written), "en") is not True
    assert ends_sentence(f"{written} Then we", len(written) + 1, "en") is True


@pytest.mark.parametrize(
    "written", ["**Ms. Johnson**", "**Ms.** Johnson", "*Dr.* Lee", "_No._ 5", "`a.m.` Monday"]
)
def test_emphasis_does_not_hide_an_abbreviation(written: str) -> None:
    assert len(list(split_sentences(f"We all have known her as {written} of our old school.", "en"))) == 1


def test_a_sentence_in_emphasis_ends() -> None:
    assert (
        len(list(split_sentences("**We all have known her so long.** Then she left the school.", "en"))) == 2
    )


def test_a_stop_after_a_digit_may_become_a_decimal() -> None:
    assert ends_sentence("it is 3.", 8, "en") is None
    assert ends_sentence("it is 3. ", 9, "en") is True


def test_digits_are_parted_only_where_there_is_no_other_place() -> None:
    assert next(split_long("我" * 19 + "1234567" + "我" * 40, 63, "zh")) == "我" * 19
    assert next(split_long("我" * 19 + "1,234.5" + "我" * 40, 62, "zh")) == "我" * 19
    assert len(list(split_long("1" * 500, 100, "en"))) > 4


@pytest.mark.parametrize(
    "unit", ["Dr. ", "a. ", "7. ", ".", "A. The ", "z. B. ", '"a. ', "(a. ", "12, ", "e.g., "]
)
def test_judging_takes_time_in_proportion_to_the_text(unit: str) -> None:
    def judged(text: str) -> int:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            for sentence in split_sentences(text, "de"):
                for _ in split_long(sentence, 100, "de"):
                    pass
        finally:
            sys.setprofile(None)
        return calls

    assert judged(unit * 2000) < 3 * judged(unit * 1000)
