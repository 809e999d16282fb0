"""Measurements of the queen: what she costs beside a bare proxy, and how she bears many of all."""
