"""GSM8K -> prompts in verl's columns.

Reads JSON lines, plain or gzipped, either as published (`question`, `answer` ending in `#### 42`) or with `problem` and
the bare `answer`; writes JSONL or parquet by the ending of the output's name.

    python examples/gsm8k/prepare.py train.jsonl.gz train.parquet --split train --limit 1000
"""

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

INSTRUCTION = "Let's think step by step and put the final answer within \\boxed{}."


def published_rows(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def prompt_row(published: dict[str, Any], *, split: str, index: int) -> dict[str, Any]:
    """One row in verl's columns; the answer is what follows the last `####`, without thousands commas."""
    question = published.get("question") or published["problem"]
    answer = str(published["answer"]).rpartition("####")[2].strip().replace(",", "")
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{question} {INSTRUCTION}"}],
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": split, "index": index},
    }


def write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--limit", type=int, help="only the first so many rows")
    arguments = parser.parse_args()
    published = islice(published_rows(arguments.source), arguments.limit)
    write((prompt_row(row, split=arguments.split, index=i) for i, row in enumerate(published)), arguments.target)


if __name__ == "__main__":
    main()
