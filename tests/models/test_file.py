"""The model file: whole or refused, and no code in it."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save

from pixmend.errors import ModelFileError, OutputError
from pixmend.images import encode_png
from pixmend.model_header import FORMATS
from pixmend.models import (
    BUNDLED,
    DCGAN,
    Calibration,
    DCGANSettings,
    Discriminator,
    Generator,
    Inpainter,
    Retrieval,
    find_model,
    load_model,
    read_header,
    read_tensors,
    save_model,
    write_tensors,
)
from tests.inpainting import fresh_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    settings = DCGANSettings(size=16, channels="L", filters=4, latent_dim=5)
    return DCGAN(settings, Generator(settings), Discriminator(settings), {"steps": 7})


@pytest.fixture
def path(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_weights_of_half_the_digits_take_half_the_space_and_load_bit_for_bit(model, path):
    whole = path.stat().st_size
    for weight in model.generator.parameters():
        weight.data = weight.half().float()
    save_model(model, path)
    assert path.stat().st_size < whole - sum(p.numel() for p in model.generator.parameters())
    loaded = load_model(path).generator.state_dict()
    for name, weight in model.generator.state_dict().items():
        assert loaded[name].dtype == weight.dtype
        assert torch.equal(loaded[name], weight)


def test_what_is_saved_is_loaded_bit_for_bit_and_frozen(tmp_path):
    settings = DCGANSettings(size=16, channels="L", filters=4, latent_dim=5)
    model = DCGAN(settings, Generator(settings), Discriminator(settings), {"steps": 7})
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.settings == model.settings
    assert loaded.card == {"steps": 7}
    for ours, theirs in (
        (model.generator, loaded.generator),
        (model.discriminator, loaded.discriminator),
    ):
        before, after = ours.state_dict(), theirs.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not theirs.training
        assert not any(weight.requires_grad for weight in theirs.parameters())


def test_equal_models_give_equal_files(model, path, tmp_path):
    save_model(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_in_one_line_that_names_it(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match=r"model\.safetensors") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_anywhere_is_noticed(path):
    card = load_model(path).card
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    # The header's bytes one by one: what is said of the weights counts as much as they do.
    for place in (*range(8, header), *range(header, len(content), len(content) // 60)):
        content[place] ^= 4
        path.write_bytes(content)
        try:
            loaded = load_model(path)
        except ModelFileError:
            pass
        else:  # the name of the digest, without which a file is taken for an older one
            assert b"header_digest" not in content[:header], place
            assert loaded.card == card
        content[place] ^= 4


def test_a_file_of_another_version_says_which(model, path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'\\"format\\": 2', b'\\"format\\": 9')
    path.write_bytes(content[:8] + header + content[8 + length :])
    with pytest.raises(ModelFileError, match="format 9"):
        load_model(path)


def test_a_model_whose_inpainter_sees_other_neighbours_is_refused(tmp_path, monkeypatch):
    model = fresh_model()
    monkeypatch.setitem(FORMATS, "model", 1)
    save_model(model, tmp_path / "model.safetensors")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match=r"another version of pixmend .*train it again"):
        load_model(tmp_path / "model.safetensors")


def test_a_checkpoint_is_not_taken_for_a_model(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, kind="checkpoint", header={})
    with pytest.raises(ModelFileError, match="holds a checkpoint, not a model"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"just text", b"\x80\x04\x95pickle", b"\xff" * 64, b"{}" * 50]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ModelFileError, match="not a pixmend model file"):
        load_model(tmp_path / "other")


def test_settings_that_do_not_fit_the_weights_are_refused(model, tmp_path):
    tensors = {f"generator.{name}": value for name, value in model.generator.state_dict().items()}
    settings = {**model.settings.model_dump(), "filters": 8}
    write_tensors(tmp_path / "m", tensors, kind="model", header={"settings": settings, "card": {}})
    with pytest.raises(ModelFileError, match="do not fit together"):
        load_model(tmp_path / "m")


def test_a_model_is_found_by_file_by_run_directory_and_by_name(path, tmp_path):
    assert find_model(path) == path
    assert find_model(tmp_path) == path
    with pytest.raises(ModelFileError, match="bundled"):
        find_model("no-such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="train a model there first"):
        find_model(tmp_path / "empty")


def test_the_header_is_read_without_the_weights_and_is_plain_json(path):
    header = read_header(path)
    assert header["kind"] == "model"
    assert header["settings"]["size"] == 16
    json.dumps(header)


def test_an_unwritable_place_is_an_output_error_and_leaves_nothing(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        save_model(model, tmp_path / "file" / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def tampered(model, tmp_path, header=None, **settings):
    """Write a model of the same weights, its digest right, that says other things of itself."""
    save_model(model, tmp_path / "right.safetensors")
    tensors, facts = read_tensors(tmp_path / "right.safetensors", kind="model")
    facts = {"settings": facts["settings"] | settings, "card": {}, **(header or {})}
    write_tensors(tmp_path / "m", tensors, kind="model", header=facts)
    return tmp_path / "m"


def test_settings_that_ask_for_gigabytes_take_none(model, tmp_path, monkeypatch):
    # A file of some kilobytes once had networks of any size built before its weights were looked at.
    def only_sized(settings):
        assert torch.empty(0).device.type == "meta"
        return Generator(settings)

    monkeypatch.setattr("pixmend.models.model_file.Generator", only_sized)
    path = tampered(model, tmp_path, size=256, filters=1024, latent_dim=4096)
    with pytest.raises(ModelFileError, match=r"m: its settings and weights do not fit .*should be"):
        load_model(path)


@pytest.mark.parametrize("name", ["arch", "memory", "fill", "odd\nname" * 99])
def test_a_model_of_another_version_is_refused_in_a_line_that_says_what_to_do(
    model, tmp_path, name
):
    settings = model.settings.model_dump() | {name: 0}
    write_tensors(tmp_path / "m", {}, kind="model", header={"settings": settings, "card": {}})
    with pytest.raises(
        ModelFileError, match=r"m: a model of another version.*train it again"
    ) as refusal:
        load_model(tmp_path / "m")
    assert "\n" not in str(refusal.value)
    assert ascii(name)[1:60] in str(refusal.value)


@pytest.mark.parametrize(
    ("header", "settings"),
    [
        ({"card": [1, 2]}, {}),
        ({"card": 7}, {}),
        ({"settings": []}, {}),
        ({}, {"inpainter_filters": 8}),
        ({"retrieval_count": float("inf")}, {"inpainter_filters": 8, "retrieval_images": 2}),
    ],
)
def test_a_header_of_any_values_is_refused_in_words(model, tmp_path, header, settings):
    with pytest.raises(ModelFileError, match="m: its settings and weights do not fit together"):
        load_model(tampered(model, tmp_path, header, **settings))


@pytest.mark.parametrize("count", [float("inf"), "2", 3, -2, None])
@pytest.mark.parametrize("deep", [False, True])
def test_retrieval_images_that_do_not_fit_are_refused_and_name_the_file(tmp_path, count, deep):
    settings = DCGANSettings(
        size=16, channels="L", filters=4, latent_dim=5, inpainter_filters=8, retrieval_images=2
    )
    retrieval = Retrieval(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    networks = Generator(settings), Discriminator(settings), {}, Inpainter(settings)
    save_model(DCGAN(settings, *networks, retrieval), tmp_path / "right.safetensors")
    assert len(load_model(tmp_path / "right.safetensors").retrieval) == 2
    tensors, facts = read_tensors(tmp_path / "right.safetensors", kind="model")
    if deep:  # 16-bit grey of the right shape
        png = encode_png(np.zeros((32, 16, 1), np.uint16))
        tensors["retrieval"] = torch.frombuffer(bytearray(png), dtype=torch.uint8)
        count = 2
    header = {"settings": facts["settings"], "card": {}, "retrieval_count": count}
    write_tensors(tmp_path / "m", tensors, kind="model", header=header)
    with pytest.raises(ModelFileError, match="m: its settings and weights do not fit together"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("header", ["[]", "7", '{"kind": "other"}', "{}", '"model"'])
def test_json_that_is_no_header_of_ours_is_refused(header, tmp_path):
    (tmp_path / "m").write_bytes(save({"a": torch.ones(2)}, {"pixmend": header}))
    with pytest.raises(ModelFileError, match="m: not a pixmend model file"):
        read_header(tmp_path / "m")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ModelFileError, match="no such file; check the path"):
        read_header(tmp_path / "none")
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        read_header(tmp_path)


def test_what_reads_back_damaged_never_takes_the_old_files_place(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("pixmend.models.model_file.save", lambda *_: before[:-1])
    with pytest.raises(OutputError, match=r"model\.safetensors: reads back damaged"):
        write_tensors(path, {"a": torch.ones(2)}, kind="model", header={})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "promised", [{"size": 256, "filters": 1024}, {"latent_dim": 4096}, {"inpainter_filters": 8}]
)
def test_networks_that_the_file_does_not_hold_are_never_built(
    model, tmp_path, monkeypatch, promised
):
    path = tampered(model, tmp_path, latent_prior="normal", **promised)
    real, built = torch.nn.Parameter, []

    def counted(data, *more):
        built.append(0 if data.device.type == "meta" else data.numel())
        return real(data, *more)

    monkeypatch.setattr(torch.nn.parameter, "Parameter", counted)
    with pytest.raises(ModelFileError, match=r"do not fit together \(.*should be"):
        load_model(path)
    assert sum(built) == 0


def test_a_header_of_two_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((2 * 2**30).to_bytes(8, "little") + b'{"__metadata__": ')
        file.truncate(2 * 2**30 + 100)  # of which the disk holds nothing
    with pytest.raises(ModelFileError, match="not a pixmend model file"):
        load_model(path)


def test_a_model_under_a_name_that_is_no_text_is_saved_and_loaded(model, tmp_path):
    path = tmp_path / os.fsdecode(b"not-\xff\n") / "model.safetensors"
    save_model(model, path)
    assert load_model(path).settings == model.settings


def test_a_bundled_model_is_found_by_its_bare_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("characters") == BUNDLED / "characters.safetensors"
    for name in ("somewhere/characters", "charakters"):
        with pytest.raises(ModelFileError, match=r"no such model file.*\(bundled: characters\)"):
            find_model(name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_weights_that_are_not_finite_are_refused_in_one_line(model, tmp_path, part, value):
    next(getattr(model, part).parameters()).data.view(-1)[-1] = value
    save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="NaN or infinite") as caught:
        load_model(tmp_path / "m.safetensors")
    assert "m.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"predicted": "abc"},
        {"predicted": [0.1, 0.2, 0.3]},
        {"predicted": [], "observed": []},
        {"observed": [0.1, float("nan")]},
        {"centre": [0.0] * 3, "spread": [1.0] * 3},
        {"centre": None},
        {"distance": [1.0, 2.0]},
    ],
    ids=str,
)
def test_a_malformed_calibration_is_one_line(model, tmp_path, changes):
    calibration = {
        "predicted": [0.2, 0.6], "observed": [0.1, 0.9], "distance": 2.0,
        "centre": [0.0] * 8, "spread": [1.0] * 8,
    }  # fmt: skip
    model.card["calibration"] = calibration
    save_model(model, tmp_path / "m.safetensors")
    assert Calibration.of(load_model(tmp_path / "m.safetensors").card)
    model.card["calibration"] = {**calibration, **changes}
    save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match=r"m\.safetensors") as caught:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
