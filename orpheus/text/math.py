"""Reads formulas: a text → the text with its LaTeX and its arithmetic in words of its language.

A formula in LaTeX that is not understood as a whole is left out: read letter by letter it is noise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_FORMULA_CHARS = 500  # between its delimiters
MAX_DEPTH = 8  # of braces


@dataclass(frozen=True)
class _Words:
    operators: dict[str, str]
    squared: str
    cubed: str
    power: str  # with {n}
    index: str  # with {i}
    over: str  # with {a} and {b}
    root: str  # with {a}
    span: str  # with {what}, {a} and {b}: a sum from a to b
    sum: str
    product: str
    integral: str
    limit: str  # with {a}
    infinity: str
    degrees: str
    factorial: str
    functions: dict[str, str]


def _operators(words: str) -> dict[str, str]:
    """In the order of _SYMBOLS, separated by "|"."""
    return dict(zip(_SYMBOLS, words.split("|"), strict=True))


_SYMBOLS = ("+", "-", "×", "÷", "=", "≠", "<", ">", "≤", "≥", "≈", "±", "→", "∈", "%")
_LATIN_FUNCTIONS = ("log", "exp", "max", "min", "mod", "det", "gcd")

_LANGUAGES = {
    "en": _Words(
        _operators(
            "plus|minus|times|divided by|equals|is not equal to|is less than|is greater than|is at most|is at least"
            "|is about|plus or minus|to|in|percent"
        ),
        "squared", "cubed", "to the power of {n}", "sub {i}", "{a} over {b}", "the square root of {a}",
        "{what} from {a} to {b} of", "the sum", "the product", "the integral", "the limit as {a} of", "infinity",
        "degrees", "factorial",
        {"sin": "sine", "cos": "cosine", "tan": "tangent", "ln": "the natural log of", "lim": "limit"},
    ),
    "fr": _Words(
        _operators(
            "plus|moins|fois|divisé par|égale|est différent de|est inférieur à|est supérieur à|est inférieur ou égal à"
            "|est supérieur ou égal à|est environ égal à|plus ou moins|vers|dans|pour cent"
        ),
        "au carré", "au cube", "puissance {n}", "indice {i}", "{a} sur {b}", "racine carrée de {a}",
        "{what} de {a} à {b} de", "la somme", "le produit", "l'intégrale", "la limite quand {a} de", "l'infini",
        "degrés", "factorielle",
        {"sin": "sinus", "cos": "cosinus", "tan": "tangente", "ln": "logarithme de", "lim": "limite"},
    ),
    "de": _Words(
        _operators(
            "plus|minus|mal|geteilt durch|gleich|ungleich|kleiner als|größer als|kleiner gleich|größer gleich"
            "|ungefähr gleich|plus minus|gegen|Element von|Prozent"
        ),
        "zum Quadrat", "hoch drei", "hoch {n}", "Index {i}", "{a} durch {b}", "die Wurzel aus {a}",
        "{what} von {a} bis {b} von", "die Summe", "das Produkt", "das Integral", "der Limes für {a} von", "unendlich",
        "Grad", "Fakultät",
        {"sin": "Sinus", "cos": "Kosinus", "tan": "Tangens", "ln": "der natürliche Logarithmus von", "lim": "Limes"},
    ),
    "es": _Words(
        _operators(
            "más|menos|por|entre|es igual a|es distinto de|es menor que|es mayor que|es menor o igual que"
            "|es mayor o igual que|es aproximadamente|más menos|tiende a|pertenece a|por ciento"
        ),
        "al cuadrado", "al cubo", "elevado a {n}", "sub {i}", "{a} sobre {b}", "la raíz cuadrada de {a}",
        "{what} de {a} a {b} de", "la suma", "el producto", "la integral", "el límite cuando {a} de", "infinito",
        "grados", "factorial",
        {"sin": "seno", "cos": "coseno", "tan": "tangente", "ln": "el logaritmo natural de", "lim": "límite"},
    ),
    "it": _Words(
        _operators(
            "più|meno|per|diviso|è uguale a|è diverso da|è minore di|è maggiore di|è minore o uguale a"
            "|è maggiore o uguale a|è circa uguale a|più o meno|tende a|appartiene a|per cento"
        ),
        "al quadrato", "al cubo", "alla {n}", "con {i}", "{a} fratto {b}", "la radice quadrata di {a}",
        "{what} da {a} a {b} di", "la somma", "il prodotto", "l'integrale", "il limite per {a} di", "infinito",
        "gradi", "fattoriale",
        {"sin": "seno", "cos": "coseno", "tan": "tangente", "ln": "il logaritmo naturale di", "lim": "limite"},
    ),
    "ko": _Words(
        _operators("더하기|빼기|곱하기|나누기|는|같지 않다|보다 작다|보다 크다|이하|이상|약|플러스마이너스|에서|에 속하는|퍼센트"),
        "제곱", "세제곱", "의 {n} 제곱", "{i}", "{b} 분의 {a}", "루트 {a}", "{a}부터 {b}까지 {what}", "합", "곱", "적분",
        "{a} 극한", "무한대", "도", "팩토리얼", {"sin": "사인", "cos": "코사인", "tan": "탄젠트", "ln": "자연로그", "lim": "극한"},
    ),
    "hi": _Words(
        _operators(
            "जोड़|घटा|गुणा|भाग|बराबर|बराबर नहीं|से छोटा|से बड़ा|से छोटा या बराबर|से बड़ा या बराबर|लगभग बराबर|जोड़ या घटा|की ओर"
            "|में|प्रतिशत"
        ),
        "का वर्ग", "का घन", "की घात {n}", "{i}", "{a} बटा {b}", "{a} का वर्गमूल", "{a} से {b} तक {what}", "योग", "गुणनफल",
        "समाकलन", "{a} सीमा", "अनंत", "डिग्री", "फैक्टोरियल",
        {"sin": "साइन", "cos": "कोसाइन", "tan": "टैन", "ln": "लॉग", "lim": "सीमा"},
    ),
    "zh": _Words(
        _operators("加|减|乘以|除以|等于|不等于|小于|大于|小于等于|大于等于|约等于|正负|趋于|属于|百分之"),
        "的平方", "的立方", "的 {n} 次方", "{i}", "{b} 分之 {a}", "根号 {a}", "{a} 到 {b} 的{what}", "求和", "求积", "积分",
        "{a} 时的极限", "无穷", "度", "的阶乘", {"sin": "正弦", "cos": "余弦", "tan": "正切", "ln": "自然对数", "lim": "极限"},
    ),
}  # fmt: skip

_GREEK = frozenset((
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
))  # fmt: skip
_COMMANDS = {
    "times": "×", "cdot": "×", "ast": "×", "div": "÷", "pm": "±", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥",
    "neq": "≠", "ne": "≠", "approx": "≈", "sim": "≈", "to": "→", "rightarrow": "→", "in": "∈", "lt": "<", "gt": ">", "%": "%",
}  # fmt: skip
_SILENT = frozenset((  # they only set what is around them
    "left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "textstyle", "limits", "quad", "qquad",
    ",", ";", ":", "!", "{", "}", " ",
))  # fmt: skip
_STYLES = frozenset((
    "text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mathit", "mathsf", "mathbb", "mathcal", "boldsymbol",
    "operatorname", "vec", "hat", "bar", "tilde", "dot", "overline", "widehat", "widetilde", "underline",
))  # fmt: skip
_PUNCTUATION = frozenset("(),[]&")

_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\[A-Za-z]+|\\[^A-Za-z]|\d+(?:[.,]\d+)*|[A-Za-z]|[^\W\d_]+|\.\.\.|[^\s]"
)
_CONTENT = rf"(?:(?!\\[\[\]()]|\n\n)[^$]){{1,{MAX_FORMULA_CHARS}}}"
# "$5 and $6" are prices: a formula between single dollars begins and ends without a space, and no digit follows.
_FORMULA = re.compile(
    rf"\$\$(?P<block>{_CONTENT})\$\$|\\\[(?P<brackets>{_CONTENT})\\\]|\\\((?P<parentheses>{_CONTENT})\\\)"
    rf"|\\begin\{{(?:equation|align|gather)\*?\}}(?P<environment>{_CONTENT})\\end\{{[a-z]{{1,20}}\*?\}}"
    rf"|(?<![\w$\\])\$(?=[^\s$])(?P<inline>(?:(?!\\[\[\]()])[^$\n]){{1,{MAX_FORMULA_CHARS}}})(?<![\s\\])\$(?!\d|\$|[A-Za-zÀ-ɏ]{{3}})"
)
_OPENED = re.compile(
    r"\$\$(?!\$)|\\begin\{[a-z]{1,20}\*?\}|\\\[|\\\(|(?<![\w$\\])\$(?=[A-Za-z\\({]|\d[^$\n]{0,20}[\\^_=])"
)
# Commands of a text around formulas: \emph{so}.
_STYLED_TEXT = re.compile(r"\\(?:emph|underline|mbox|text[a-z]{0,8})\{([^{}\n]{0,300})\}")
_PROSE = re.compile(r"[^\W\d_]{3,}|(?<=[\w.,] )[^\W\d_]{2}(?= \w)")
_NO_PROSE = re.compile(
    r"\\(?:text\w*|mathrm|operatorname|begin|end)\{[^{}]*\}|\\[A-Za-z]+|\b(?:sin|cos|tan|log|ln|exp|max|min|lim|mod)\b"
)

_OPERAND = r"\(?-?√?(?:\d[\d.,]{0,15}(?<![.,])[a-z]?|[A-Za-z])(?![^\W_²³])(?:[²³%]|\^-?\d{1,4})?\)?"
_OPERATOR = r" ?[×÷=≠≤≥≈] ?|\+| \+ | [*/<>] | - (?=\d{1,15}(?:[.,]\d{1,9})? = )"
# All of a word or nothing, as in numbers/kind.py.
_BEGIN, _END = r"(?<!\S)(?P<opening>[(\[\"]{0,8})", r"(?=[.,;:!?)\]\"']{0,8}(?:\s|\Z))"
_ARITHMETIC = re.compile(rf"{_BEGIN}(?P<expression>{_OPERAND}(?:(?:{_OPERATOR}){_OPERAND}){{1,20}}){_END}")
_POWER = re.compile(
    rf"{_BEGIN}(?P<base>\d{{1,9}}(?:[.,]\d{{1,9}})?|[A-Za-z])"
    rf"(?:(?P<superscript>[⁻]?[⁰¹²³⁴-⁹]{{1,4}})|\^(?P<caret>-?\d{{1,4}}|[A-Za-z])){_END}"
)
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# Signs that mean the same in any text: "1 € = 100 cents".
_SIGN = re.compile(r"(?<=\S) [×÷=≠≤≥≈] (?=\S)")
_ROOT = re.compile(rf"{_BEGIN}√ ?(?P<radicand>\d{{1,9}}(?:[.,]\d{{1,9}})?|[A-Za-z]){_END}")


class _NotUnderstood(Exception):
    pass


def read_formulas(text: str, language: str) -> str:
    """`text` with its LaTeX formulas in words, those of English for a language without its own."""
    if "$" not in text and "\\" not in text:
        return text
    words = _LANGUAGES.get(language, _LANGUAGES["en"])
    text = _FORMULA.sub(lambda match: _read_formula(match, words), text)
    return _STYLED_TEXT.sub(r"\1", text).replace("\\$", "$")


def is_open(text: str) -> bool:
    """Whether a formula that began in `text` may still be closed by what follows."""
    if "$" not in text and "\\" not in text:
        return False
    rest = _FORMULA.sub("", text[-2 * MAX_FORMULA_CHARS :])
    for match in _OPENED.finditer(rest):
        content = rest[match.end() :]
        if len(content) <= MAX_FORMULA_CHARS and "\n\n" not in content and not _is_prose(content):
            return True
    return False


def read_arithmetic(text: str, language: str, is_number: Callable[[str], bool]) -> str:
    """`text` with the signs between and above its numbers in words: "3 × 4 = 12" → "3 times 4 equals 12".

    The signs stay where `is_number` denies one of the numbers: what is not understood is left as a whole.
    """
    words = _LANGUAGES.get(language)
    if words is None or (text.isascii() and not re.search(r"[=+*/^<>]", text)):
        return text

    def understood(read: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
        return lambda match: read(match) if all(map(is_number, _NUMBER.findall(match[0]))) else match[0]

    text = _ARITHMETIC.sub(
        understood(lambda match: match["opening"] + _spaced_operators(match["expression"], words)), text
    )
    text = _POWER.sub(understood(lambda match: _read_power(match, words)), text)
    text = _SIGN.sub(lambda match: f" {words.operators[match[0].strip()]} ", text)
    return _ROOT.sub(
        understood(lambda match: match["opening"] + words.root.format(a=match["radicand"])), text
    )


def _spaced_operators(expression: str, words: _Words) -> str:
    expression = re.sub(r"(?<=\d)(?=[a-z])", " ", expression)  # "2x"
    signs = {**words.operators, "*": words.operators["×"], "/": words.operators["÷"]}
    return re.sub(
        r" ?([×÷=≠≤≥≈+*/<>]) ?| (-) ",
        lambda match: f" {signs.get(match[1] or match[2], match[0])} ",
        expression,
    )


def _read_power(match: re.Match[str], words: _Words) -> str:
    base = match["base"]
    before = match.string[max(0, match.start("base") - 2) : match.start("base")]
    if match["superscript"] and not base.isdecimal() and before[:1].isdecimal():
        return match[0]  # a unit: "5 m²"
    return f"{match['opening']}{base} {_raised(match['caret'] or match['superscript'].translate(_SUPERSCRIPTS), words)}"


def _raised(exponent: str, words: _Words) -> str:
    if exponent in ("2", "3"):
        return words.squared if exponent == "2" else words.cubed
    return words.power.format(n=exponent)


def _is_prose(content: str) -> bool:
    return _PROSE.search(_NO_PROSE.sub(" ", content)) is not None and not re.fullmatch(r"[A-Z]{1,4}", content)


def _read_formula(match: re.Match[str], words: _Words) -> str:
    content = next(filter(None, match.groups()))
    if _is_prose(content):
        return match[0]
    try:
        spoken = " ".join(_Reader(content, words).read())
    except _NotUnderstood:
        return ""
    return re.sub(r" (?=[,.])", "", spoken)


class _Reader:
    """One formula, from left to right."""

    def __init__(self, formula: str, words: _Words) -> None:
        self._tokens: list[str] = _TOKEN.findall(formula)
        self._next = 0
        self._words = words

    def read(self, closing: str = "", depth: int = 0) -> Iterator[str]:
        """The words up to `closing`, or to the end."""
        if depth > MAX_DEPTH:
            raise _NotUnderstood
        while (token := self._take()) != closing:
            yield from self._item(token, depth)

    def _take(self) -> str:
        if self._next == len(self._tokens):
            self._next += 1
            return ""
        if self._next > len(self._tokens):
            raise _NotUnderstood  # a brace that is not closed
        self._next += 1
        return self._tokens[self._next - 1]

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _group(self, depth: int) -> str:
        """An argument: what is in braces, or one token."""
        token = self._take()
        if not token:
            raise _NotUnderstood
        return " ".join(self.read("}", depth + 1) if token == "{" else self._item(token, depth + 1))

    def _item(self, token: str, depth: int) -> Iterator[str]:
        words = self._words
        if not token:
            raise _NotUnderstood
        if token == "{":
            yield from self.read("}", depth + 1)
        elif token in ("^", "_"):
            yield self._script(token, depth)
        elif token == "'":
            yield "prime"
        elif token == "!":
            yield words.factorial
        elif token in ("*", "·"):
            yield words.operators["×"]
        elif token == "/":
            yield words.operators["÷"]
        elif token in words.operators:
            yield words.operators[token]
        elif token in _PUNCTUATION:
            if token == ",":
                yield ","
        elif token in (".", "..."):
            yield token
        elif token[0] == "\\":
            yield from self._command(token[1:], depth)
        elif token.isalnum() or token[0].isdecimal():
            yield self._function() or token if token.isascii() else token
        else:
            raise _NotUnderstood

    def _function(self) -> str | None:
        """A function written without its backslash: the letters of "sin" come one by one."""
        rest = "".join(
            token if len(token) == 1 else " " for token in self._tokens[self._next - 1 : self._next + 4]
        )
        for name in (*self._words.functions, *_LATIN_FUNCTIONS):
            if rest.startswith(name):
                self._next += len(name) - 1
                return self._words.functions.get(name, name)
        return None

    def _script(self, token: str, depth: int) -> str:
        script = self._group(depth)
        if token == "_":
            return self._words.index.format(i=script)
        if script in (self._words.degrees, "prime"):
            return script
        return _raised(script, self._words)

    def _command(self, name: str, depth: int) -> Iterator[str]:
        words = self._words
        if name in _COMMANDS:
            yield words.operators[_COMMANDS[name]]
        elif name.lower() in _GREEK or name.removeprefix("var") in _GREEK:
            yield name.removeprefix("var").lower()
        elif name in words.functions and name != "lim":
            yield words.functions[name]
        elif name in _LATIN_FUNCTIONS:
            yield name
        elif name in ("frac", "dfrac", "tfrac"):
            yield words.over.format(a=self._group(depth), b=self._group(depth))
        elif name == "sqrt" and self._peek() != "[":
            yield words.root.format(a=self._group(depth))
        elif name.startswith("text{"):
            yield name[5:-1].strip()
        elif name in _STYLES:
            yield self._group(depth).replace(" ", "")
        elif what := {"sum": words.sum, "prod": words.product, "int": words.integral}.get(name):
            yield self._span(what, depth)
        elif name == "lim":
            if self._peek() == "_":
                self._take()
                yield words.limit.format(a=self._group(depth))
            else:
                yield words.functions["lim"]
        elif name == "infty":
            yield words.infinity
        elif name == "circ":
            yield words.degrees
        elif name == "prime":
            yield "prime"
        elif name in ("dots", "ldots", "cdots"):
            yield "..."
        elif name == "\\":
            yield ","
        elif name in _SILENT:
            if name in ("left", "right") and self._peek() == ".":
                self._take()
        else:
            raise _NotUnderstood

    def _span(self, what: str, depth: int) -> str:
        limits: dict[str, str] = {}
        while self._peek() in ("_", "^"):
            mark = self._take()
            limits[mark] = self._group(depth)
        if len(limits) == 2:
            return self._words.span.format(what=what, a=limits["_"], b=limits["^"])
        return what
