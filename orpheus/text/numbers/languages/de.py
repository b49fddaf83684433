"""German."""

from orpheus.text.numbers.language import Currency, Language, Noun

_CENT = Noun("Cent", "Cent")

LANGUAGE = Language(
    code="de",
    group=".",
    decimal=",",
    point="Komma",
    minus="minus",
    plus="plus",
    plus_minus="plus minus",
    about="etwa",
    percent="Prozent",
    to=" bis ",
    against=" zu ",
    per="pro",
    conjunction=" und ",
    of=" ",
    scales={
        10**12: Noun("Billion", "Billionen", "f"),
        10**9: Noun("Milliarde", "Milliarden", "f"),
        10**6: Noun("Million", "Millionen", "f"),
        10**3: Noun("tausend", "tausend"),
    },
    scale_names={
        "k": 10**3, "K": 10**3, " Tsd.": 10**3, "M": 10**6, "m": 10**6, "bn": 10**9, "B": 10**9, " Mio.": 10**6, " Mio": 10**6,
        "Mio.": 10**6, "Mio": 10**6, " Mrd.": 10**9, " Mrd": 10**9, "Mrd.": 10**9, "Mrd": 10**9, " tausend": 10**3,
        " Tausend": 10**3, " Million": 10**6, " Millionen": 10**6, " Milliarde": 10**9, " Milliarden": 10**9,
        " Billion": 10**12, " Billionen": 10**12,
    },
    currencies={
        "$": Currency(Noun("Dollar", "Dollar"), _CENT),
        "US$": Currency(Noun("US-Dollar", "US-Dollar"), _CENT),
        "€": Currency(Noun("Euro", "Euro"), _CENT),
        "£": Currency(Noun("Pfund", "Pfund", "n"), Noun("Penny", "Pence")),
        "¥": Currency(Noun("Yen", "Yen")),
        "₹": Currency(Noun("Rupie", "Rupien", "f")),
        "₩": Currency(Noun("Won", "Won")),
        "₽": Currency(Noun("Rubel", "Rubel")),
        "₿": Currency(Noun("Bitcoin", "Bitcoin")),
        "CHF": Currency(Noun("Schweizer Franken", "Schweizer Franken"), Noun("Rappen", "Rappen")),
        "CNY": Currency(Noun("Yuan", "Yuan")),
    },
    units={
        "°C": Noun("Grad Celsius", "Grad Celsius"), "°F": Noun("Grad Fahrenheit", "Grad Fahrenheit"),
        "°": Noun("Grad", "Grad"), "km/h": Noun("Stundenkilometer", "Stundenkilometer"),
        "m/s": Noun("Meter pro Sekunde", "Meter pro Sekunde"), "km": Noun("Kilometer", "Kilometer"),
        "m": Noun("Meter", "Meter"), "cm": Noun("Zentimeter", "Zentimeter"), "mm": Noun("Millimeter", "Millimeter"),
        "kg": Noun("Kilogramm", "Kilogramm"), "g": Noun("Gramm", "Gramm"), "mg": Noun("Milligramm", "Milligramm"),
        "L": Noun("Liter", "Liter"), "l": Noun("Liter", "Liter"), "ml": Noun("Milliliter", "Milliliter"),
        "m²": Noun("Quadratmeter", "Quadratmeter"), "qm": Noun("Quadratmeter", "Quadratmeter"),
        "km²": Noun("Quadratkilometer", "Quadratkilometer"), "m³": Noun("Kubikmeter", "Kubikmeter"),
        "h": Noun("Stunde", "Stunden", "f"), "Std.": Noun("Stunde", "Stunden", "f"),
        "min": Noun("Minute", "Minuten", "f"), "Min.": Noun("Minute", "Minuten", "f"),
        "Hz": Noun("Hertz", "Hertz"), "GHz": Noun("Gigahertz", "Gigahertz"), "GB": Noun("Gigabyte", "Gigabyte"),
        "MB": Noun("Megabyte", "Megabyte"), "TB": Noun("Terabyte", "Terabyte"), "W": Noun("Watt", "Watt"),
        "kW": Noun("Kilowatt", "Kilowatt"), "kWh": Noun("Kilowattstunde", "Kilowattstunden", "f"),
        "V": Noun("Volt", "Volt"),
    },
    number_sign="Nummer",
    number_signs=r"#|№ ?|Nr\. ?",
    clock_time=r"{clock}(?:-{clock})?(?: ?(?:Uhr|h)\b)?|(?:{hour}[.][0-5]\d|{hour})(?:-(?:{hour}[.][0-5]\d|{hour}))? Uhr\b",
    time=("{h} {hours}", "{h} {hours} {m}"),
    hours=Noun("Uhr", "Uhr", "n"),
    months=r"(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
    r"|(?:Jan|Feb|Mär|Apr|Jun|Jul|Aug|Sep|Sept|Okt|Nov|Dez)\.)",
    code_words=r"PLZ|Postleitzahl|PIN|Code|Kennwort|Passwort|Durchwahl|Konto|Kontonummer|Kartennummer|Bestellnummer"
    r"|Vorwahl|Ticketnummer",
    emergency_words=r"(?:Notruf|Nummer|wähle|wählen Sie|rufe?|rufen Sie)(?: bitte)?(?: die| den| unter)?",
    per_units={
        "Sekunde": "Sekunde", "Stunde": "Stunde", "h": "Stunde", "Std.": "Stunde", "Tag": "Tag", "Nacht": "Nacht",
        "Woche": "Woche", "Monat": "Monat", "Jahr": "Jahr", "Person": "Person", "kg": "Kilogramm", "kWh": "Kilowattstunde",
    },
    feminine=r"(?:Stunde|Minute|Sekunde|Woche|Frau|Person|Nacht|Stadt|Tonne|Seite|Katze|Tasse|Flasche|Dose|Prise|Zwiebel"
    r"|Mal(?=zeit)|\w+(?:ung|heit|keit|schaft|tion|tät|erin))\b",
    masculine=r"[A-ZÄÖÜ]\w+\b",
)  # fmt: skip
