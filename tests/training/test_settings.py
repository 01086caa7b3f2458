"""Settings and recipes: plain names, checked at birth, the published values kept."""

import tomllib

import pytest

from pixmend.errors import SettingsError
from pixmend.training import parse_overrides, read_recipe, recipe_names, resolve, to_toml


def test_all_recipes_resolve():
    names = recipe_names()
    assert {
        "characters",
        "chars74k",
        "pokemon",
        "radford",
        "classic-chars74k",
        "classic-pokemon",
    } <= set(names)
    for name in names:
        resolve(read_recipe(name))


@pytest.mark.parametrize(
    ("name", "steps"), [("classic-chars74k", 50_000), ("classic-pokemon", 100_000)]
)
def test_the_seed_recipes_are_the_seed_system(name, steps):
    held = resolve(read_recipe(name))
    assert (held.size, held.filters, held.discriminator_filters, held.kernel) == (96, 128, 64, 5)
    assert (held.latent_dim, held.latent_prior, held.batch_size) == (100, "uniform", 128)
    assert (held.learning_rate, held.beta1, held.feature_matching) == (1e-4, 0.5, 0.05)
    assert (held.n_critic, held.ema_decay) == (1, 0.0)
    assert (held.steps, held.checkpoint_every) == (steps, 2_000)


def test_radford_is_the_paper():
    held = resolve(read_recipe("radford"))
    assert (held.size, held.filters, held.kernel, held.latent_dim) == (64, 128, 5, 100)
    assert (held.batch_size, held.learning_rate, held.beta1) == (128, 2e-4, 0.5)
    assert (held.latent_prior, held.ema_decay) == ("uniform", 0.0)


def test_settings_round_trip_through_toml():
    held = resolve(
        {"size": 96, "background": '#f0e0d0"', "learning_rate": 1.5e-5, "ema_decay": 0.0}
    )
    assert resolve(tomllib.loads(to_toml(held))) == held


def test_later_layers_win():
    assert resolve({"size": 32, "seed": 1}, {"seed": 2}).seed == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batchsize": 3}, "batchsize: no such setting; did you mean batch_size"),
        ({"qqq": 3}, "qqq: no such setting"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"size": 48}, "size = 48"),
        ({"loss": "wasserstein"}, "loss = 'wasserstein'"),
        (
            {"diffaugment": "colour,blur"},
            "augment = 'colour,blur'.*transforms: colour, translation, cutout",
        ),
        ({"diffaugment": "cutout,cutout"}, "augment.*twice"),
        ({"lr_schedule": "step"}, "schedule = 'step'"),
        ({"warmup": 1.0}, "warmup = 1.0"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(wrong, message):
    with pytest.raises(SettingsError, match=message):
        resolve(wrong)


def test_transforms_are_kept_in_the_order_they_are_applied_in():
    assert resolve({"diffaugment": "cutout, colour"}).diffaugment == "colour,cutout"
    assert resolve({"diffaugment": "cutout, colour"}).transforms == ("colour", "cutout")
    assert resolve({}).transforms == ()


def test_overrides_are_typed():
    held = parse_overrides(
        ["size=32", "learning_rate = 1e-3", "channels=L", 'loss="minimax"', "background=#fff000"]
    )
    assert held == {
        "size": 32, "learning_rate": 1e-3, "channels": "L", "loss": "minimax", "background": "#fff000",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["size", "=3", ""])
def test_an_override_without_key_and_value_is_refused(text):
    with pytest.raises(SettingsError, match="key=value"):
        parse_overrides([text])


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    with pytest.raises(SettingsError, match="characters, chars74k"):
        read_recipe("charcters")
    (tmp_path / "broken.toml").write_text("size = = 3")
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        read_recipe(tmp_path / "broken.toml")


@pytest.mark.parametrize("text", ["\x7f", "\U0001f600", "\u2028", 'a"\\b', "\t\x1b"])
def test_what_a_run_keeps_of_its_settings_is_read_back_whatever_the_letters(text):
    # JSON's escapes of rare letters, and DEL as it stands, are no TOML: such a run could not be continued.
    held = resolve({"background": text, "device": text})
    assert resolve(tomllib.loads(to_toml(held))) == held


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999"])
@pytest.mark.parametrize(
    "name", ["r1_gamma", "feature_matching", "inpainter_learning_rate", "learning_rate"]
)
def test_a_number_that_is_not_finite_is_no_setting(name, value):
    with pytest.raises(SettingsError, match=f"{name} = "):
        resolve(parse_overrides([f"{name}={value}"]))


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000], ids=["brackets", "digits"])
def test_toml_too_deep_or_too_long_is_refused_in_words(value, tmp_path):
    (tmp_path / "r.toml").write_text(f"size = {value}")
    with pytest.raises(SettingsError, match=r"r\.toml: cannot be read as TOML"):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(SettingsError, match="size = "):
        resolve(parse_overrides([f"size={value}"]))


def test_a_recipe_of_a_million_keys_is_refused_unread(tmp_path):
    path = tmp_path / "many.toml"
    path.write_text("\n".join(f"key{number} = 1" for number in range(10**6)))
    with pytest.raises(SettingsError, match=r"many\.toml: over 1 MiB"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "steps = " + "9" * 5000])
def test_a_recipe_too_deep_or_too_long_to_parse_is_no_toml(tmp_path, text):
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"odd\.toml: cannot be read as TOML"):
        read_recipe(tmp_path / "odd.toml")
    assert parse_overrides([text.replace(" ", "")])


def test_of_many_mistakes_the_first_are_told_and_long_ones_cut():
    with pytest.raises(SettingsError, match="and 92 more") as caught:
        resolve({f"key{number}": 1 for number in range(100)})
    assert len(str(caught.value)) < 1000
    with pytest.raises(SettingsError) as caught:
        resolve({"loss": "x" * 10**6})
    assert len(str(caught.value)) < 1000
