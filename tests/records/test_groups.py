"""Families are read off file names: what looks alike must not be on both sides of a split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


WORDS = ["archer", "ranger", "shaman", "hero", "scout", "druid", "rider", "lord", "mage", "cook"]
NUMBERS = st.integers(0, 9999).map(str)
HASHES = st.binary(min_size=8, max_size=20).map(bytes.hex).filter(lambda text: not text.isalpha())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "icon-", "IMG_", "a b (", "x"]), NUMBERS | HASHES),
        min_size=10,
        max_size=60,
        unique_by=lambda pair: pair[1],
    )
)
def test_numbers_and_hashes_make_no_family(pairs):
    """One word in all names, or none, varies over no set."""
    prefix = pairs[0][0]
    names = [f"{prefix}{number}.png" for _, number in pairs]
    assert len(set(of(names))) == len(names)
    mixed = [f"{number}.png" for _, number in pairs]
    assert len(set(of(mixed))) == len(names)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=20, max_size=60),
    st.sampled_from(["", "__", "-", "_", " ", "+"]),
    st.permutations("0123456789"),
    st.randoms(),
)
def test_a_family_is_the_word_whatever_the_numbers_and_the_order(words, mark, digits, random):
    words = [*words, *WORDS, *WORDS]
    names = [f"{word}{mark}{n:04}.png" for n, word in enumerate(words)]
    if max(map(words.count, words)) > len(words) / 4:
        assert len(set(of(names))) == len(names)
        return
    assert partition(of(names)) == partition(words)
    other = [name.translate(str.maketrans("0123456789", "".join(digits))) for name in names]
    assert partition(of(other)) == partition(words)
    order = random.sample(range(len(names)), len(names))
    assert [of(names)[n] for n in order] == of([names[n] for n in order])


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=10, max_size=40))
def test_a_folder_is_a_family_where_names_are_numbers_and_classes_are_other_folders(folders):
    folders = [*folders, *WORDS, *WORDS]
    names = [f"{'AB'[n % 2]}/{folder}/{n}.png" for n, folder in enumerate(folders)]
    labels = [name[0] for name in names]
    same = partition(of(names, labels)) == partition(folders)
    assert same == (max(map(folders.count, folders)) <= len(folders) / 4)


def test_numbers_shared_by_two_sets_are_no_families_of_both():
    held_out, training = ([f"{root}/icon-{n:03}.png" for n in range(126)] for root in ("a", "b"))
    groups = of([*held_out, *training])
    assert not set(groups[:126]) & set(groups[126:])


def test_families_that_are_the_classes_over_again_are_not_used():
    names = [f"{c}/{c}{n:02}.png" for c in "abcdefghijkl" for n in range(12)]
    labels = [name[0] for name in names]
    assert len(set(of(names, labels))) == len(names)
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
