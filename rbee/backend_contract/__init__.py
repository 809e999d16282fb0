"""What rbee counts on from a backend, as checks that any backend can run against itself.

`run` goes through all of them with one model and tells what each found. They need nothing but the
backend: no pytest, no queen. In a test of your own:

    from rbee import backend_contract

    def test_my_backend_keeps_the_contract(tmp_path):
        found = backend_contract.run(my_package.INFO, my_model_file, scratch=tmp_path)
        assert not [one for one in found if one.state == "failed"]

`harness` asks a loaded model and collects its answers, `checks` are the clauses, `tiny` makes a
model of safetensors where none is at hand. `python -m rbee.backend_contract` runs them in a process
of their own, as `rbee backend check` does: a backend may take its process down with it.
"""

from __future__ import annotations

from rbee.backend_contract.checks import NAMES, Found, run
from rbee.backend_contract.harness import Answer, Bench, Broken

__all__ = ["NAMES", "Answer", "Bench", "Broken", "Found", "run"]
