"""The inpainter and its evidence: laws first."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from pixmend.errors import ModelFileError
from pixmend.models import (
    INPAINTER_LATENT,
    NEIGHBOURS,
    DCGANSettings,
    Inpainter,
    Retrieval,
    biharmonic_fill,
    gather_evidence,
    initialise_inpainter,
    inpainter_latents,
    load_model,
    save_model,
)
from pixmend.models.alignment import align
from pixmend.rng import generator_for
from tests.inpainting import fresh_model as make


def holed(model, count=3, seed=1):
    size, generator = model.settings.size, generator_for(seed, "images")
    channels = model.generator.to_image.out_channels
    target = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
    known = (torch.rand(count, 1, size, size, generator=generator) < 0.6).float()
    return target, known


def assert_equal(ours, theirs, row=None):
    for each in fields(ours):
        value = getattr(theirs, each.name)
        assert torch.equal(getattr(ours, each.name), value if row is None else value[row, None])


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128])
@pytest.mark.parametrize(("channels", "retrieval_images"), [("L", 0), ("RGBA", 5), ("RGB", 2)])
def test_answers_have_the_shape_of_images_for_each_draw(size, channels, retrieval_images):
    model = make(size=size, channels=channels, retrieval_images=retrieval_images)
    target, known = holed(model, 2)
    for draws in (0, 3):
        inpainted = model.inpaint(target, known, draws=draws)
        assert inpainted.estimate.shape == target.shape
        assert inpainted.log_variance.shape == known.shape
        assert inpainted.draws.shape == (2, draws, *target.shape[1:])
        assert inpainted.order(known).shape == (2, draws)
        for images in (inpainted.estimate, inpainted.draws):
            assert (images.abs() <= 1 + 1e-6).all()
        assert torch.isfinite(inpainted.log_variance).all()


@pytest.mark.parametrize("retrieval_images", [0, 6])
def test_training_begins_near_what_needs_no_training(retrieval_images):
    model = make(retrieval_images=retrieval_images)
    inpainter = Inpainter(model.settings)
    initialise_inpainter(inpainter, generator_for(0, "weights"))
    target, known = holed(model, 3)
    if retrieval_images:  # of images that the bank holds
        target = model.retrieval.take(torch.arange(3))
    evidence = gather_evidence(target, known, model.retrieval)
    image = inpainter.estimate(inpainter.encode(evidence), evidence).images
    best = evidence.neighbours[:, 0] if retrieval_images else evidence.fill
    experts = [*evidence.experts().unbind(1)]
    gaps = [(image - each).abs().mean() for each in experts]
    assert (image - best).abs().mean() == min(gaps)
    assert not retrieval_images or (image - target).abs().mean() < 0.01


def test_an_answer_that_is_mostly_one_expert_has_no_trace_of_others():
    model = make(channels="L")
    target, known = holed(model)
    head = model.inpainter.estimator.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias.view(-1, model.inpainter.fold**2)[NEIGHBOURS] = 4.0  # 0.92 of the fill
    inpainted = model.inpaint(target, known)
    assert torch.equal(inpainted.estimate, gather_evidence(target, known, model.retrieval).fill)


def test_latents_lie_on_a_sphere_and_do_not_depend_on_their_number():
    few, many = (inpainter_latents(count, seed=3) for count in (2, 9))
    assert torch.equal(few, many[:2])
    assert torch.allclose(many.norm(dim=1), many.norm(dim=1)[0].expand(9))
    followed = many[:, :NEIGHBOURS].argmax(1).tolist()
    assert followed == [*range(NEIGHBOURS), 0]
    assert inpainter_latents(0, seed=3).shape == (0, INPAINTER_LATENT)


def test_at_first_each_draw_is_mostly_the_neighbour_that_it_follows():
    model = make(retrieval_images=12)
    initialise_inpainter(model.inpainter, generator_for(0, "weights"))
    target, known = holed(model)
    draws = model.inpaint(target, known, draws=NEIGHBOURS + 1).draws
    neighbours = gather_evidence(target, known, model.retrieval).neighbours
    gaps = (draws[:, :, None] - neighbours[:, None]).abs().flatten(3).mean(3)
    assert gaps.argmin(2).tolist() == [[*range(NEIGHBOURS), 0]] * len(target)


def test_every_pixel_lies_between_its_experts_and_its_own_colours():
    model = make(channels="L")
    target, known = holed(model)
    with torch.no_grad():  # no colours of its own
        for way_up in (model.inpainter.estimator, model.inpainter.drawer):
            way_up.head.bias[NEIGHBOURS + 1] = -1e9
            way_up.head.weight[NEIGHBOURS + 1] = 0
    inpainted = model.inpaint(target, known, draws=2)
    experts = gather_evidence(target, known, model.retrieval).experts()
    for images in (inpainted.estimate[:, None], inpainted.draws):
        assert (images <= experts.amax(1)[:, None] + 1e-5).all()
        assert (images >= experts.amin(1)[:, None] - 1e-5).all()


@pytest.mark.parametrize("retrieval_images", [0, 6])
def test_known_pixels_matter_and_the_hole_does_not(retrieval_images):
    model = make(retrieval_images=retrieval_images)
    target, known = holed(model)
    other = torch.where(known > 0, target, -target)
    assert_equal(model.inpaint(target, known, draws=2), model.inpaint(other, known, draws=2))
    ours, changed = (model.inpaint(each, known, draws=2) for each in (target, -target))
    assert not torch.allclose(ours.estimate, changed.estimate, atol=1e-2)
    assert not torch.allclose(ours.draws, changed.draws, atol=1e-2)


def test_another_latent_gives_another_answer_and_more_draws_the_same_first_ones():
    model = make()
    target, known = holed(model)
    two = model.inpaint(target, known, draws=2)
    assert not torch.allclose(two.draws[:, 0], two.draws[:, 1], atol=1e-2)
    five = model.inpaint(target, known, draws=5)
    assert torch.equal(five.draws[:, :2], two.draws)
    assert torch.equal(five.estimate, two.estimate)
    assert not torch.equal(model.inpaint(target, known, draws=2, seed=1).draws, two.draws)


def test_no_answer_depends_on_the_rest_of_the_batch():
    model = make()
    target, known = holed(model, 21)
    for draws in (0, 3):
        together = model.inpaint(target, known, draws=draws)
        for row in (0, 7, 20):
            alone = model.inpaint(target[row : row + 1], known[row : row + 1], draws=draws)
            assert_equal(alone, together, row)


def test_evidence_is_the_images_that_fit_best_with_their_distances():
    model = make(retrieval_images=12)
    target, known = holed(model)
    evidence = gather_evidence(target, known, model.retrieval)
    images = model.retrieval.images.expand(len(target), -1, -1, -1, -1)
    aligned, squared = align(images, target, known, 12)
    assert torch.equal(evidence.fill, biharmonic_fill(target.double(), known.double()).float())
    assert (squared.diff(dim=1) >= 0).all()
    for row in range(len(target)):
        for place in range(NEIGHBOURS):
            gap = (aligned[row, place] - target[row])[:, known[row, 0] > 0].square()
            assert torch.equal(evidence.neighbours[row, place], aligned[row, place])
            torch.testing.assert_close(evidence.distances[row, place], gap.mean().sqrt())
            torch.testing.assert_close(squared[row, place], gap.double().sum())


def shifted(image):
    """The image, and it moved by a pixel in each of the eight directions."""
    padded = F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    side = image.shape[-1]
    corners = [(1, 1), *((top, left) for top in range(3) for left in range(3))]
    return [padded[:, top : top + side, left : left + side] for top, left in corners]


def levels(images):
    return ((images + 1) * 127.5).round().byte()


def test_a_training_image_of_another_size_is_its_own_neighbour():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    waves = 127.5 + 100 * torch.sin(rows / 9) * torch.cos(columns / 7)
    image = torch.stack([waves, waves.T, 255 - waves]).round().byte()
    candidates = torch.cat([torch.randint(0, 256, (4, 3, 64, 64)).byte(), image[None]])
    known = torch.ones(1, 1, 64, 64)
    known[..., 20:44, 20:44] = 0
    place = (torch.arange(64.0) - 31.5) / 1.18 / 31.5
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij")[::-1], -1)[None]
    target = F.grid_sample(image[None] / 127.5 - 1, grid, align_corners=True)
    neighbours, squared = align(candidates[None], target, known, 1)
    assert (neighbours[0] - target).abs().max() < 0.02
    assert float(squared) < 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_of_warps_that_fit_alike_the_least_is_taken(exact):
    image = torch.full((1, 1, 1, 32, 32), 90, dtype=torch.uint8)
    noise = torch.randint(0, 200, (32, 10), generator=generator_for(2, "noise"))
    image[..., 22:] = noise.byte()
    known = torch.zeros(1, 1, 32, 32)
    known[..., :12] = 1  # as flat as in the image, but lighter: no warp fits better
    target = torch.full((1, 1, 32, 32), 100 / 127.5 - 1)
    neighbours, _ = align(image, target, known, 1, exact=exact)
    lighter = image[0, :, 0] * (100 / 90) / 127.5 - 1
    assert torch.allclose(neighbours[0, 0], lighter.clamp(-1, 1), atol=1e-3)


def test_a_training_image_a_pixel_off_is_its_own_neighbour_at_no_distance():
    model = make(retrieval_images=12)
    image = model.retrieval.take(torch.tensor([7]))
    known = torch.zeros(1, 1, 16, 16)
    known[..., 2:-2, 2:8] = 1  # away from the borders, which a shift leaves open
    for target in shifted(image[0]):
        neighbours, squared = align(levels(image)[:, None], target[None], known, 1)
        assert float(squared) == 0
        inner = neighbours[0, 0, :, 2:-2, 2:-2]
        assert torch.equal(inner, target[:, 2:-2, 2:-2])


@pytest.mark.parametrize("gain", [0.9, 1.1])
def test_a_training_image_of_another_brightness_is_its_own_neighbour(gain):
    model = make(retrieval_images=12)
    image = model.retrieval.take(torch.tensor([7]))
    target = (((image + 1) / 2 * gain) * 2 - 1).clamp(-1, 1)
    known = (torch.rand(1, 1, 16, 16, generator=generator_for(1, "known")) < 0.4).float()
    neighbours, squared = align(levels(image)[:, None], target, known, 1)
    clipped = 0.02 if gain > 1 else 1e-10  # white stays white
    assert (neighbours[0, 0] - target[0]).square().mean() < clipped
    assert float(squared) / float(known.sum() * 3) < clipped


def test_training_and_completion_see_the_same_evidence():
    model = make(retrieval_images=12)
    target, known = holed(model, 5)
    ours = gather_evidence(target, known, model.retrieval)
    fast = gather_evidence(target, known, model.retrieval, exact=False)
    assert torch.equal(ours.neighbours, fast.neighbours)
    assert torch.equal(ours.distances, fast.distances)


def test_excluded_images_are_shown_last():
    model = make(retrieval_images=12)
    target, known = holed(model, 2)
    order = model.retrieval.nearest(target, known, 12)
    excluded = torch.zeros(2, 12, dtype=torch.bool)
    excluded.scatter_(1, order[:, :3], value=True)
    evidence = gather_evidence(target, known, model.retrieval, excluded=excluded, exact=False)
    expected = align(model.retrieval.images[order[:, 3:]], target, known, NEIGHBOURS)[0]
    assert torch.equal(evidence.neighbours, expected)
    excluded[:] = True
    excluded.scatter_(1, order[:, :2], value=False)
    evidence = gather_evidence(target, known, model.retrieval, excluded=excluded, exact=False)
    expected = align(model.retrieval.images[order[:, :2]], target, known, 2)[0]
    assert torch.equal(evidence.neighbours[:, :2], expected)


def test_a_small_bank_shows_its_last_image_again_and_an_unknown_image_no_near_one():
    model = make(retrieval_images=2)
    target, known = holed(model)
    evidence = gather_evidence(target, known * 0, model.retrieval)
    assert evidence.neighbours.shape[1] == NEIGHBOURS
    assert torch.equal(evidence.neighbours[:, 1], evidence.neighbours[:, 3])
    assert (evidence.distances == 2).all()


@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
def test_inpainter_and_retrieval_travel_in_the_model_file(tmp_path, channels):
    model = make(channels=channels)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(again.retrieval.images, model.retrieval.images)
    target, known = holed(model)
    assert_equal(*(each.inpaint(target, known, draws=2) for each in (model, again)))


def test_an_image_gets_the_neighbours_of_a_double_loop_alone_and_among_others():
    bank = make(channels="RGBA", retrieval_images=5).retrieval
    generator = generator_for(3, "neighbours")
    target = (torch.randint(0, 256, (4, 4, 16, 16), generator=generator) / 127.5 - 1).float()
    known = (torch.rand(4, 1, 16, 16, generator=generator) < 0.3).float()
    nearest = bank.nearest(target, known, 5)
    for row in range(4):
        gaps = [
            ((((target[row] + 1) * 127.5).round() - image) ** 2 * known[row]).sum()
            for image in bank.images.double()
        ]
        assert nearest[row].tolist() == torch.stack(gaps).argsort().tolist()
        assert torch.equal(
            bank.nearest(target[row : row + 1], known[row : row + 1], 5)[0], nearest[row]
        )


def test_a_retrieval_image_is_its_own_nearest():
    bank = make().retrieval
    nearest = bank.nearest(bank.take(torch.arange(5)), torch.ones(5, 1, 16, 16))
    assert nearest[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_retrieval_images_of_another_size_are_refused():
    (png,) = make(retrieval_images=5).retrieval.encoded
    with pytest.raises(ModelFileError, match="retrieval images"):
        Retrieval.decode([png], count=4, channels=3, side=16)
    with pytest.raises(ModelFileError, match="retrieval images"):
        Retrieval.decode([png[:100]], count=5, channels=3, side=16)


def test_more_retrieval_images_than_one_png_may_hold_come_back_from_several(monkeypatch):
    monkeypatch.setattr("pixmend.models.retrieval.MAX_PIXELS", 2 * 16**2)
    bank = make(retrieval_images=5).retrieval
    pngs = bank.encoded
    assert len(pngs) == 3
    again = Retrieval.decode(pngs, count=5, channels=3, side=16)
    assert torch.equal(again.images, bank.images)
    for damaged in (pngs[:2], pngs[::-1], [*pngs, pngs[0]]):
        with pytest.raises(ModelFileError, match="retrieval images"):
            Retrieval.decode(damaged, count=5, channels=3, side=16)


def test_retrieval_without_an_inpainter_is_refused():
    with pytest.raises(ValueError, match="inpainter"):
        DCGANSettings(retrieval_images=8)


def test_more_retrieval_images_than_a_file_can_hold_are_refused_before_training():
    with pytest.raises(ValueError, match=r"retrieval_images = 22000 .* at most 21845 of 64 px RGB"):
        DCGANSettings(size=64, inpainter_filters=32, retrieval_images=22_000)
    DCGANSettings(size=64, inpainter_filters=32, retrieval_images=21_845)


def test_distances_to_8_bit_images_are_whole_numbers_and_so_the_same_in_any_order_of_sums():
    bank = make(channels="RGBA", retrieval_images=5).retrieval
    generator = generator_for(3, "neighbours")
    target = (torch.randint(0, 256, (4, 4, 16, 16), generator=generator) / 127.5 - 1).float()
    known = (torch.rand(4, 1, 16, 16, generator=generator) < 0.3).float()
    distances = bank.distances(target, known)
    assert torch.equal(distances, distances.round())
