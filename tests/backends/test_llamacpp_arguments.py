"""Whatever a request asks for, it ends with an answer or an error, and the process lives."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from typing import Any

import pytest

from rbee import registry
from tests.support.tiny_gguf import write_llama

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
NUMBERS = [0.0, -1.0, 1.0, 0.5, 1e-30, 1e30, -1e30, 5.0, 100.0, math.inf, -math.inf, math.nan]
WHOLE = [-(2**31), -1, 0, 1, 2, 40, 300, 301, 2**31 - 1, 2**40]
TEXTS = ["", "a", "hello world", "\0", "\ud800", "<|im_start|>", "a" * 3000, "🐝" * 50, "é\u0301"]
SCHEMAS = [
    {},
    {"type": "nothing"},
    {"$ref": "#/none"},
    {"enum": []},
    {"type": "integer"},
    {"not": {}},
]
GRAMMARS = ['root ::= "a"*', "root ::= root", 'root ::= ("a" | "b"){2}', "root ::= [^\\0]", "(", ""]
CHOICES: dict[str, list[Any]] = {
    "prompt": TEXTS,
    "max_tokens": WHOLE,
    "temperature": NUMBERS,
    "top_p": NUMBERS,
    "top_k": WHOLE,
    "min_p": NUMBERS,
    "repetition_penalty": NUMBERS,
    "presence_penalty": NUMBERS,
    "frequency_penalty": NUMBERS,
    "logit_bias": [{}, {"5": 1.0}, {"-1": 1.0}, {"9999999": 2.0}, {"7": math.nan, "8": math.inf}],
    "seed": WHOLE,
    "stop": [[], ["a"], ["", "\0"], TEXTS],
    "ignore_eos": [True, False],
    "logprobs": WHOLE,
    "grammar": GRAMMARS,
    "json_schema": SCHEMAS,
    "cache": [True, False],
    "deterministic": [True, False],
}


def request_of(chance: random.Random) -> dict[str, Any]:
    """Some fields, each with a value that somebody might send."""
    names = chance.sample(sorted(CHOICES), chance.randrange(1, 6))
    return {name: chance.choice(CHOICES[name]) for name in names}


_CHILD = """
import json, sys
from rbee.backend_api import Generation
from rbee.errors import RbeeError
from tests.support.backends import Driver, load

driver = Driver(load(sys.argv[1], slots=3, ctx=512))
outcomes = {"done": 0, "refused": 0}
for line in sys.stdin:
    options = json.loads(line)
    options["max_tokens"] = min(options.get("max_tokens", 5), 5)
    options["logit_bias"] = {int(k): v for k, v in options.get("logit_bias", {}).items()}
    options["stop"] = tuple(options.get("stop", ()))
    try:
        driver.submit(Generation(**{"prompt": "x"} | options)).done()
        outcomes["done"] += 1
    except RbeeError:
        outcomes["refused"] += 1
driver.ask(prompt="still alive", max_tokens=2)
driver.close()
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.parametrize("seed", [1, 2])
def test_no_argument_ends_the_process(model_file, seed):
    chance = random.Random(seed)
    requests = [request_of(chance) for _ in range(150)]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(model_file)],
        input="\n".join(json.dumps(request) for request in requests),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    outcomes = json.loads(child.stdout)
    assert outcomes["done"] + outcomes["refused"] == len(requests)
    assert outcomes["done"] > 20
    assert outcomes["refused"] > 20
