"""French."""

from orpheus.text.numbers.language import Currency, Language, Noun

_CENTIME = Noun("centime", "centimes")
_CENT = Noun("cent", "cents")
_MILLION, _MILLIARD = Noun("million", "millions"), Noun("milliard", "milliards")

LANGUAGE = Language(
    code="fr",
    group=" ",
    decimal=",",
    decimal_pairs=True,
    point="virgule",
    minus="moins",
    plus="plus",
    plus_minus="plus ou moins",
    about="environ",
    percent="pour cent",
    to=" à ",
    against=" à ",
    per="par",
    conjunction=" ",
    of=" de ",
    scales={10**12: Noun("billion", "billions"), 10**9: _MILLIARD, 10**6: _MILLION, 10**3: Noun("mille", "mille")},
    scale_names={
        "k": 10**3, "K": 10**3, " k": 10**3, "M": 10**6, " M": 10**6, "Md": 10**9, " Md": 10**9, "Mds": 10**9,
        " Mds": 10**9, "bn": 10**9, "B": 10**9, " mille": 10**3, " million": 10**6, " millions": 10**6,
        " milliard": 10**9, " milliards": 10**9, " million de": 10**6, " millions de": 10**6, " millions d'": 10**6,
    },
    currencies={
        "$": Currency(Noun("dollar", "dollars"), _CENT),
        "US$": Currency(Noun("dollar américain", "dollars américains"), _CENT),
        "C$": Currency(Noun("dollar canadien", "dollars canadiens"), _CENT),
        "€": Currency(Noun("euro", "euros"), _CENTIME),
        "£": Currency(Noun("livre", "livres", "f"), Noun("penny", "pence")),
        "¥": Currency(Noun("yen", "yens")),
        "₹": Currency(Noun("roupie", "roupies", "f")),
        "₩": Currency(Noun("won", "wons")),
        "₽": Currency(Noun("rouble", "roubles")),
        "₿": Currency(Noun("bitcoin", "bitcoins")),
        "CHF": Currency(Noun("franc suisse", "francs suisses"), _CENTIME),
        "CNY": Currency(Noun("yuan", "yuans")),
    },
    units={
        "°C": Noun("degré Celsius", "degrés Celsius"), "°F": Noun("degré Fahrenheit", "degrés Fahrenheit"),
        "°": Noun("degré", "degrés"), "km/h": Noun("kilomètre heure", "kilomètres heure"),
        "m/s": Noun("mètre par seconde", "mètres par seconde"), "km": Noun("kilomètre", "kilomètres"),
        "m": Noun("mètre", "mètres"), "cm": Noun("centimètre", "centimètres"), "mm": Noun("millimètre", "millimètres"),
        "kg": Noun("kilogramme", "kilogrammes"), "g": Noun("gramme", "grammes"),
        "mg": Noun("milligramme", "milligrammes"), "L": Noun("litre", "litres"), "l": Noun("litre", "litres"),
        "cl": Noun("centilitre", "centilitres"), "ml": Noun("millilitre", "millilitres"),
        "m²": Noun("mètre carré", "mètres carrés"), "km²": Noun("kilomètre carré", "kilomètres carrés"),
        "m³": Noun("mètre cube", "mètres cubes"), "min": Noun("minute", "minutes", "f"),
        "Hz": Noun("hertz", "hertz"), "GHz": Noun("gigahertz", "gigahertz"), "Go": Noun("gigaoctet", "gigaoctets"),
        "Mo": Noun("mégaoctet", "mégaoctets"), "W": Noun("watt", "watts"), "kW": Noun("kilowatt", "kilowatts"),
        "kWh": Noun("kilowattheure", "kilowattheures"), "V": Noun("volt", "volts"),
    },
    number_sign="numéro",
    number_signs=r"#|№ ?|[Nn][°ºo]\.? ?(?=\d)",
    clock_time=r"{clock}(?:-{clock})?(?: ?(?:h|heures?)\b)?|{hour}-{hour} ?h(?: ?[0-5]\d)?|{hour} ?h(?: ?[0-5]\d(?!\d))?"
    r"(?:-{hour} ?h(?: ?[0-5]\d)?)?",
    time=("{h} {hours}", "{h} {hours} {m}"),
    hours=Noun("heure", "heures", "f"),
    months=r"(?:janvier|février|mars|avril|mai|juin|juillet|août|septembre|octobre|novembre|décembre)",
    code_words=r"code(?: postal)?|pin|mot de passe|poste|compte|carte|commande|référence|réservation|billet",
    emergency_words="",
    per_units={
        "seconde": "seconde", "heure": "heure", "h": "heure", "jour": "jour", "j": "jour", "nuit": "nuit",
        "semaine": "semaine", "mois": "mois", "an": "an", "personne": "personne", "kg": "kilogramme", "pers": "personne",
    },
    feminine=r"(?:fois|heures?|minutes?|secondes?|semaines?|années?|journées?|nuits?|personnes?|femmes?|filles?|pages?"
    r"|livres?|tonnes?|places?|tables?|chambres?|voitures?|maisons?|villes?|étoiles?|cuillères?|tasses?|bouteilles?"
    r"|\w+(?:tion|sion|ette|esse|ence|ance|ité|ure)s?)\b",
)  # fmt: skip
