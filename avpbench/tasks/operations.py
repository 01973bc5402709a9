"""The words of wordmath: names, objects, operations and their templates.

Templates are written with fields {A} {B} {C} (people), {o} (the object), {n} {m} (numbers). The last template of
each operation is held out for the level `unseen_templates`; the last 8 names and 6 objects for `unseen_names`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

NAMES = (
    "Tom",
    "Sue",
    "Ben",
    "Amy",
    "Max",
    "Ann",
    "Joe",
    "Eva",
    "Sam",
    "Kim",
    "Leo",
    "Mia",
    "Dan",
    "Zoe",
    "Ian",
    "Ava",
    "Jim",
    "Liz",
    "Ray",
    "Fay",
    "Bob",
    "Ivy",
    "Ted",
    "Meg",
    "Rob",
    "Joy",
    "Gus",
    "Una",
    "Tim",
    "Pam",
    "Hal",
    "Nia",
    "Ned",
    "Ruth",
    "Carl",
    "Dora",
    "Hugo",
    "Lena",
    "Omar",
    "Tess",
    "Walt",
    "Vera",
    "Kurt",
    "Olga",
    "Nils",
    "Iris",
)
OBJECTS = (
    "apples",
    "pens",
    "books",
    "coins",
    "cards",
    "shells",
    "stamps",
    "eggs",
    "marbles",
    "stickers",
    "cookies",
    "beads",
    "plums",
    "roses",
    "cups",
    "balls",
    "boxes",
    "toys",
    "nuts",
    "pears",
    "bags",
    "kites",
    "rings",
    "bricks",
    "muffins",
    "tickets",
    "candles",
    "buttons",
)


@final
@dataclass(frozen=True, slots=True)
class Op:
    """One way to define a quantity. `calc` is Python arithmetic over {x} {y} (earlier quantities) and {n} {m}."""

    templates: tuple[str, ...]
    calc: str
    updates: bool = False  # changes a person's quantity instead of giving a new person one
    people: int = 1  # earlier quantities used
    numbers: tuple[tuple[int, int], ...] = ((2, 30),)


# fmt: off
RELATIONS = (
    Op(("{B} has {n} more {o} than {A}.", "{B} has {n} {o} more than {A} has.", "Compared with {A}, {B} owns {n} extra {o}."), "{x} + {n}"),
    Op(("{B} has {n} fewer {o} than {A}.", "{B} has {n} {o} less than {A} has.", "{B} is {n} {o} short of what {A} has."), "{x} - {n}"),
    Op(("{B} has {n} times as many {o} as {A}.", "{B} has {n} times the {o} that {A} has.", "For each of the {o} of {A}, {B} holds {n}."), "{x} * {n}", numbers=((2, 6),)),
    Op(("{B} has twice as many {o} as {A}.", "{B} has double the {o} of {A}.", "The {o} of {B} are two times those of {A}."), "{x} * 2", numbers=()),
    Op(("{B} has half as many {o} as {A}.", "{B} has half of what {A} has in {o}.", "{A} has twice the {o} that {B} has."), "{x} / 2", numbers=()),
    Op(("{B} has a third as many {o} as {A}.", "{B} has one third of the number of {o} of {A}.", "{A} has three times the {o} that {B} has."), "{x} / 3", numbers=()),
    Op(("{B} has a quarter as many {o} as {A}.", "{B} has one fourth of the number of {o} of {A}.", "{A} has four times the {o} that {B} has."), "{x} / 4", numbers=()),
    Op(("{C} has as many {o} as {A} and {B} together.", "{C} has the same number of {o} as {A} and {B} combined.", "The {o} of {A} and {B} add up to those of {C}."), "{x} + {y}", people=2, numbers=()),
    Op(("{B} collects {n} {o} every day for {m} days.", "Every day for {m} days {B} gets {n} {o}.", "It takes {B} {m} days, at {n} a day, to collect the {o}."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
    Op(("{B} makes {n} {o} an hour for {m} hours.", "In each of {m} hours {B} makes {n} {o}.", "{B} needs {m} hours for the {o}, at {n} an hour."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
    Op(("{B} has {n} dozen {o}.", "{B} owns {n} dozen {o}.", "The {o} of {B} fill {n} trays of a dozen."), "{n} * 12", people=0, numbers=((2, 9),)),
    Op(("{B} has {m} packs of {n} {o} each.", "{B} owns {m} packs with {n} {o} in each.", "The {o} of {B} come in {m} packs that hold {n} apiece."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
)
UPDATES = (
    Op(("Then {A} buys {n} more {o}.", "{A} finds {n} more {o}.", "An aunt brings {A} another {n} {o}."), "{x} + {n}", updates=True),
    Op(("Then {A} loses {n} {o}.", "{A} gives away {n} {o}.", "A dog runs off with {n} of the {o} of {A}."), "{x} - {n}", updates=True),
    Op(("Then {A} gives away half of the {o}.", "{A} loses half of the {o}.", "{A} parts with one in two of the {o}."), "{x} / 2", updates=True, numbers=()),
    Op(("Then {A} doubles the number of {o}.", "{A} gets as many {o} again.", "The {o} of {A} grow to twice their number."), "{x} * 2", updates=True, numbers=()),
)
BASE = Op(("{B} has {n} {o}.", "{B} owns {n} {o}.", "There are {n} {o} that belong to {B}."), "{n}", people=0, numbers=((2, 60),))
REMARKS = (  # sentences with a number that nothing rests on; {A} is somebody of the story
    ("{A} is {n} years old.", "In May {A} turns {n}.", "{A} had {n} candles on the cake this year."),
    ("It is {n} degrees outside.", "The day is {n} degrees warm.", "The sun brings it to {n} degrees."),
    ("{A} lives at number {n}.", "The house of {A} has number {n}.", "Number {n} is where {A} lives."),
    ("The bus takes {n} minutes.", "{A} waits {n} minutes for the bus.", "After {n} minutes the bus comes."),
    ("{A} reads {n} pages at night.", "There are {n} pages in the book that {A} reads.", "On page {n} {A} falls asleep."),
    ("The shop is {n} miles away.", "{A} walks {n} miles to school.", "It is a walk of {n} miles."),
)
ASKS = (
    Op(("How many {o} does {A} have?", "How many {o} does {A} have in the end?", "What is the number of {o} that {A} has?"), "{x}", numbers=()),
    Op(("How many {o} do {A} and {B} have together?", "How many {o} do {A} and {B} have in total?", "What do the {o} of {A} and {B} add up to?"), "{x} + {y}", people=2, numbers=()),
    Op(("How many more {o} than {B} does {A} have?", "By how many {o} does {A} have more than {B}?", "What is the lead of {A} over {B} in {o}?"), "{x} - {y}", people=2, numbers=()),
    Op(("Each of the {o} costs {n} dollars. How many dollars are those of {A} worth?", "The {o} sell for {n} dollars each. How many dollars does {A} get for all of them?", "At {n} dollars apiece, what do the {o} of {A} bring?"), "{x} * {n}", numbers=((2, 9),)),
    Op(("{A} uses {n} {o} a day. For how many days do they last?", "Every day {A} uses up {n} of the {o}. After how many days are none left?", "At {n} {o} a day, how long do those of {A} last in days?"), "{x} / {n}", numbers=((2, 9),)),
    Op(("{A} shares the {o} equally among {n} friends. How many does each friend get?", "{A} packs the {o} into {n} equal bags. How many are in each bag?", "Into {n} equal heaps go the {o} of {A}. How large is a heap?"), "{x} / {n}", numbers=((2, 6),)),
)
# fmt: on
