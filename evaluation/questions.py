"""272 short questions with one right answer each, as lines for `conf-server uncertainty`.

python -m evaluation.questions > questions.jsonl
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

CAPITALS = """
France Paris;Germany Berlin;Italy Rome;Spain Madrid;Portugal Lisbon;Austria Vienna;
Greece Athens;Poland Warsaw;Hungary Budapest;Sweden Stockholm;Norway Oslo;Finland Helsinki;
Denmark Copenhagen;Ireland Dublin;Belgium Brussels;the Netherlands Amsterdam;Switzerland Bern;
Romania Bucharest;Bulgaria Sofia;Croatia Zagreb;Serbia Belgrade;Slovakia Bratislava;
Slovenia Ljubljana;Albania Tirana;Iceland Reykjavik;Estonia Tallinn;Latvia Riga;
Lithuania Vilnius;Ukraine Kyiv;Russia Moscow;Turkey Ankara;Israel Jerusalem;Egypt Cairo;
Libya Tripoli;Tunisia Tunis;Algeria Algiers;Morocco Rabat;Sudan Khartoum;
Ethiopia Addis Ababa;Kenya Nairobi;Uganda Kampala;Rwanda Kigali;Tanzania Dodoma;
Zambia Lusaka;Zimbabwe Harare;Angola Luanda;Nigeria Abuja;Ghana Accra;Senegal Dakar;
Mali Bamako;Cameroon Yaounde;Madagascar Antananarivo;Iraq Baghdad;Iran Tehran;Syria Damascus;
Jordan Amman;Lebanon Beirut;Saudi Arabia Riyadh;Yemen Sanaa;Oman Muscat;Qatar Doha;
Kuwait Kuwait City;Afghanistan Kabul;Pakistan Islamabad;India New Delhi;Nepal Kathmandu;
Bhutan Thimphu;Bangladesh Dhaka;Thailand Bangkok;Vietnam Hanoi;Laos Vientiane;
Cambodia Phnom Penh;Malaysia Kuala Lumpur;Indonesia Jakarta;the Philippines Manila;
China Beijing;Mongolia Ulaanbaatar;Japan Tokyo;South Korea Seoul;North Korea Pyongyang;
Kazakhstan Astana;Uzbekistan Tashkent;Australia Canberra;New Zealand Wellington;Fiji Suva;
Canada Ottawa;the United States Washington;Mexico Mexico City;Cuba Havana;Jamaica Kingston;
Haiti Port-au-Prince;Guatemala Guatemala City;Honduras Tegucigalpa;Costa Rica San Jose;
Panama Panama City;Colombia Bogota;Venezuela Caracas;Ecuador Quito;Peru Lima;Chile Santiago;
Argentina Buenos Aires;Uruguay Montevideo;Paraguay Asuncion;Brazil Brasilia;Bolivia Sucre
"""
OPPOSITES = """
hot cold;big small;fast slow;up down;light dark;happy sad;rich poor;open closed;young old;day night;
hard soft;wet dry;strong weak;long short;high low;early late;true false;left right;good bad;
full empty;love hate;near far;loud quiet;clean dirty;win lose;push pull;begin end;heavy light;
thick thin;deep shallow;wide narrow;sharp dull;cheap expensive;safe dangerous;brave cowardly;
victory defeat;ancient modern;increase decrease;accept reject;arrive depart;friend enemy;
sunrise sunset;north south;inside outside;always never;smooth rough;public private;guilty innocent
"""
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September"]
MONTHS += ["October", "November", "December"]
SUMS = 100
SEED = 20261122

_BRIEFLY = "Answer with one short sentence."


def _table(text: str, countries: bool) -> Iterator[tuple[str, str]]:
    """Pairs of a table above; a country's name may have several words, or its capital may."""
    for entry in text.replace("\n", "").split(";"):
        words = entry.split()
        long_names = ("the", "Saudi", "South", "North", "New", "Costa")
        if not countries:
            split = 1
        elif entry.startswith("the United"):
            split = 3
        else:
            split = 2 if words[0] in long_names else 1
        yield " ".join(words[:split]), " ".join(words[split:])


def questions() -> Iterator[tuple[str, str, str]]:
    """(kind, question, right answer)."""
    for country, capital in _table(CAPITALS, countries=True):
        yield "capital", f"What is the capital of {country}?", capital
    for word, opposite in _table(OPPOSITES, countries=False):
        yield "opposite", f'What is the opposite of "{word}"?', opposite
    for sequence, what in ((DAYS, "day"), (MONTHS, "month")):
        for here, after in zip(sequence, sequence[1:] + sequence[:1], strict=True):
            yield "sequence", f"Which {what} comes after {here}?", after
    draw = random.Random(SEED)
    pairs = [(a, b) for a in range(1, 30) for b in range(1, 30)]
    for a, b in draw.sample(pairs, SUMS):
        yield "sum", f"What is {a} + {b}?", str(a + b)


def lines() -> Iterator[dict[str, Any]]:
    for number, (kind, question, answer) in enumerate(questions()):
        yield {
            "id": f"{kind}-{number}",
            "messages": [{"role": "user", "content": f"{question} {_BRIEFLY}"}],
            "max_tokens": 24,
            "seed": number,
            "reference": answer,
            "metadata": {"kind": kind},
        }


if __name__ == "__main__":
    for line in lines():
        print(json.dumps(line))
