"""Other machines over SSH: who they are, one connection each, commands, files, forwards, rbee there.

Only the queen uses it. asyncssh takes 190 ms to import, so that only the modules which are always
reached through a connection import it on top (`login`, `sending`); the others do inside functions.
"""
