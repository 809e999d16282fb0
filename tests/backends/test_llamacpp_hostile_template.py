"""Templates that want time, memory or a way out: each in a process of its own, with a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")
DOUBLING = "{% set ns = namespace(x='ab', y='ab') %}{% for i in range(60) %}"
TREES = (
    "{% set ns = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
BIG = "{% set x = 'a' * 1000000 %}"
LOOP = "{% for i in range(99999) %}"
HOSTILE = {
    "nested loops": LOOP * 3 + "{% endfor %}" * 3,
    "loops in a macro": "{% macro m() %}" + LOOP * 2 + "x" + "{% endfor %}" * 2
    + "{% endmacro %}{{ m() }}",
    "filtered loops": LOOP + "{% for a in range(99999) if i < 0 %}{% endfor %}{% endfor %}",
    "calls that branch": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(90) }}",
    "chained generators": "{% set ns = namespace(g=['a']) %}" + LOOP
    + "{% set ns.g = ns.g | map('upper') %}{% endfor %}{{ ns.g | list }}",
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated list": "{{ [1] * 10**10 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set ns = namespace(n=7) %}{% for i in range(90) %}{% set ns.n = ns.n * ns.n %}"
    "{% endfor %}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "format": "{{ '{:9999999999d}'.format(1) }}",
    "format of format": "{{ '{:{}}'.format(1, 10**9) }}",
    "format copies": BIG + "{{ ('{0}' * 1000).format(x) }}",
    "padding": "{{ 'x'.center(10**10) }}",
    "replace": BIG + "{{ x.replace('a', x) }}",
    "replace filter": BIG + "{{ x | replace('a', x) }}",
    "join": BIG + "{{ ([x] * 100000) | join(x) }}",
    "join method": BIG + "{{ x.join([x] * 100000) }}",
    "indent": "{% set x = '\\n' * 1000000 %}{{ x | indent(10000, true, true) }}",
    "tojson": "{{ [[1]] | tojson(indent=10**9) }}",
    "doubling ~": DOUBLING + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling +": DOUBLING + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling set": DOUBLING + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    "{% endfor %}",
    "doubling macro": "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}" + DOUBLING
    + "{% set ns.x = d(ns.x) %}{% endfor %}",
    "tree as text": TREES + "{{ ns.x }}",
    "tree as json": TREES + "{{ ns.x | tojson }}",
    "trees compared": TREES + "{{ ns.x == ns.y }}",
    "tree of arguments": "{% macro m(n) %}{% if n < 60 %}{{ m(n + 1, varargs, varargs) }}"
    "{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ m(0, 1, 2) }}",
    "kept slices": BIG + "{% set ns = namespace(l=[]) %}" + LOOP
    + "{% set ns.l = ns.l + [x[i:]] %}{% endfor %}",
    "kept words": "{% set x = 'a ' * 500000 %}{% set ns = namespace(l=[]) %}" + LOOP
    + "{% set ns.l = ns.l + [x.split()] %}{% endfor %}",
    "output": BIG + LOOP + "{{ x }}{% endfor %}",
    "many expressions": "{{ x }}" * 8000 + LOOP * 2 + "{% endfor %}" * 2,
}  # fmt: skip


TIMED = {
    "nested loops", "loops in a macro", "filtered loops", "calls that branch",
    "chained generators", "many expressions",
}  # fmt: skip
"""Those that nothing but the time ends; they get less of it than a model's template does."""


@pytest.fixture(scope="module")
def results():
    asked = {name: (source, 0.4 if name in TIMED else 20.0) for name, source in HOSTILE.items()}
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("template_run.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_template_is_refused_in_time_and_within_memory(results, what):
    result = results[what]
    assert result.get("code") in ("MODEL_INCOMPATIBLE", "VALIDATION_ERROR"), result
    assert ("takes longer" in result["message"]) is (what in TIMED), result
    assert result["seconds"] < 25
    assert result["mib"] < 300
