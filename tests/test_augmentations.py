"""What is done to the examples of a training batch."""

import numpy as np
import pytest
import torch
from compare import same
from torch.nn import functional as F

import rlcore
from rlcore import InputError, Trainer
from rlcore.agents.supervised import Supervised
from rlcore.supervised.augmentations import Augmentation, AugmentationChoice
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(1, 256, (60, 3, 6, 5)).astype(np.uint8)
CLASSES = np.arange(60) % 3


def make(augment, images=IMAGES, targets=CLASSES, kind=SupervisedEnv, **settings):
    every = {"num_envs": 20, "test_fraction": 0.5, "augment": augment, **settings}
    return kind(kind.Settings(**every), dataset=from_arrays(images, targets))


def applied(name, inputs, targets=None, seed=1, **settings):
    augmentation = AugmentationChoice.model_validate({"name": name, **settings}).make()
    targets = torch.zeros(len(inputs)) if targets is None else targets
    return augmentation(inputs, targets, torch.Generator().manual_seed(seed))


def test_a_flip_mirrors_about_the_share_that_is_asked_for():
    x = torch.from_numpy(IMAGES)
    for vertical, dim in ((False, 3), (True, 2)):
        y, _ = applied("flip", x, probability=0.25, vertical=vertical)
        mirrored = (y == x.flip(dim)).flatten(1).all(1)
        assert ((y == x).flatten(1).all(1) | mirrored).all()
        assert 0.1 < mirrored.float().mean() < 0.45
    assert torch.equal(applied("flip", x, probability=1.0)[0], x.flip(3))


def test_a_shift_moves_each_image_by_its_own_pixels_and_fills_with_0():
    x = torch.from_numpy(IMAGES)
    y, _ = applied("shift", x, pixels=1)
    padded = F.pad(x, (1, 1, 1, 1))
    moves = [(down, right) for down in range(3) for right in range(3)]
    found = [
        next(move for move in moves if torch.equal(image, padded[n, :, move[0] : move[0] + 6, move[1] : move[1] + 5]))
        for n, image in enumerate(y)
    ]
    assert set(found) == set(moves)  # all of them, in 60 draws of 9
    assert y.dtype == torch.uint8


def test_a_crop_of_everything_is_the_image_and_of_a_part_is_within_its_range():
    x = torch.from_numpy(IMAGES)
    assert torch.equal(applied("crop", x, least=1.0, stretch=1.0)[0], x)
    ramp = torch.arange(100.0).view(1, 1, 1, 100).expand(500, 1, 100, 100)  # each column is its number
    y, _ = applied("crop", ramp, least=0.25, stretch=1.0)
    width = (y[:, 0, 0, -2] - y[:, 0, 0, 1]) / 97  # of the part, relative to the image
    area = width**2
    assert area.min() >= 0.25 - 1e-3
    assert area.max() <= 1 + 1e-3
    assert area.mean().item() == pytest.approx(0.625, abs=0.05)
    middle = y[:, 0, 0, 49:51].mean(1)
    assert (middle - 49.5).abs().max() > 10  # not always the middle


def test_noise_has_its_standard_deviation_and_bytes_stay_bytes():
    zero = torch.full((100, 50), 3.0)
    y, _ = applied("noise", zero, std=0.5)
    assert (y.mean().item(), y.std().item()) == pytest.approx((3, 0.5), abs=0.02)
    grey, _ = applied("noise", torch.full((100, 50), 128, dtype=torch.uint8), std=10.0)
    assert grey.dtype == torch.uint8
    assert (grey.double().mean().item(), grey.double().std().item()) == pytest.approx((128, 10), abs=0.5)
    dark, _ = applied("noise", torch.zeros(100, 50, dtype=torch.uint8), std=10.0)
    assert (dark == 0).float().mean().item() == pytest.approx(0.52, abs=0.03)  # cut, not wrapped around


def test_mixup_mixes_inputs_and_targets_by_the_same_share():
    x, y = torch.randn(8, 3), torch.eye(8)
    mixed, targets = applied("mixup", x, y, alpha=1.0)
    torch.testing.assert_close(mixed, targets @ x)
    share = targets.diagonal()
    assert len(share[share < 1].unique()) == 1
    assert targets.sum(1).tolist() == pytest.approx([1] * 8)
    shares = torch.stack([applied("mixup", x, y, seed=s, alpha=0.5)[1].amax(1).min() for s in range(300)])
    assert shares.min() >= 0.5  # the larger of share and 1 - share


def test_a_loss_of_mixed_classes_is_the_mixture_of_their_losses():
    env = make([{"name": "mixup", "alpha": 1.0}])
    env.reset(seed=1)
    target = env._target.clone()
    assert target.shape == (20, 3)
    assert ((target > 0) & (target < 1)).any()
    logits = torch.randn(20, 3)
    _, reward, _, _, info = env.step(logits)
    torch.testing.assert_close(reward, (target * logits.log_softmax(1)).sum(1))
    assert torch.equal(info["example"]["target"], target)
    weighted = make([{"name": "mixup", "alpha": 1.0}], class_weights={"0": 4.0})
    weighted.reset(seed=1)
    weight = weighted.step(logits)[4]["example"]["weight"]
    torch.testing.assert_close(weight, (target @ torch.tensor([4.0, 1, 1])) / 2)


def test_evaluation_sees_examples_as_they_are():
    env = make(["flip", {"name": "noise", "std": 50.0}], validation_fraction=0.2)
    for twin in (env.evaluation(1), env.test(1)):
        known = {tuple(x.flatten()) for x in IMAGES}
        assert {tuple(x.flatten().tolist()) for x in twin.inputs(slice(None))} <= known
    shown = {tuple(x.flatten().tolist()) for x in env.reset(seed=1)[0]}
    assert not shown & known


def test_channels_last_is_augmented_as_channels_first():
    augment = ["flip", {"name": "shift", "pixels": 2}, "crop", {"name": "noise", "std": 5.0}]
    one, other = make(augment), make(augment, np.ascontiguousarray(np.moveaxis(IMAGES, 1, -1)))
    a, b = one.reset(seed=3)[0], other.reset(seed=3)[0]
    assert torch.equal(a, b.movedim(-1, 1))


def test_a_resumed_run_draws_what_it_would_have_drawn():
    def trainer(stop=None):
        env = make(["flip", "crop", {"name": "mixup"}])
        torch.manual_seed(1)
        agent = Supervised(env, Supervised.Settings())
        return Trainer(agent, env, Trainer.Settings(total_steps=200, stop_at=stop, eval_every=None))

    whole, part, rest = trainer(), trainer(100), trainer()
    whole.fit()
    part.fit()
    assert rest.restore(part.checkpoint()) == []
    rest.fit()
    same(whole.checkpoint(), rest.checkpoint())


def test_an_autoencoder_reconstructs_what_it_was_shown():
    env = make([{"name": "shift", "pixels": 2}], kind=ReconstructionEnv, action="values")
    obs, _ = env.reset(seed=1)
    assert torch.equal(env._target, env.scaled(obs))
    assert env.step(env.scaled(obs))[1].abs().max() == 0


def test_an_augmentation_of_ones_own():
    @rlcore.registry.augmentations.register("dark")
    class Dark(Augmentation):
        def forward(self, inputs, targets, generator):
            return inputs // 2, targets

    assert make(["dark"]).reset(seed=1)[0].max() <= 127

    @rlcore.registry.augmentations.register("small")
    class Small(Augmentation):
        def forward(self, inputs, targets, generator):
            return inputs[..., :3], targets

    with pytest.raises(
        InputError, match=r"env\.augment: the inputs must remain torch\.uint8 \(2, 3, 6, 5\), got .*6, 3"
    ):
        make(["small"])


def test_what_cannot_be_augmented_is_one_line():
    with pytest.raises(InputError, match=r"env\.augment: flip is for images, the inputs have shape \(90,\)"):
        make(["flip"], IMAGES.reshape(60, -1))
    with pytest.raises(InputError, match=r"env\.augment: only what carries a gradient has mixed targets"):
        make(["mixup"], action="label")


def test_bits_are_not_rounded_in_silence():
    bits = (IMAGES > 128).astype(np.uint8)
    for augment in ({"name": "mixup"}, {"name": "noise", "std": 0.4}, "crop"):
        with pytest.raises(
            InputError, match=r"makes other numbers of bytes that are only 0 and 1; store them as floats"
        ):
            make([augment], bits)
    assert set(make(["flip", "shift"], bits).reset(seed=1)[0].unique().tolist()) <= {0, 1}
    assert make([{"name": "mixup"}], bits.astype(np.float32)).reset(seed=1)[0].unique().numel() > 2
    with pytest.raises(InputError, match="noise makes other numbers of pixels that are drawn"):
        make(
            [{"name": "noise", "std": 0.1}],
            (IMAGES / 255).astype(np.float32),
            kind=ReconstructionEnv,
            binarize="dynamic",
        )


def test_a_likelihood_of_noisy_pixels_has_a_bound_and_autoencoders_can_mix():
    greys = (IMAGES / 255).astype(np.float32)
    env = make([{"name": "noise", "std": 5.0}], greys, kind=ReconstructionEnv)
    obs, _ = env.reset(seed=1)
    assert obs.max() > 1
    assert ((env._target >= 0) & (env._target <= 1)).all()
    mixed = make([{"name": "mixup", "alpha": 1.0}], greys, kind=ReconstructionEnv)
    obs, _ = mixed.reset(seed=1)
    assert torch.equal(mixed._target, obs)
