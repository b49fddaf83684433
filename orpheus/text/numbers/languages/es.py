"""Spanish."""

from orpheus.text.numbers.language import Currency, Language, Noun

_CENTAVO, _CENTIMO = Noun("centavo", "centavos"), Noun("céntimo", "céntimos")

LANGUAGE = Language(
    code="es",
    group=".",
    decimal=",",
    decimal_pairs=True,
    point="coma",
    minus="menos",
    plus="más",
    plus_minus="más menos",
    about="aproximadamente",
    percent="por ciento",
    to=" a ",
    against=" a ",
    per="por",
    conjunction=" con ",
    of=" de ",
    scales={
        10**12: Noun("billón", "billones"),
        10**6: Noun("millón", "millones"),
        10**3: Noun("mil", "mil"),
    },
    scale_names={
        "k": 10**3, "K": 10**3, "M": 10**6, "m": 10**6, "bn": 10**9, " M": 10**6, " mil": 10**3, " millón": 10**6,
        " millones": 10**6, " mil millones": 10**9, " millón de": 10**6, " millones de": 10**6,
        " mil millones de": 10**9, " mill.": 10**6,
    },
    currencies={
        "$": Currency(Noun("dólar", "dólares"), _CENTAVO),
        "US$": Currency(Noun("dólar estadounidense", "dólares estadounidenses"), _CENTAVO),
        "€": Currency(Noun("euro", "euros"), _CENTIMO),
        "£": Currency(Noun("libra", "libras", "f"), Noun("penique", "peniques")),
        "¥": Currency(Noun("yen", "yenes")),
        "₹": Currency(Noun("rupia", "rupias", "f")),
        "₩": Currency(Noun("won", "wones")),
        "₽": Currency(Noun("rublo", "rublos")),
        "₿": Currency(Noun("bitcóin", "bitcoines")),
        "CHF": Currency(Noun("franco suizo", "francos suizos"), _CENTIMO),
        "MXN": Currency(Noun("peso mexicano", "pesos mexicanos"), _CENTAVO),
        "CNY": Currency(Noun("yuan", "yuanes")),
    },
    units={
        "°C": Noun("grado Celsius", "grados Celsius"), "ºC": Noun("grado Celsius", "grados Celsius"),
        "°F": Noun("grado Fahrenheit", "grados Fahrenheit"), "°": Noun("grado", "grados"),
        "km/h": Noun("kilómetro por hora", "kilómetros por hora"),
        "m/s": Noun("metro por segundo", "metros por segundo"), "km": Noun("kilómetro", "kilómetros"),
        "m": Noun("metro", "metros"), "cm": Noun("centímetro", "centímetros"), "mm": Noun("milímetro", "milímetros"),
        "kg": Noun("kilogramo", "kilogramos"), "g": Noun("gramo", "gramos"), "mg": Noun("miligramo", "miligramos"),
        "L": Noun("litro", "litros"), "l": Noun("litro", "litros"), "ml": Noun("mililitro", "mililitros"),
        "m²": Noun("metro cuadrado", "metros cuadrados"), "km²": Noun("kilómetro cuadrado", "kilómetros cuadrados"),
        "m³": Noun("metro cúbico", "metros cúbicos"), "h": Noun("hora", "horas", "f"),
        "min": Noun("minuto", "minutos"), "Hz": Noun("hercio", "hercios"), "GHz": Noun("gigahercio", "gigahercios"),
        "GB": Noun("gigabyte", "gigabytes"), "MB": Noun("megabyte", "megabytes"), "W": Noun("vatio", "vatios"),
        "kW": Noun("kilovatio", "kilovatios"), "kWh": Noun("kilovatio hora", "kilovatios hora"),
        "V": Noun("voltio", "voltios"),
    },
    number_sign="número",
    number_signs=r"#|№ ?|[Nn](?:úm\.|ro\.|\.?[º°])\.? ?",
    clock_time=r"{clock}(?:-{clock})?(?: ?(?:horas?|hs|hrs|h)\b)?",
    time=("{h} {hours}", "{h} y {m}"),
    hours=Noun("hora", "horas", "f"),
    months=r"(?:enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|setiembre|octubre|noviembre|diciembre)",
    code_words=r"código(?: postal)?|C\.? ?P\.?|pin|PIN|contraseña|extensión|cuenta|tarjeta|pedido|referencia|reserva|billete",
    emergency_words=r"(?:llam[ae]|llamar|llamen|llame|marque|marca|marcar|emergencias)(?: al)?",
    per_units={
        "segundo": "segundo", "hora": "hora", "h": "hora", "día": "día", "noche": "noche", "semana": "semana",
        "mes": "mes", "año": "año", "persona": "persona", "kg": "kilogramo",
    },
    # Of a number that ends in one, or in hundreds: "veintiuna personas", "doscientas páginas", "veintiún días".
    feminine=r"(?!(?:días?|mapas?|problemas?|programas?|sistemas?|temas?|idiomas?|planetas?|poemas?|gramas?|para|nada|cada"
    r"|era|hasta|fuera|ahora|antes|mientras)\b)(?:veces|vez|mujer|mujeres|noches?|tardes?|clases?|calles?|partes?"
    r"|flor|flores|manos?|llaves?|leyes|fotos?|\w+(?:a|as|ción|ciones|sión|siones|dad|dades|tud|tudes))\b",
    masculine=r"(?!(?:menos|más|después|antes|entonces|como|pero|o|lo|los|les|nos|os|es|que|de|del|se|le|me|te|no|este|ese"
    r"|esto|eso|cuando|donde|porque|sobre|entre|desde|con|algo|todo|todos|mucho|muchos|otro|otros|muy|dos|tres)\b)"
    r"(?:días?|mapas?|problemas?|programas?|sistemas?|temas?|idiomas?|planetas?|mes|\w+(?:os|es|or|ón))\b",
)  # fmt: skip
