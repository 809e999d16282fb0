"""Who may use the queen, and how much of her was used: keys, certificates, counts on disk.

Knows no route and no daemon, so that commands use it while no queen runs.
"""
