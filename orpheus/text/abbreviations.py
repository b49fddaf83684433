"""Words that are written with a full stop without ending a sentence, by language, and words that begin one.

Tables for native speakers to extend: words between spaces, without their last full stop and without spaces inside
("z.B" also stands for "z. B."); "-str" is the end of one ("Hauptstr."). A word in small letters counts with a capital too, one with a capital only with it:
"Sun." may be a day, "sun." is none. These need no line: single letters ("J. R. R. Tolkien", "p. 12"), and letters
with full stops between them ("U.S.", "a.m.").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

# In every language: a foreign name keeps its title.
_TITLES = "mr mrs Ms mx Messrs dr drs prof Mt"
_SHORTENED = """
    Jr Sr Esq Inc Ltd Co Corp Bros St Ph Ph.D M.Sc B.Sc etc vs approx max min vol pp ca cf ibid al
    Jan Feb Apr Aug Sept Oct Nov Dec
"""


class Kind(Enum):
    """What a word with a full stop says about the end of a sentence."""

    TITLE = auto()  # a name follows: never an end
    SHORTENED = auto()  # an end where the next word begins a sentence
    NUMBERED = auto()  # an end as after any word ("no", "art"), except before a number ("No. 5")


@dataclass(frozen=True)
class Abbreviations:
    """The tables of one language."""

    titles: str
    shortened: str
    numbered: str
    starters: str  # begin sentences and are no names, in small letters; "it" stands for "it's", but "l'" needs its apostrophe
    ordinals: bool = False  # "3." is the third
    dates: bool = False  # "2024. 5. 3." is a date
    kinds: Mapping[str, Kind] = field(init=False, repr=False)
    halves: frozenset[str] = field(init=False, repr=False)  # of "z.B" the first
    starting: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kinds = dict.fromkeys((_SHORTENED + self.shortened).split(), Kind.SHORTENED)
        kinds |= dict.fromkeys(self.numbered.split(), Kind.NUMBERED)
        kinds |= dict.fromkeys(f"{_TITLES} {self.titles}".split(), Kind.TITLE)
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "halves", frozenset(word.split(".")[0] for word in kinds if "." in word))
        object.__setattr__(self, "starting", frozenset(self.starters.split()))


_ENGLISH = Abbreviations(
    titles="""
        Mmes Rev Fr Br Gen Sen Rep Gov Capt Cpt Lt Col Sgt Cpl Pvt Maj Cmdr Cdr Adm Hon Pres Supt Amb Atty Insp Rt
    """,
    shortened="""
        a.m p.m e.g i.e a.k.a viz est misc avg temp ref incl excl tel ext dept dist univ inst acad govt assn intl natl
        fig ch sect pl bk mgmt mfg orig resp trans ed eds vols chap figs nos para
        Ste Ft Pt Ave Blvd Rd Hwy Pkwy Ln Ct Sq Apt Bldg Rte ave blvd rd hwy apt bldg
        hr hrs sec secs mins lb lbs oz ft yd yds mi gal qt cm mm kg km mph rpm tsp tbsp doz deg eq eqs
        Mon Tue Tues Wed Thu Thur Thurs Fri Sat Sun Mar Jun Jul Sep
        Ala Ariz Ark Calif Colo Conn Del Fla Ga Ill Ind Kan Ky La Mass Md Mich Minn Miss Mo Mont Neb Nev Okla Ore Penn Tenn
        Tex Va Vt Wash Wis Wyo
        Wm Geo Chas Jas asst cont op ver sq yr yrs wk wks mos rm fl qty pkg
    """,
    numbered="no art ex",
    starters="""
        the a an this that these those there here it he she they we you i my your his her our their its
        what when where who whom whose why how which if whether but and or so yet then now as at in on for from with
        without within after before because since although though while once until unless despite during among between
        under over through not no nor yes nobody nothing none everyone everybody everything someone somebody something
        anyone anything some many much most few several all each every both neither either another other others one
        let do does did is are was were am can could would should shall must have has had having being
        please thanks thank well oh ok okay also however meanwhile moreover therefore thus hence instead later soon
        today tomorrow tonight yesterday finally eventually suddenly first second third next last still just even only
        perhaps maybe sometimes often usually always never again to by about above below like unlike more less
        according apparently unfortunately fortunately clearly obviously indeed anyway besides otherwise nevertheless
        people two three four five six seven eight nine ten
    """,
)

_LANGUAGES = {
    "en": _ENGLISH,
    "fr": Abbreviations(
        titles="M MM mme mmes mlle mlles Pr Me Mes mgr Ste Vve Cdt Cne Lt Col Gal Cap S.M S.E",
        shortened="""
            p.ex c.-à-d J.-C apr av bd boul pl env ex éd éds dép dépt hab chap chapitre coll fasc tél réf env moy
            janv févr fév avr juil oct nov déc boul Cie Sté Ets S.A s.v.p r.d.v N.B P.-S suiv sq id op cit trad vol
            p.m.e
        """,
        numbered="no n art fig mar mer jeu ven sam dim lun sept",
        starters="""
            le la les l' un une des il elle ils elles on nous vous je j' tu ce c' cette ces cet cela ça mon ma mes ton ta
            tes son sa ses notre nos votre vos leur leurs et mais ou donc or car puis alors ensuite après avant quand
            lorsque si comme parce pour par dans en sur sous avec sans chez depuis pendant qui que quoi qu' où comment
            pourquoi quel quelle quels quelles est était sont n' ne non oui merci tout tous toute toutes chaque personne
            rien plusieurs plus très aujourd' demain hier enfin peut voici voilà d' là ici aussi bien même cependant
            pourtant toutefois finalement soudain y au aux à s' celui celle ceux
        """,
    ),
    "de": Abbreviations(
        titles="Hr Hrn Fr Frl Fam Dipl Ing Mag Nr Nrn Hl St",
        shortened="""
            z.B d.h u.a u.ä o.ä z.T u.U i.d.R s.o s.u i.A i.V m.E u.s.w v.a e.V h.c v.Chr n.Chr Chr
            bzw usw ca vgl evtl inkl exkl zzgl abzgl ggf ggfs sog geb gest verh bes allg med phil jur rer nat habil lat engl frz dt bspw
            entspr jew urspr ehem röm griech Abs Art Bd Bde Kap Abb Anm Aufl Hrsg Hg Verf Vors Jh Jhd Jhs Mio Mrd Tsd
            Std Min Sek Stk Stck Etg MwSt ff f Tel Str str -str Pl Bhf Univ Mrz Mär Jun Jul Sep Okt Dez Mo Di Mi Do Sa Ges gem gez lfd
            max min mind höchst Nachf Gebr Co Dtl Dtzd Pkt Ziff Zt z.Z z.Zt Tab Red Reg Bez
        """,
        numbered="So S",
        starters="""
            der die das ein eine einen einem einer er sie es wir ihr ich du man dann danach da dort hier jetzt nun heute
            morgen gestern und aber oder doch denn wenn als weil obwohl nachdem bevor während in im am an auf aus bei
            beim mit nach von vom zu zum zur für über unter um seit bis durch ohne gegen was wer wie wo warum wann wieso
            welche welcher welches beide beides mehr dieser diese dieses diesen dem den des mein meine dein deine sein seine unser unsere
            ihre alle alles viele einige manche jeder jede jedes kein keine niemand nichts nein ja nicht nur auch so
            sehr bitte danke schon noch trotzdem deshalb deswegen außerdem später schließlich zuerst natürlich
            vielleicht leider ist sind war waren hat haben hatte kann können wird werden dabei damit daher dafür
            zwar endlich plötzlich
        """,
        ordinals=True,
    ),
    "es": Abbreviations(
        titles="""
            sr sra srta sres sras srtas dra dres dras D dña Da profa ing lic arq Gral Cnel Cmdt Tte Mons Fr Sto Sta Pbro
            Excmo Excma Ilmo Ilma Hno Hna Rvdo S.M abg mtro mtra
        """,
        shortened="""
            Ud Uds Vd Vds pág págs p.ej EE.UU FF.AA a.C d.C núm núms tel tfno av avda ene feb abr jun jul ago oct nov dic
            lun mié jue vie sáb aprox máx mín izq dcha Cía Ltda S.A S.L Hnos dpto depto prov apdo ed eds párr admón
            cap caps teléf ej esq art arts vols trad
        """,
        numbered="no n fig mar may sept set dom",
        starters="""
            el la los las un una unos unas lo él ella ellos ellas yo tú nosotros vosotros usted ustedes esto este esta
            estos estas eso ese esa esos esas aquel aquella mi mis tu tus su sus nuestro nuestra y e pero o sino porque
            pues entonces luego después antes cuando si como para por en con sin sobre desde hasta hacia entre qué quién
            quiénes cómo cuándo dónde cuál cuánto no sí ya hoy mañana ayer aquí allí ahora también además nadie nada
            todos todas todo cada muchos muchas algunos algunas varios hay es son está están era fue ha han gracias
            nunca siempre más se me le les nos al aunque mientras sin embargo finalmente tal quizás quizá que
        """,
    ),
    "it": Abbreviations(
        titles="""
            sig sigg sig.ra sig.na sig.ri sigg.ri dott dott.ssa dott.ri dr.ssa prof.ssa proff ing avv arch geom rag On
            Sen Gen Col Cap mons spett egr Gent Gent.mo Gent.ma Comm Cav S Ten Mar
        """,
        shortened="""
            ecc p.es ad.es es pag pagg p.zza v.le c.so tel int cap fig figg art artt gen feb apr mag giu lug ago sett ott dic
            lun mart mer gio ven sab dom a.C d.C S.p.A S.r.l N.B cfr num vv trad ed edd
        """,
        numbered="set mar n",
        starters="""
            il lo la i gli le l' un uno una io tu lui lei noi voi loro egli ella questo questa questi queste quello
            quella quelli quelle mio mia tuo tua suo sua nostro nostra e ed ma o però perché poi quindi allora dopo prima
            quando se come per in con senza su nel nella nei nelle al alla ai dal sul sulla tra fra chi che cosa dove
            quale quanto non no sì già oggi domani ieri qui lì là ora adesso anche inoltre nessuno niente tutti tutte
            tutto ogni molti molte alcuni alcune c' ci è sono era erano ha hanno grazie mai sempre più si mentre invece
            infine forse
        """,
    ),
    "ko": Abbreviations(titles="", shortened="", numbered="no", starters=_ENGLISH.starters, dates=True),
    "hi": Abbreviations(
        titles="डॉ डा श्री श्रीमती सुश्री प्रो पं कु मो स्व इंजी",
        shortened="""
            रु ई.पू कि.मी कि.ग्रा सं पृ क्र उदा ए बी सी डी एफ जी एच आई जे के एल एम एन ओ पी आर एस टी यू वी
        """,
        numbered="no",
        starters=_ENGLISH.starters,
    ),
    "ar": Abbreviations(titles="د أ م أ.د م.د", shortened="ص ج ه ق.م إلخ الخ", numbered="", starters=""),
    "tr": Abbreviations(
        titles="Doç Av Sn Öğr Gör Yrd Op Uzm Alb Ord Hz",
        shortened="vb vs vd örn bkz Cad Sok Mah Apt yy M.Ö M.S T.C A.Ş Ltd Şti çev haz",
        numbered="no s sf",
        starters="",
        ordinals=True,
    ),
    "ru": Abbreviations(
        titles="г гр проф акад доц им ул пр пл св гл т т.е т.н т.о т.к д.б",
        shortened="т.д т.п т.ч др пр руб коп тыс млн млрд см стр рис табл гг вв н.э кв обл",
        numbered="",
        starters="",
    ),
    "pt": Abbreviations(
        titles="Sr Sra Srta Sres Dra Drs Profa Eng Arq Exmo Exma D Av R Pe",
        shortened="p.ex ex etc pág págs cap vol ed núm tel séc a.C d.C Ltda S.A Cia fig aprox",
        numbered="n no art",
        starters="",
    ),
}  # fmt: skip
# Of other languages no words are known. In these, "3." is the third.
_ORDINALS = frozenset(
    [
        "bs",
        "cs",
        "da",
        "et",
        "fi",
        "fo",
        "hr",
        "hu",
        "is",
        "lb",
        "lv",
        "mk",
        "nb",
        "nn",
        "no",
        "pl",
        "se",
        "sk",
        "sl",
        "sr",
    ]
)
_OTHER = Abbreviations(titles="", shortened="", numbered="", starters="")
_OTHER_WITH_ORDINALS = Abbreviations(titles="", shortened="", numbered="", starters="", ordinals=True)


def of(language: str) -> Abbreviations:
    """The tables of `language`; for one without its own, a foreign name's titles alone."""
    return _LANGUAGES.get(language) or (_OTHER_WITH_ORDINALS if language in _ORDINALS else _OTHER)
