"""The comparison of three engines: what it counts, and the run that vLLM is given."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.generation.engines_beside import QUICKSTART, Engines, cpu_seconds, vllm_config


def test_the_cpu_time_of_a_process_holds_that_of_those_it_started() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        of_child = cpu_seconds(child.pid)
        assert of_child >= 0.29  # in ticks of a hundredth of a second
        assert cpu_seconds(os.getpid()) >= of_child
        child.communicate("\n")


def test_a_row_of_the_table_has_each_engine_and_how_ours_compares() -> None:
    assert Engines(ours=300.0, vllm=200.0, generate=100.0).cells() == "300 | 200 | 100 | 1.50 | 3.00"


def test_vllm_is_given_the_model_and_the_lengths_of_the_rows() -> None:
    config = vllm_config(QUICKSTART, slots=4, longest=30)

    assert config.model.path == Path(QUICKSTART).resolve()
    assert (config.generation.engine, config.generation.num_slots, config.generation.seeds) == ("vllm", 4, False)
    assert (config.run.max_prompt_length, config.run.max_response_length) == (30, 30)
