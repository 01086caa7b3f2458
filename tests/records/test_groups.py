"""Families are read off file names: what looks alike must not be on both sides of a split."""

import pytest

from pixmend.records import groups_of

NO_CLASSES = [None] * 10_000


def of(names, labels=None):
    return groups_of(names, labels or NO_CLASSES[: len(names)])


def partition(groups):
    """Return which images are together, whatever the families are called."""
    seen = {}
    return [seen.setdefault(group, len(seen)) for group in groups]


def test_the_text_before_two_underscores_is_the_family_across_classes():
    fonts = [f"font-{letter}" for letter in "abcdefghijkl"]
    names = [
        f"{label}/{font}__{face}.png" for label in "012" for font in fonts for face in ("bold", "x")
    ]
    labels = [name[0] for name in names]
    assert of(names, labels) == [font for _ in "012" for font in fonts for _ in "bx"]


def test_the_leading_word_is_the_family_of_sprites():
    words = [
        "archer",
        "ranger",
        "shaman",
        "hero",
        "scout",
        "druid",
        "rider",
        "lord",
        "mage",
        "cook",
    ]
    ends = ["-attack-1", "+female-2", "_bow", ".idle", " (copy)", "7", ""]
    names = [f"elves/{word}{end}.png" for word in words for end in ends]
    assert of(names) == [word for word in words for _ in ends]


def test_case_makes_no_family():
    names = [f"{word}-{n}.png" for word in "abcdefghij" for n in range(2)]
    assert of([name.upper() for name in names]) == of(names)


def test_numeric_names_are_told_apart_by_their_leading_number():
    names = [f"{n}.png" for n in range(1, 20)] + ["25.png", "25-female.png", "025-shiny.png"]
    assert of(names)[-3:] == ["25", "25", "25"]
    assert len(set(of(names))) == 20


def test_chars74k_is_grouped_by_font_the_trailing_number():
    names = [f"Sample{c:03}/img{c:03}-{font:05}.png" for c in range(1, 13) for font in range(1, 41)]
    labels = [name[:9] for name in names]
    assert of(names, labels) == [str(font) for _ in range(12) for font in range(1, 41)]


def test_families_that_are_the_classes_over_again_are_not_used():
    names = [f"{c}/{c}{n:02}.png" for c in "abcdefghijkl" for n in range(12)]
    labels = [name[0] for name in names]
    assert of(names, labels) == [str(n) for _ in "abcdefghijkl" for n in range(12)]
    assert of(names) == labels, "without classes the word is all there is"


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_{n}.JPG" for n in range(40)],  # numbered by a camera
        [f"photo ({n}).jpg" for n in range(40)],
        [f"photo-{'abcdefghijklmnop'[n]}.jpg" for n in range(16)],
        [f"train-images-idx3-ubyte.gz#{n}" for n in range(40)],
        [f"{word}.png" for word in ("bulbasaur", "mew", "pikachu", "abra", "onix", "muk")],
        [f"{n // 20}-{'x' * n}.png" for n in range(40)],  # two families: too few to hold one out
    ],
)
def test_where_names_say_nothing_each_file_is_its_own_family(names):
    assert len(set(of(names))) == len(names)


def test_one_family_of_more_than_a_quarter_is_none():
    names = [f"{word}-a.png" for word in "abcdefghijkl"] + [f"z-{'b' * n}.png" for n in range(1, 9)]
    assert len(set(of(names))) == len(names)
    fewer = names[:-5]
    assert len(set(of(fewer))) == 13


@pytest.mark.parametrize("name", ["", ".png", "a/", "__x.png", "--.png", "é__ü.png", "9" * 5000])
def test_odd_names_have_a_family_too(name):
    assert len(of([name, *(f"{word}.png" for word in "abcdefghij")])) == 11


def test_families_do_not_depend_on_order():
    names = [f"{word}-{n}.png" for word in "abcdefghijk" for n in range(3)]
    forth, back = of(names), of(names[::-1])[::-1]
    assert partition(forth) == partition(back)


def test_places_in_a_container_are_no_families():
    """The 25th image of one idx file has nothing to do with the 25th of another."""
    names = [f"{part}-images-idx3-ubyte.gz/{n}" for part in ("train", "t10k") for n in range(20)]
    assert len(set(of(names))) == 40
    numbered = [f"{part}/{n}.png" for part in ("train", "more") for n in range(20)]
    assert len(set(of(numbered))) == 20
