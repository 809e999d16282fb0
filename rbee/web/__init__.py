"""The screens in a browser of this machine: a door that opens once, and a process for each tab.

Owns the HTTP server of `rbee web`. The screens are rbee.tui's, drawn by textual-serve's terminal;
nothing here knows what they show, and nothing is served to other machines.
"""
