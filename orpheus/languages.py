"""ISO 639-1: the languages a voice may be declared in, their English names and the scripts they are written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Language(NamedTuple):
    name: str
    scripts: frozenset[str]  # as Unicode's names of characters begin; empty for Latin alone


# code, name and what it is written in, if that is not Latin alone. A script is the first word of Unicode's names.
_TABLE = """
aa Afar; ab Abkhazian: CYRILLIC; ae Avestan: AVESTAN; af Afrikaans; ak Akan; am Amharic: ETHIOPIC; an Aragonese;
ar Arabic: ARABIC; as Assamese: BENGALI; av Avaric: CYRILLIC; ay Aymara; az Azerbaijani; ba Bashkir: CYRILLIC;
be Belarusian: CYRILLIC; bg Bulgarian: CYRILLIC; bi Bislama; bm Bambara; bn Bengali: BENGALI; bo Tibetan: TIBETAN;
br Breton; bs Bosnian; ca Catalan; ce Chechen: CYRILLIC; ch Chamorro; co Corsican; cr Cree: CANADIAN; cs Czech;
cu Church Slavonic: CYRILLIC; cv Chuvash: CYRILLIC; cy Welsh; da Danish; de German; dv Dhivehi: THAANA;
dz Dzongkha: TIBETAN; ee Ewe; el Greek: GREEK; en English; eo Esperanto; es Spanish; et Estonian; eu Basque;
fa Persian: ARABIC; ff Fulah; fi Finnish; fj Fijian; fo Faroese; fr French; fy Western Frisian; ga Irish; gd Gaelic;
gl Galician; gn Guarani; gu Gujarati: GUJARATI; gv Manx; ha Hausa; he Hebrew: HEBREW; hi Hindi: DEVANAGARI;
ho Hiri Motu; hr Croatian; ht Haitian; hu Hungarian; hy Armenian: ARMENIAN; hz Herero; ia Interlingua; id Indonesian;
ie Interlingue; ig Igbo; ii Sichuan Yi: YI; ik Inupiaq; io Ido; is Icelandic; it Italian; iu Inuktitut: CANADIAN;
ja Japanese: HIRAGANA KATAKANA KATAKANA-HIRAGANA CJK IDEOGRAPHIC; jv Javanese; ka Georgian: GEORGIAN; kg Kongo;
ki Kikuyu; kj Kuanyama; kk Kazakh: CYRILLIC; kl Kalaallisut; km Khmer: KHMER; kn Kannada: KANNADA; ko Korean: HANGUL;
kr Kanuri; ks Kashmiri: ARABIC DEVANAGARI; ku Kurdish: ARABIC; kv Komi: CYRILLIC; kw Cornish; ky Kyrgyz: CYRILLIC;
la Latin; lb Luxembourgish; lg Ganda; li Limburgish; ln Lingala; lo Lao: LAO; lt Lithuanian; lu Luba-Katanga;
lv Latvian; mg Malagasy; mh Marshallese; mi Maori; mk Macedonian: CYRILLIC; ml Malayalam: MALAYALAM;
mn Mongolian: CYRILLIC MONGOLIAN; mr Marathi: DEVANAGARI; ms Malay; mt Maltese; my Burmese: MYANMAR; na Nauru;
nb Norwegian Bokmål; nd North Ndebele; ne Nepali: DEVANAGARI; ng Ndonga; nl Dutch; nn Norwegian Nynorsk; no Norwegian;
nr South Ndebele; nv Navajo; ny Chichewa; oc Occitan; oj Ojibwa: CANADIAN; om Oromo; or Odia: ORIYA;
os Ossetian: CYRILLIC; pa Punjabi: GURMUKHI ARABIC; pi Pali: DEVANAGARI; pl Polish; ps Pashto: ARABIC; pt Portuguese;
qu Quechua; rm Romansh; rn Rundi; ro Romanian; ru Russian: CYRILLIC; rw Kinyarwanda; sa Sanskrit: DEVANAGARI;
sc Sardinian; sd Sindhi: ARABIC DEVANAGARI; se Northern Sami; sg Sango; si Sinhala: SINHALA; sk Slovak; sl Slovenian;
sm Samoan; sn Shona; so Somali; sq Albanian; sr Serbian: CYRILLIC; ss Swati; st Southern Sotho; su Sundanese;
sv Swedish; sw Swahili; ta Tamil: TAMIL; te Telugu: TELUGU; tg Tajik: CYRILLIC; th Thai: THAI;
ti Tigrinya: ETHIOPIC; tk Turkmen; tl Tagalog; tn Tswana; to Tonga; tr Turkish; ts Tsonga; tt Tatar: CYRILLIC; tw Twi;
ty Tahitian; ug Uyghur: ARABIC; uk Ukrainian: CYRILLIC; ur Urdu: ARABIC; uz Uzbek: CYRILLIC; ve Venda; vi Vietnamese;
vo Volapük; wa Walloon; wo Wolof; xh Xhosa; yi Yiddish: HEBREW; yo Yoruba; za Zhuang; zh Chinese: CJK IDEOGRAPHIC;
zu Zulu
"""


def _read_table() -> Mapping[str, Language]:
    languages = {}
    for entry in " ".join(_TABLE.split()).split("; "):
        names, _, scripts = entry.partition(": ")
        code, _, name = names.partition(" ")
        languages[code] = Language(name, frozenset(scripts.split()))
    return languages


LANGUAGES = _read_table()
# What people write for them: codes of countries, and of three letters for those whose rules would be missed.
MISTAKEN = {
    "cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "il": "he", "ir": "fa", "iw": "he", "jp": "ja",
    "kz": "kk", "sp": "es", "tu": "tr", "ua": "uk", "vn": "vi",
    "ara": "ar", "chi": "zh", "cmn": "zh", "deu": "de", "eng": "en", "fra": "fr", "fre": "fr", "ger": "de", "hin": "hi",
    "ita": "it", "jpn": "ja", "kor": "ko", "spa": "es", "tur": "tr", "zho": "zh",
}  # fmt: skip


def name_of(code: str) -> str:
    """A language's name in English; the code of one that ISO 639-1 does not have."""
    return LANGUAGES[code].name if code in LANGUAGES else code


def scripts_of(code: str) -> frozenset[str] | None:
    """The scripts of a language besides Latin; None for one of ISO 639-2 or -3, which may have any."""
    return LANGUAGES[code].scripts if code in LANGUAGES else None
