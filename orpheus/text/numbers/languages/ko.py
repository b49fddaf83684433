"""Korean."""

from orpheus.text.numbers.language import Currency, Language, Noun


def _noun(name: str) -> Noun:
    return Noun(name, name)


LANGUAGE = Language(
    code="ko",
    group=",",
    decimal=".",
    point="점",
    minus="마이너스",
    plus="플러스",
    plus_minus="플러스마이너스",
    about="약",
    percent="퍼센트",
    to="에서 ",
    against=" 대 ",
    per="당",
    conjunction=" ",
    of=" ",
    scales={},
    scale_names={"k": 10**3, "K": 10**3, "M": 10**6, "m": 10**6, "B": 10**9, "bn": 10**9},
    currencies={
        "$": Currency(_noun("달러"), _noun("센트")),
        "US$": Currency(_noun("미국 달러"), _noun("센트")),
        "€": Currency(_noun("유로"), _noun("센트")),
        "£": Currency(_noun("파운드"), _noun("펜스")),
        "¥": Currency(_noun("엔")),
        "₹": Currency(_noun("루피")),
        "₩": Currency(_noun("원")),
        "CHF": Currency(_noun("스위스 프랑")),
        "CNY": Currency(_noun("위안")),
    },
    units={
        symbol: _noun(name)
        for symbol, name in {
            "°C": "도", "°": "도", "km/h": "킬로미터", "km": "킬로미터", "m": "미터", "cm": "센티미터", "mm": "밀리미터",
            "kg": "킬로그램", "g": "그램", "mg": "밀리그램", "L": "리터", "l": "리터", "ml": "밀리리터",
            "m²": "제곱미터", "㎡": "제곱미터", "GB": "기가바이트", "MB": "메가바이트", "Hz": "헤르츠",
        }.items()
    },
    number_sign="번호",
    number_signs=r"#|№ ?",
    clock_time=r"{clock}(?:-{clock})?",
    time=("{h} 시", "{h} 시 {m} 분"),
    months="(?!)",
    emergency_number="11[29]",
    code_words="우편번호|비밀번호|암호|코드|내선|계좌번호|카드번호|주문번호|PIN",
    emergency_words="",
)  # fmt: skip
