"""The words of wordmath: names, objects, operations and their templates.

Templates are written with fields {A} {B} {C} (people), {o} (the object), {n} {m} (numbers). Of each operation's, the third is
held out for the level `unseen_templates`, and the fourth for what is fitted to labels and must not know any test's words; the
last 8 names and 6 objects are for `unseen_names`.
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

WORDINGS = {"seen": slice(0, 2), "unseen": slice(2, 3), "controllers": slice(3, 4)}


@final
@dataclass(frozen=True, slots=True)
class Op:
    """One way to define a quantity. `calc` is Python arithmetic over {x} {y} (earlier quantities) and {n} {m}."""

    templates: tuple[str, ...]
    calc: str
    people: int = 1  # earlier quantities used
    numbers: tuple[tuple[int, int], ...] = ((2, 30),)


# fmt: off
RELATIONS = (
    Op(("{B} has {n} more {o} than {A}.", "{B} has {n} {o} more than {A} has.", "Compared with {A}, {B} owns {n} extra {o}.", "On top of as many {o} as {A}, {B} holds {n}."), "{x} + {n}"),
    Op(("{B} has {n} fewer {o} than {A}.", "{B} has {n} {o} less than {A} has.", "{B} is {n} {o} short of what {A} has.", "Take {n} off the {o} of {A} and you get those of {B}."), "{x} - {n}"),
    Op(("{B} has {n} times as many {o} as {A}.", "{B} has {n} times the {o} that {A} has.", "For each of the {o} of {A}, {B} holds {n}.", "The {o} of {A} go {n} times into those of {B}."), "{x} * {n}", numbers=((2, 6),)),
    Op(("{B} has twice as many {o} as {A}.", "{B} has double the {o} of {A}.", "The {o} of {B} are two times those of {A}.", "{A} would need as many {o} again to match {B}."), "{x} * 2", numbers=()),
    Op(("{B} has half as many {o} as {A}.", "{B} has half of what {A} has in {o}.", "{A} has twice the {o} that {B} has.", "{B} holds one for every two {o} of {A}."), "{x} / 2", numbers=()),
    Op(("{B} has a third as many {o} as {A}.", "{B} has one third of the number of {o} of {A}.", "{A} has three times the {o} that {B} has.", "{B} holds one for every three {o} of {A}."), "{x} / 3", numbers=()),
    Op(("{B} has a quarter as many {o} as {A}.", "{B} has one fourth of the number of {o} of {A}.", "{A} has four times the {o} that {B} has.", "{B} holds one for every four {o} of {A}."), "{x} / 4", numbers=()),
    Op(("{C} has as many {o} as {A} and {B} together.", "{C} has the same number of {o} as {A} and {B} combined.", "The {o} of {A} and {B} add up to those of {C}.", "{C} matches {A} and {B} put side by side in {o}."), "{x} + {y}", people=2, numbers=()),
    Op(("{B} collects {n} {o} every day for {m} days.", "Every day for {m} days {B} gets {n} {o}.", "It takes {B} {m} days, at {n} a day, to collect the {o}.", "A day brings {B} {n} {o}, and {m} days go by."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
    Op(("{B} makes {n} {o} an hour for {m} hours.", "In each of {m} hours {B} makes {n} {o}.", "{B} needs {m} hours for the {o}, at {n} an hour.", "An hour brings {B} {n} {o}, and {m} hours go by."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
    Op(("{B} has {n} dozen {o}.", "{B} owns {n} dozen {o}.", "The {o} of {B} fill {n} trays of a dozen.", "{n} boxes of twelve {o} stand at the door of {B}."), "{n} * 12", people=0, numbers=((2, 9),)),
    Op(("{B} has {m} packs of {n} {o} each.", "{B} owns {m} packs with {n} {o} in each.", "The {o} of {B} come in {m} packs that hold {n} apiece.", "{n} {o} lie in each of the {m} drawers of {B}."), "{n} * {m}", people=0, numbers=((2, 20), (2, 9))),
)
UPDATES = (
    Op(("Then {A} buys {n} more {o}.", "{A} finds {n} more {o}.", "An aunt brings {A} another {n} {o}.", "The pile of {A} grows by {n} {o}."), "{x} + {n}"),
    Op(("Then {A} loses {n} {o}.", "{A} gives away {n} {o}.", "A dog runs off with {n} of the {o} of {A}.", "The pile of {A} shrinks by {n} {o}."), "{x} - {n}"),
    Op(("Then {A} gives away half of the {o}.", "{A} loses half of the {o}.", "{A} parts with one in two of the {o}.", "Every second one of the {o} leaves {A}."), "{x} / 2", numbers=()),
    Op(("Then {A} doubles the number of {o}.", "{A} gets as many {o} again.", "The {o} of {A} grow to twice their number.", "For each of the {o}, {A} is given one more."), "{x} * 2", numbers=()),
)
BASE = Op(("{B} has {n} {o}.", "{B} owns {n} {o}.", "There are {n} {o} that belong to {B}.", "Count the {o} of {B}: {n}."), "{n}", people=0, numbers=((2, 60),))
REMARKS = (  # sentences with a number that nothing rests on; {A} is somebody of the story
    ("{A} is {n} years old.", "In May {A} turns {n}.", "{A} had {n} candles on the cake this year.", "{n} years ago {A} was born."),
    ("It is {n} degrees outside.", "The day is {n} degrees warm.", "The sun brings it to {n} degrees.", "The glass shows {n} degrees."),
    ("{A} lives at number {n}.", "The house of {A} has number {n}.", "Number {n} is where {A} lives.", "A sign with {n} hangs at the door of {A}."),
    ("The bus takes {n} minutes.", "{A} waits {n} minutes for the bus.", "After {n} minutes the bus comes.", "It is {n} minutes by bus."),
    ("{A} reads {n} pages at night.", "There are {n} pages in the book that {A} reads.", "On page {n} {A} falls asleep.", "{A} marks page {n}."),
    ("The shop is {n} miles away.", "{A} walks {n} miles to school.", "It is a walk of {n} miles.", "{n} miles lie behind {A}."),
)
ASKS = (
    Op(("How many {o} does {A} have?", "How many {o} does {A} have in the end?", "What is the number of {o} that {A} has?", "Count the {o} of {A}: how many?"), "{x}", numbers=()),
    Op(("How many {o} do {A} and {B} have together?", "How many {o} do {A} and {B} have in total?", "What do the {o} of {A} and {B} add up to?", "Put the {o} of {A} and {B} side by side: how many?"), "{x} + {y}", people=2, numbers=()),
    Op(("How many more {o} than {B} does {A} have?", "By how many {o} does {A} have more than {B}?", "What is the lead of {A} over {B} in {o}?", "How many {o} must {B} find to match {A}?"), "{x} - {y}", people=2, numbers=()),
    Op(("Each of the {o} costs {n} dollars. How many dollars are those of {A} worth?", "The {o} sell for {n} dollars each. How many dollars does {A} get for all of them?", "At {n} dollars apiece, what do the {o} of {A} bring?", "A buyer gives {A} {n} dollars for each of the {o}. How many dollars is that?"), "{x} * {n}", numbers=((2, 9),)),
    Op(("{A} uses {n} {o} a day. For how many days do they last?", "Every day {A} uses up {n} of the {o}. After how many days are none left?", "At {n} {o} a day, how long do those of {A} last in days?", "{A} eats up {n} {o} from dawn to dawn. When are they gone, in days?"), "{x} / {n}", numbers=((2, 9),)),
    Op(("{A} shares the {o} equally among {n} friends. How many does each friend get?", "{A} packs the {o} into {n} equal bags. How many are in each bag?", "Into {n} equal heaps go the {o} of {A}. How large is a heap?", "{A} fills {n} bowls alike with the {o}. How many are in a bowl?"), "{x} / {n}", numbers=((2, 6),)),
)
# fmt: on
