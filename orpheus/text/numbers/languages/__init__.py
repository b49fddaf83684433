"""One table for each language whose numbers can be written out."""

from orpheus.text.numbers.language import Language
from orpheus.text.numbers.languages import de, en, es, fr, it, ko

LANGUAGES: dict[str, Language] = {table.LANGUAGE.code: table.LANGUAGE for table in (en, fr, de, es, it, ko)}
