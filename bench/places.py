"""Where the harness keeps what it builds, makes and finds out. Owns paths, never their content."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "bench" / ".build"
"""Built once and kept; may be deleted."""
MODELS = BUILD / "models"
LOGS = BUILD / "logs"
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
