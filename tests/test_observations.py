import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from rlcore import InputError
from rlcore.networks import NetworkChoice
from rlcore.observations import ACTION_MASK, OneHot, Pixels, action_mask, build_body

MLP = NetworkChoice.model_validate({"name": "mlp", "hidden": [8]})
PIXELS = Box(0, 255, (40, 44, 3), np.uint8)
VECTOR = Box(-1, 1, (5,), np.float32)


def choice(name, **settings):
    return NetworkChoice.model_validate({"name": name, **settings})


def batch(space, size=6):
    space.seed(1)
    return torch.as_tensor(np.stack([space.sample() for _ in range(size)]))


def test_numbers_become_ones_among_zeros():
    read = OneHot([4], [0])
    assert read(torch.tensor([2, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert OneHot([3], [5])(torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    several = OneHot([2, 3], [0, -1])
    assert several(torch.tensor([[1, -1], [0, 1]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((10, 12), lambda x: x[:, None]),
        ((10, 12, 3), lambda x: x.permute(0, 3, 1, 2)),
        ((3, 10, 12), lambda x: x),
        ((4, 10, 12), lambda x: x),
        ((4, 10, 12, 3), lambda x: torch.cat([x[:, k].permute(0, 3, 1, 2) for k in range(4)], 1)),
        ((4, 3, 10, 12), lambda x: x.flatten(1, 2)),
        ((4, 10, 12, 1), lambda x: x.squeeze(-1)),
    ],
)
def test_pixels_become_fractions_channels_first(shape, read):
    x = torch.randint(256, (5, *shape), dtype=torch.uint8)
    torch.testing.assert_close(Pixels(shape)(x), read(x).float() / 255)
    assert Pixels(shape)(x[:0]).shape == (0, *read(x).shape[1:])


@pytest.mark.parametrize(
    "space", [VECTOR, Discrete(4), Discrete(3, start=2), MultiDiscrete([2, 4]), MultiBinary(5), MultiBinary((2, 3)),
              Box(0, 9, (4,), np.int64), Box(0, 255, (7,), np.uint8), Box(0, 255, (6, 6), np.uint8)], ids=str,
)  # fmt: skip
def test_every_space_has_a_body_and_each_row_is_read_alone(space):
    body, obs = build_body(MLP, space), batch(space)
    features = body(obs)
    assert features.shape == (6, 8)
    assert body(obs[:0]).shape == (0, 8)  # as the successors of a rollout in which nothing was truncated
    torch.testing.assert_close(features[3:4], body(obs[3:4]))
    assert not torch.equal(features, features[:1].expand(6, -1))


def test_parts_have_bodies_of_their_own_and_the_mask_is_left_aside():
    space = Dict({"eye": PIXELS, "arm": VECTOR, "room": Discrete(3), ACTION_MASK: MultiBinary(4)})
    body = build_body(choice("multi_input", parts={"arm": {"name": "mlp", "hidden": [3]}}, hidden=[10]), space)
    obs = {key: batch(part) for key, part in space.items()}
    assert body(obs).shape == (6, 10)
    assert [part.num_features for part in body.network.bodies] == [3, 512, 64]
    assert type(body.network.bodies[1]).__name__ == "NatureCNN"
    assert torch.equal(action_mask({ACTION_MASK: obs[ACTION_MASK]}), obs[ACTION_MASK])
    assert action_mask(obs["arm"]) is None
    for key in ("eye", "arm", "room"):  # each matters
        other = obs | {key: obs[key].flip(0)}
        assert not torch.equal(body(obs), body(other)), key
    torch.testing.assert_close(body(obs), body(obs | {ACTION_MASK: 1 - obs[ACTION_MASK]}))


def test_one_part_beside_a_mask_is_read_by_any_network():
    space = Dict({"observation": PIXELS, ACTION_MASK: MultiBinary(4)})
    obs = {key: batch(part) for key, part in space.items()}
    for name in ("nature_cnn", "impala_cnn", "mlp"):
        body = build_body(choice(name), space)
        assert body(obs).shape == (6, body.num_features)


def test_networks_for_pixels_have_the_published_sizes():
    nature = choice("nature_cnn").build((4, 84, 84), 18)
    assert sum(p.numel() for p in nature.parameters()) == 1_693_362  # Mnih et al. 2015 for 18 actions, with biases
    impala = choice("impala_cnn").build((4, 84, 84))
    assert impala.hidden.in_features == 11 * 11 * 32
    assert sum(isinstance(m, torch.nn.Conv2d) for m in impala.modules()) == 15


def test_what_no_network_reads_is_one_line():
    with pytest.raises(InputError, match="no network reads the observation space Text"):
        build_body(MLP, Text(3))
    with pytest.raises(InputError, match="mlp reads one array, but observations have the parts a, b; use multi_input"):
        build_body(MLP, Dict({"a": VECTOR, "b": VECTOR}))
    with pytest.raises(InputError, match="there is no part 'arn'"):
        build_body(choice("multi_input", parts={"arn": {"name": "mlp"}}), Dict({"arm": VECTOR, "leg": VECTOR}))
    with pytest.raises(InputError, match="36 x 36"):
        build_body(choice("nature_cnn"), Box(0, 255, (20, 20, 3), np.uint8))
