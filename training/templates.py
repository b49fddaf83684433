"""A seeded random generator → sentences people say to voice agents: numbers, dates, prices, replies, names.

All of them were written for this project and are CC0.
"""

# ruff: noqa: SIM905 - word lists are easier to read and to extend as text
from __future__ import annotations

from random import Random

REPLIES = """Hi.|Hello.|Hey there.|Yes.|No.|Okay.|Sure.|Thanks.|Thank you.|Okay, thanks.|You're welcome.|Goodbye.|Bye.|
Good morning.|Good afternoon.|Good evening.|Good night.|Please.|Sorry.|Excuse me.|Really?|Why?|What?|Who?|When?|Where?|How?|
Of course.|Certainly.|Absolutely.|Exactly.|Maybe.|Perhaps.|Never mind.|No problem.|Not yet.|Not at all.|I see.|I know.|
I don't know.|I'm not sure.|Let me check.|One moment, please.|Just a second.|Hold on.|Go ahead.|Go on.|Come in.|Wait.|Stop.|
Great!|Perfect.|Wonderful!|That's great.|That's right.|That's wrong.|Sounds good.|All right.|Got it.|Well done!|
Congratulations!|How are you?|I'm fine, thanks.|Nice to meet you.|See you soon.|See you tomorrow.|Take care.|
Have a nice day.|Are you there?|Can you hear me?|Welcome back.|Good luck!|Oh no.|Wow!|Hmm.|Yeah.|Nope.|Right.|True.|False.|
It depends.|I agree.|I think so.|I hope so.|Me too.|After you.|Here you go.|My pleasure.|Anything else?|Ready?|Let's go.|
Help!|Look out!|Be careful.|Don't worry.|It's okay.|Say that again?|Pardon?|What do you mean?|Who is it?|Testing.""".replace(
    "\n", ""
).split("|")

NAMES = """James Mary John Linda Robert Susan Michael Karen David Lisa William Nancy Richard Betty Thomas Sarah
Charles Emily Daniel Anna Matthew Laura Anthony Grace Mark Olivia Paul Emma Steven Sophia Andrew Chloe Joshua Hannah Kevin
Julia Brian Alice George Rachel Edward Megan Peter Diana Henry Claire Samuel Rosa Jack Maria Oliver Ruth Ethan Zoe Noah Mia
Lucas Tara Leo Leah Dan Jess Zac Adam Eve Omar Fatima Wei Priya Carlos Elena Ivan Yuki Ahmed Ingrid Pierre Sofia""".split()

SURNAMES = """Smith Johnson Williams Brown Jones Garcia Miller Davis Martinez Lopez Wilson Anderson Taylor Moore
Jackson Martin Lee Thompson White Harris Clark Lewis Robinson Walker Young Allen King Wright Scott Hill Green Baker Nelson
Carter Mitchell Roberts Turner Phillips Campbell Parker Evans Edwards Collins Stewart Morris Murphy Cook Rogers Kim Patel
Nguyen Chen O'Brien Rossi Schmidt Kowalski Tanaka Silva""".split()

PLACES = """Boston Chicago Denver Seattle Austin Dallas Houston Phoenix Portland Atlanta Miami London Paris Berlin
Madrid Rome Vienna Dublin Tokyo Sydney Toronto Cairo Mumbai Beijing Moscow Oslo Lisbon Athens California Texas Florida
Canada Mexico Brazil France Germany Italy Spain Japan China India Australia England Scotland Ireland""".split()

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

NOUNS = """table|order|package|ticket|room|flight|account|password|email|message|meeting|appointment|invoice|
reservation|phone number|address|printer|battery|camera|car|train|bus|window|door|kitchen|garden|dog|cat|book|recipe|song|
movie|game|weather report|credit card|refund|subscription|update|file|report|contract|schedule|calendar|doctor|
prescription|dinner|breakfast|lunch|coffee|sandwich|bicycle|laptop|keyboard|screen|question|answer|story""".replace(
    "\n", ""
).split("|")

ADJECTIVES = """new|old|small|large|red|blue|green|quiet|fast|slow|cheap|expensive|broken|lovely|strange|simple|
difficult|warm|cold|fresh|heavy|light|early|late|important|beautiful|empty|full|bright|dark|clean|wrong|right|next|last""".replace(
    "\n", ""
).split("|")

VERBS = """change|cancel|check|find|open|close|send|book|order|move|update|confirm|repeat|explain|fix|buy|sell|
return|share|print|save|delete|start|stop|schedule|read|write|pay for|look at|wait for|ask about|help with""".replace(
    "\n", ""
).split("|")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# {x} is filled by the method of that name below. One line each; the more common a thing is to say, the more lines.
PATTERNS = """Sure, I can help with that.
Sure, I can {verb} the {noun} for you.
I'd be happy to {verb} your {noun}.
Let me {verb} that {noun} for you.
Could you please {verb} the {adjective} {noun}?
Can you {verb} my {noun} before {day}?
Would you like me to {verb} the {noun}?
Do you want the {adjective} {noun} or the {adjective} one?
What is the {noun} number?
When does the {noun} arrive?
Where did you leave the {adjective} {noun}?
Why is the {noun} so {adjective}?
Who wants to {verb} the {noun}?
How much is the {adjective} {noun}?
How many {noun}s do you need?
Is the {noun} {adjective} enough?
Are you sure you want to {verb} this {noun}?
I'm sorry, I didn't catch that. Could you say it again?
I'm sorry, but the {noun} isn't available right now.
Unfortunately, we can't {verb} the {noun} until {day}.
Your {noun} is ready, {name}.
Your {noun} will arrive on {day}, {month} {ordinal}.
Your order number is {digits}.
Your total comes to {price}.
That will be {price}, please.
The {adjective} {noun} costs {price}.
It's {time} now.
The {noun} leaves at {time}.
Your appointment is at {time} on {day}.
Let's meet at {time} near the {adjective} {noun}.
The train to {place} leaves at {time} from platform {small}.
The flight from {place} to {place} takes {small} hours and {small} minutes.
It was {small} degrees in {place} this morning.
{place} is about {number} miles from {place}.
{name} {surname} lives in {place}.
My name is {name}.
My name is {name} {surname}, and I live in {place}.
Hello, {name}. How can I help you today?
Hi {name}, this is {name} from {place}.
Please call {name} {surname} at {phone}.
Doctor {surname} will see you on {day}.
Mr. {surname} and Mrs. {surname} are waiting.
{name} was born on {month} {ordinal}, {year}.
In {year}, about {number} people lived in {place}.
The {noun} was made in {year}.
There are {number} pages in this {noun}.
I counted {small}, {small}, and {small}.
{small} plus {small} is {small}.
About {small} percent of the {noun}s were {adjective}.
She paid {price} for {small} {noun}s.
The password is {letters}.
Spell it: {letters}.
Press {small} to {verb} your {noun}.
{name} said, "{reply}"
{reply} {reply}
{reply} I'll {verb} the {noun}.
Okay, {name}, I'll {verb} it on {day}.
Thanks, {name}. I'll {verb} the {noun} now.
First {verb} the {noun}, then {verb} the {adjective} {noun}.
If the {noun} is {adjective}, please {verb} it.
Don't forget to {verb} the {noun} on {day}.
It looks like the {noun} is {adjective} today.
I think {name} forgot the {noun}.
{day} is fine, but {day} is better.
{number}.
{digits}.
{price}.
{time}.
{name}.
{name} {surname}.
{noun}.
{place}.
{letter}.
{reply}
{reply}
{reply}
{laugh} That's so {adjective}!
{laugh} You forgot the {noun} again, {name}.
{reply} {laugh}
{sigh} I lost the {noun} again.
{sigh} It's only {day}.
{name}, {sigh} please {verb} the {noun}.""".split("\n")


class Templates:
    """Endless sentences: the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def sentence(self) -> str:
        """One sentence with a capital first letter; tags such as <laugh> may stand in it."""
        text = self._random.choice(PATTERNS)
        while "{" in text:
            before, _, rest = text.partition("{")
            field, _, after = rest.partition("}")
            text = f"{before}{self._fill(field)}{after}"
        return text[0].upper() + text[1:]

    def _fill(self, field: str) -> str:
        draw = self._random
        lists = {
            "verb": VERBS,
            "noun": NOUNS,
            "adjective": ADJECTIVES,
            "name": NAMES,
            "surname": SURNAMES,
            "place": PLACES,
            "month": MONTHS,
            "day": DAYS,
            "reply": REPLIES,
            "letter": LETTERS,
            "laugh": ("<laugh>", "<chuckle>", "<giggle>"),
            "sigh": ("<sigh>", "<groan>"),
        }
        if field in lists:
            return draw.choice(lists[field])
        if field == "small":
            return str(draw.randint(0, 99))
        if field == "number":
            value = draw.randint(100, 10 ** draw.choice((3, 4, 5, 6)))
            return draw.choice((str(value), f"{value:,}"))
        if field == "ordinal":
            day = draw.randint(1, 31)
            return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
        if field == "year":
            return str(draw.choice((draw.randint(1500, 1999), draw.randint(1900, 2035))))
        if field == "digits":
            return " ".join(str(draw.randint(0, 9)) for _ in range(draw.randint(3, 7)))
        if field == "phone":
            return (
                f"5 5 5, {draw.randint(0, 9)} {draw.randint(0, 9)} {draw.randint(0, 9)} {draw.randint(0, 9)}"
            )
        if field == "price":
            return draw.choice(
                (f"${draw.randint(1, 200)}.{draw.randint(1, 99):02d}", f"${draw.randint(1, 999)}")
            )
        if field == "time":
            clock = f"{draw.randint(1, 12)}:{draw.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02d}"
            return draw.choice((clock.replace(":00", " o'clock"), f"{clock} {draw.choice(('a.m.', 'p.m.'))}"))
        if field == "letters":
            return ", ".join(draw.choice(LETTERS) for _ in range(draw.randint(2, 5)))
        raise KeyError(field)
