"""GBNF: what passes the check is taken by llama.cpp, what is refused has a place and a reason."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rbee.backends.llamacpp import gbnf

from rbee.errors import ValidationFailed
from tests.support import gbnf_native
from tests.support.gbnf_walk import Walk

GOOD = [
    # grammar, sentences, other texts
    ('root ::= "a"', ["a"], ["", "b", "aa"]),
    ('root ::= "a" b  # the end\n\nb ::= [0-9]{1,3} | ("x" # in a group\n | "y")*', ["a1", "a",
     "axyx"], ["a1234"]),
    ("root ::= [^a-c\\n]+ | .", ["xyz", "a"], ["xa", "\n\n"]),
    ('root ::= "\\x41\\u00e9\\U0001F41D\\t\\"\\\\\\[\\]\\-\\r\\n"', ['Aé🐝\t"\\[]-\r\n'], ["A"]),
    ("root ::= [a\\]\\-\\\\^\\x30-9-]{2}", ["a]", "-\\", "^5", "--"], ["b", "aa]"]),
    ('root::="é"{ 2 , }\r\n', ["éé", "ééé"], ["é"]),
    ('root ::= item\nitem ::= "(" item ")" |\r"x"', ["((x))", "x"], ["((x)", ""]),
    ('root ::= "a"{0} "b"{2} "c"{0,2} ("d" | "")', ["bb", "bbccd"], ["bbccc", "abb"]),
    ("root ::= (\n | [a-z]\n  -under-\n )\n-under- ::= [0-9] ?\n", ["", "a", "a1"], ["1"]),
    ('root ::= | "a" root', ["", "aaa"], ["b"]),
    ("root ::= [\\x00-\\x7F]{1,4}", ["abcd"], ["é"]),
]  # fmt: skip


def test_good_grammars_are_taken_with_the_same_sentences():
    work = [(source, [*good, *bad]) for source, good, bad in GOOD]
    expected = [[True] * len(good) + [False] * len(bad) for _, good, bad in GOOD]
    for (source, texts), answer in zip(work, expected, strict=True):
        gbnf.check(source)
        assert [Walk(source).accepts(text) for text in texts] == answer, source
    assert gbnf_native.ask(work) == expected


BAD = [
    ("", "line 1, column 1: no rule is called 'root'"),
    ("# nothing", "line 1, column 1: no rule is called 'root'"),
    ('main ::= "a"', "line 1, column 1: no rule is called 'root'"),
    ('root ::= "a" b\n  c\nc ::= "x"', "line 2, column 4: expected ::= after 'c'"),
    ('root ::= "a" b\nc ::= b "x"', "line 1, column 14: the rule 'b' is used and not defined"),
    ('root = "a"', "line 1, column 6: expected ::="),
    ('root ::= "a"\n\n;', "line 3, column 1: expected the name of a rule"),
    ('root ::= "a" )', "line 1, column 14: unexpected ')'"),
    ('root ::= ("a"\n', "line 2, column 1: expected ')' for the '(' in line 1, column 10"),
    ('root ::= "a', "line 1, column 10: the text that begins here does not end"),
    ('root ::= "\\q"', "line 1, column 11: unknown escape"),
    ('root ::= "\\x4"', "line 1, column 11: unknown escape"),
    ('root ::= "a\\', "line 1, column 12: unknown escape"),
    ('root ::= "\\uD800"', "line 1, column 11: U+D800 is no character"),
    ('root ::= "\\UFFFFFFFF"', "line 1, column 11: U+FFFFFFFF is no character"),
    ('root ::= "\\x00"', "line 1, column 11: U+0000 is never generated"),
    ('root ::= "\0"', "line 1, column 11: U+0000 cannot stand in a grammar"),
    ('root ::= "\ud800"', "line 1, column 11: a lone surrogate"),
    ("root ::= [a", "line 1, column 10: the set of characters that begins here does not end"),
    ("root ::= [a-", "line 1, column 10: the set of characters that begins here does not end"),
    ("root ::= []", "line 1, column 10: the set of characters is empty"),
    ("root ::= [^]", "line 1, column 10: the set of characters is empty"),
    ("root ::= [z-a]", "line 1, column 11: a range of characters is reversed"),
    ("root ::= [^\\x01-\\U0010FFFF]", "line 1, column 10: the set matches no character"),
    ("root ::= [\\x00]", "line 1, column 10: the set matches no character"),
    ("root ::= *", "line 1, column 10: there is nothing for '*' to repeat"),
    ('root ::= ""+', "line 1, column 12: there is nothing for '+' to repeat"),
    ('root ::= "a"{,3}', "line 1, column 14: expected a number of repetitions"),
    ('root ::= "a"{3', "line 1, column 15: expected '}'"),
    ('root ::= "a"{3,1}', "line 1, column 13: {3,1} is less than its beginning"),
    ('root ::= "a"{2001}', "line 1, column 14: 2001 repetitions are more than the 2000 allowed"),
    ('root ::= "a"{1,99999999999999999999}', "line 1, column 16: 99999999999999999999 repetitions"),
    ('root ::= "a"{100}{100}', "line 1, column 23: 10000 repetitions are more than"),
    ('root ::= ("a"{0,50}){0,50}', "line 1, column 27: 2550 repetitions are more than"),
    (f'root ::= "{"x" * 300}"' + "{2000}", "line 1, column 318: with its repetitions written out"),
    ("root ::= " + "(" * 50 + '"a"' + ")" * 50, "line 1, column 50: parentheses are nested more"),
    ('root ::= "a"\nroot ::= "b"',
     "line 2, column 1: the rule 'root' is already defined in line 1"),
    ("root ::= <think>", "line 1, column 10: tokens (<…>) are not supported"),
    ("root ::= !<[5]>", "line 1, column 10: tokens (<…>) are not supported"),
    ('root ::= "x"\n\nx ::= x "a" | "b"',
     "line 3, column 1: left recursion: the rule 'x' may begin"),
    ('root ::= a "x" | "y"\na ::= b\nb ::= root',
     "line 1, column 1: left recursion: the rule 'root' may begin with itself (root → a → b → r"),
    ('root ::= e root "x" | "y"\ne ::= f\nf ::= "a" |', "line 1, column 1: left recursion"),
    ('root ::= "a"**', "line 1, column 1: left recursion"),
    ('root ::= ("a"?)*', "line 1, column 1: left recursion"),
    ('root ::= "a" root', "line 1, column 1: the rule 'root' can never end"),
    ('root ::= "a" | loop\nloop ::= "b" loop', "line 2, column 1: the rule 'loop' can never end"),
    ('root ::= "' + "x" * 70_000 + '"', "line 1, column 1: 70011 bytes are more than the 65536"),
]  # fmt: skip


@pytest.mark.parametrize("text, message", BAD, ids=[message for _, message in BAD])
def test_bad_grammars_are_refused_by_their_place(text, message):
    with pytest.raises(ValidationFailed) as caught:
        gbnf.check(text)
    assert caught.value.message.startswith(f"grammar: {message}")
    details = caught.value.details
    assert details["field"] == "grammar"
    assert details["constraint"]
    assert message.startswith(f"line {details['line']}, column {details['column']}: ")


COSTLY = {
    "doubling": 'root ::= s\ns ::= "a" s "b" | "a" s "c" |',
    "doubling by groups": 'root ::= (("(" root ")" "x") | ("(" root ")" "y") | "z")',
    "the same way twice": 'root ::= ("a" | "a")* "x"',
    "spaces after spaces": "root ::= " + "ws " * 12 + '"x"\nws ::= [ ]*',
    "many ways to begin": "root ::= a0\n"
    + "".join(f'a{i} ::= a{i + 1} | a{i + 1} "x"\n' for i in range(40))
    + 'a40 ::= "x"',
    "optional of optional": 'root ::= ("a"?){0,1500}',
    "a long chain": "root ::= a0\n"
    + "".join(f"a{i} ::= a{i + 1}\n" for i in range(2600))
    + 'a2600 ::= "x"',
    "many alternatives alike": "root ::= " + " | ".join(f'"a{i:03}"' for i in range(600)),
}


@pytest.mark.parametrize("text", COSTLY.values(), ids=COSTLY)
def test_grammars_that_would_cost_without_measure_are_refused_in_time(text):
    begin = time.process_time()
    with pytest.raises(ValidationFailed) as caught:
        gbnf.check(text)
    assert time.process_time() - begin < 2
    assert caught.value.details["constraint"] in ("ambiguity", "size")


def random_grammar(dice: random.Random) -> str:
    """A grammar that is mostly good: its references and groups stand behind text."""
    names = ["root", "a", "b-1", "C"][: dice.randint(1, 4)]
    texts = ['"x"', '"ab"', '"\\n\\u00e9"', "[a-z]", "[^x\\]]", "[0-9é_-]", ".", '"🐝"']
    times = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "{ 0, }"]

    def item(depth: int) -> str:
        kind = dice.random()
        if depth < 3 and kind < 0.25:
            space = dice.choice([" ", "\n", ""])
            return f"({space}{ways(depth + 1)}{space})" + dice.choice(times)
        if kind < 0.4:
            return dice.choice(names) + dice.choice(["", "?"])
        return '""' if kind > 0.95 else dice.choice(texts) + dice.choice(times)

    def ways(depth: int) -> str:
        found = [
            " ".join([dice.choice(texts), *(item(depth) for _ in range(dice.randint(0, 3)))])
            for _ in range(dice.choice([1, 1, 2, 3]))
        ]
        return " | ".join(found)

    lines = [f"{name} ::= {dice.choice(['', '[q]'])} | {ways(0)}" for name in names]
    dice.shuffle(lines)
    return dice.choice(["\n", "\r\n", " # note\n\n"]).join(lines)


def damaged(text: str, dice: random.Random) -> str:
    """The same with some characters lost, doubled or replaced."""
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(text) + 1)
        extra = dice.choice(
            ["", *'"[](){}|*+?^-.,:=\\#<!>\r\n 0a9é', "::=", "{9,2}", "\\x", "{2000}"]
        )
        text = text[:at] + extra + text[at + dice.randrange(3) :]
    return text


def test_whatever_passes_is_taken_by_the_library_with_the_same_sentences():
    work: list[tuple[str, list[str]]] = []
    expected: list[list[bool]] = []
    tried = 0

    @settings(max_examples=15, deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def run(seed):
        nonlocal tried
        dice = random.Random(seed)
        for _ in range(10):
            tried += 1
            text = random_grammar(dice)
            text = damaged(text, dice) if dice.random() < 0.5 else text
            try:
                gbnf.check(text)
            except ValidationFailed:
                continue
            walk = Walk(text)
            sentences = [walk.sentence(dice, 20) for _ in range(3)]
            texts = [*sentences, *(damaged(sentence, dice) for sentence in sentences)]
            texts = [text for text in texts if len(text) < 200]
            work.append((text, texts))
            expected.append([walk.accepts(text) for text in texts])
            assert all(walk.accepts(sentence) for sentence in sentences)

    run()
    assert 0.1 * tried < len(work) < tried
    gbnf_native.agree(work, expected)
