import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from autodistill.data.views import View, draw, splitmix64, take_drawn, take_view

MASK = 2**64 - 1


def reference_stream(state: int, number: int) -> int:
    """Output `number` of SplitMix64 in Python's unbounded integers."""
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference_view(image: np.ndarray, *, view: View, epoch: int, example: int) -> np.ndarray:
    key = reference_stream((reference_stream(view.seed & MASK, 0) ^ epoch) & MASK, 0)
    sides = 2 * view.crop + 1
    top, left, mirror = (
        (reference_stream(key, 3 * example + n) >> 32) * size >> 32
        for n, size in enumerate((sides, sides, 2 if view.flip else 1))
    )
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (view.crop, view.crop), (view.crop, view.crop)))
    found = padded[:, top : top + height, left : left + width]
    return found[:, :, ::-1] if mirror else found


def random_images(*shape: int) -> torch.Tensor:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return images.contiguous(memory_format=torch.channels_last)


def test_hash_gives_the_published_splitmix64_numbers() -> None:
    # First outputs for seed 1234567, as implementations of SplitMix64 quote them.
    found = splitmix64(1234567, torch.arange(3)).tolist()
    assert [number & MASK for number in found] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("view", [View(0, 4, True), View(7, 1, False), View(-3, 0, True), View(2**70, 9, True)])
@pytest.mark.parametrize("shape", [(40, 3, 8, 6), (40, 1, 5, 5)])
@pytest.mark.parametrize("epoch", [0, 13])
def test_views_equal_a_loop_over_padded_images(view: View, shape: tuple[int, ...], epoch: int) -> None:
    images = random_images(*shape)
    examples = torch.tensor([3, 39, 0, 17, 3])
    found = take_view(images, examples, view=view, epoch=epoch)
    for row, example in enumerate(examples.tolist()):
        expected = reference_view(images[example].numpy(), view=view, epoch=epoch, example=example)
        assert np.array_equal(found[row].numpy(), expected)


def test_a_view_depends_on_seed_epoch_and_example_alone() -> None:
    images, view = random_images(50, 3, 9, 9), View(1, 3, True)
    everything = take_view(images, torch.arange(50), view=view, epoch=4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(take_view(images, order, view=view, epoch=4), everything[order])
    assert torch.equal(take_view(images, torch.tensor([11]), view=view, epoch=4)[0], everything[11])
    assert torch.equal(take_view(images, torch.arange(50, dtype=torch.int32), view=view, epoch=4), everything)
    assert torch.equal(take_view(images.contiguous(), torch.arange(50), view=view, epoch=4), everything)
    assert not torch.equal(take_view(images, torch.arange(50), view=view, epoch=5), everything)
    assert not torch.equal(take_view(images, torch.arange(50), view=View(2, 3, True), epoch=4), everything)


def test_no_crop_and_no_flip_is_the_plain_image() -> None:
    images = random_images(20, 3, 7, 7)
    examples = torch.tensor([4, 4, 19, 0])
    assert torch.equal(take_view(images, examples, view=View(9, 0, False), epoch=2), images[examples])


def test_views_lie_in_channels_last_memory() -> None:
    found = take_view(random_images(20, 3, 8, 8), torch.arange(20), view=View(0, 2, True), epoch=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_images_and_the_global_generator_stay_as_they_were() -> None:
    images = random_images(20, 1, 8, 8)
    before, state = images.clone(), torch.get_rng_state()
    take_view(images, torch.arange(20), view=View(0, 4, True), epoch=0)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_uniform() -> None:
    found = draw(torch.arange(20_000), view=View(0, 4, True), epoch=0)
    for column, values in zip(found.unbind(1), (9, 9, 2), strict=True):
        counts = torch.bincount(column, minlength=values)
        assert len(counts) == values
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_draws_are_independent_across_draws_examples_epochs_and_seeds() -> None:
    examples = torch.arange(20_000)

    def at(seed: int, epoch: int) -> torch.Tensor:
        return draw(examples, view=View(seed, 4, True), epoch=epoch)

    here = at(0, 0)
    pairs = [(here[:, a], here[:, b]) for a, b in itertools.combinations(range(3), 2)]
    pairs += [(here[:-1, a], here[1:, b]) for a in range(3) for b in range(3)]
    pairs += [(here[:, a], other[:, a]) for other in (at(0, 1), at(1, 0), at(1, 1), at(0, 64)) for a in range(3)]
    pairs += [(at(1, 0)[:, a], at(0, 1)[:, a]) for a in range(3)]
    for one, other in pairs:
        table = np.zeros((9, 9))
        np.add.at(table, (one.numpy(), other.numpy()), 1)
        table = table[table.any(1)][:, table.any(0)]
        # 27 tests at fixed draws: a dependence of any size shows up as p far below this.
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_one_example_draws_uniformly_over_the_epochs() -> None:
    mirrors = [int(draw(torch.tensor([5]), view=View(0, 4, True), epoch=epoch)[0, 2]) for epoch in range(400)]
    assert stats.binomtest(sum(mirrors), len(mirrors)).pvalue > 1e-3


def test_a_negative_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="crop -1"):
        take_view(random_images(2, 1, 4, 4), torch.arange(2), view=View(0, -1, False), epoch=0)


def test_draws_and_examples_kept_in_few_bits_give_the_same_views() -> None:
    images, examples = random_images(5, 1, 6, 6), torch.tensor([4, 0, 3])
    draws = draw(examples, view=View(3, 2, True), epoch=1)
    narrow = take_drawn(images, examples.to(torch.int32), draws.to(torch.uint8), crop=2)
    assert torch.equal(narrow, take_drawn(images, examples, draws, crop=2))
