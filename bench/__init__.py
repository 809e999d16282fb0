"""Side-by-side measurements: rbee beside other programs, on the same machine, in the same run.

Nothing here is part of the product or imported by it; nothing here asserts a wall-clock time.
"""
