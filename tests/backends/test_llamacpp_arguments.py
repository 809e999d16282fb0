"""Whatever a request asks for, it ends with an answer or an error, and the process lives."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee import registry
from tests.support.tiny_gguf import write_llama

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
NUMBERS = st.sampled_from(
    [0.0, -1.0, 1.0, 0.5, 1e-30, 1e30, -1e30, 5.0, 100.0, math.inf, -math.inf, math.nan]
)
WHOLE = st.sampled_from([-(2**31), -1, 0, 1, 2, 40, 300, 301, 2**31 - 1, 2**40])
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["\0", "\ud800", "<|im_start|>", "a" * 3000, "🐝" * 50])
)
SCHEMAS = st.sampled_from(
    [{}, {"type": "nothing"}, {"$ref": "#/none"}, {"enum": []}, {"type": "integer"}, {"not": {}}]
)
GRAMMARS = st.one_of(st.text(max_size=30), st.sampled_from(['root ::= "a"*', "root ::= root"]))
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": TEXTS,
        "max_tokens": WHOLE,
        "temperature": NUMBERS,
        "top_p": NUMBERS,
        "top_k": WHOLE,
        "min_p": NUMBERS,
        "repetition_penalty": NUMBERS,
        "presence_penalty": NUMBERS,
        "frequency_penalty": NUMBERS,
        "logit_bias": st.dictionaries(WHOLE, NUMBERS, max_size=3),
        "seed": WHOLE,
        "stop": st.lists(TEXTS, max_size=3),
        "ignore_eos": st.booleans(),
        "logprobs": WHOLE,
        "grammar": GRAMMARS,
        "json_schema": SCHEMAS,
        "cache": st.booleans(),
        "deterministic": st.booleans(),
    },
)

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


@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=40, max_size=40))
def test_no_argument_ends_the_process(model_file, requests):
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(model_file)],
        input="\n".join(json.dumps(request) for request in requests),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    outcomes = json.loads(child.stdout)
    assert outcomes["done"] + outcomes["refused"] == len(requests)
