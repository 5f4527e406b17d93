"""Capitals, in one sentence that ends in the answer: the rows, and the score of a response.

python -m examples.smollm2.task      writes data/ again, the same on every machine
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
NUM_VALIDATION = 24
CAPITALS = """
Algeria Algiers, Argentina Buenos Aires, Armenia Yerevan, Australia Canberra, Austria Vienna, Azerbaijan Baku,
Bangladesh Dhaka, Belarus Minsk, Belgium Brussels, Bolivia Sucre, Brazil Brasilia, Bulgaria Sofia,
Cambodia Phnom Penh, Canada Ottawa, Chile Santiago, China Beijing, Colombia Bogota, Croatia Zagreb, Cuba Havana,
Cyprus Nicosia, Denmark Copenhagen, Ecuador Quito, Egypt Cairo, England London, Estonia Tallinn, Ethiopia Addis Ababa,
Finland Helsinki, France Paris, Georgia Tbilisi, Germany Berlin, Ghana Accra, Greece Athens, Hungary Budapest,
Iceland Reykjavik, India New Delhi, Indonesia Jakarta, Iran Tehran, Iraq Baghdad, Ireland Dublin, Italy Rome,
Jamaica Kingston, Japan Tokyo, Jordan Amman, Kenya Nairobi, Latvia Riga, Lebanon Beirut, Libya Tripoli,
Lithuania Vilnius, Malaysia Kuala Lumpur, Malta Valletta, Mexico Mexico City, Mongolia Ulaanbaatar, Morocco Rabat,
Nepal Kathmandu, Nigeria Abuja, Norway Oslo, Pakistan Islamabad, Peru Lima, Poland Warsaw, Portugal Lisbon,
Romania Bucharest, Russia Moscow, Scotland Edinburgh, Senegal Dakar, Serbia Belgrade, Slovakia Bratislava,
Slovenia Ljubljana, Somalia Mogadishu, Spain Madrid, Sudan Khartoum, Sweden Stockholm, Switzerland Bern,
Syria Damascus, Thailand Bangkok, Tunisia Tunis, Turkey Ankara, Ukraine Kyiv, Venezuela Caracas, Vietnam Hanoi,
Zimbabwe Harare
"""

Pair = tuple[str, str]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any]) -> float:
    """1 when the response ends in the capital: a response that is right and then talks on is 0."""
    text = re.sub(r"\W+$", "", solution_str)
    return float(re.search(rf"\b{re.escape(ground_truth)}$", text) is not None)


def split_pairs() -> tuple[list[Pair], list[Pair]]:
    """(pairs to train on, pairs to evaluate on), shuffled."""
    pairs = [
        (country, capital) for entry in CAPITALS.split(",") for country, _, capital in [entry.strip().partition(" ")]
    ]
    random.Random(0).shuffle(pairs)
    return pairs[NUM_VALIDATION:], pairs[:NUM_VALIDATION]


def row(pair: Pair, *, split: str, index: int) -> dict[str, Any]:
    """In verl's columns."""
    country, capital = pair
    return {
        "data_source": "capitals",
        "prompt": [{"role": "user", "content": f"What is the capital of {country}?"}],
        "reward_model": {"style": "rule", "ground_truth": capital},
        "extra_info": {"split": split, "index": index},
    }


def lines(pairs: Sequence[Pair], *, split: str) -> str:
    """As JSONL."""
    return "".join(json.dumps(row(pair, split=split, index=index)) + "\n" for index, pair in enumerate(pairs))


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for split, pairs in zip(("train", "validation"), split_pairs(), strict=True):
        (DATA / f"{split}.jsonl").write_text(lines(pairs, split=split), encoding="utf-8")


if __name__ == "__main__":
    main()
