"""The keys of each screen: a module each, with its ACTIONS and the headings of its SCOPES."""
