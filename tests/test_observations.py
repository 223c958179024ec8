import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from rlcore import InputError
from rlcore.networks import NetworkChoice
from rlcore.observations import ACTION_MASK, OneHot, action_mask, build_body
from rlcore.spaces import dtype_of_tensor, with_channels

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
    reader = build_body(choice("impala_cnn"), Box(0, 255, shape, np.uint8)).reader
    torch.testing.assert_close(reader(x), read(x).float() / 255)
    assert reader(x[:0]).shape == (0, *read(x).shape[1:])


@pytest.mark.parametrize(
    ("space", "x", "read"),
    [
        (Box(0, 1, (3,), np.uint8), [0, 1, 1], [0, 1, 1]),
        (Box(0, 1, (3,), np.int8), [0, 1, 1], [0, 1, 1]),
        (Box(0, 1, (2,), np.bool_), [False, True], [0, 1]),
        (MultiBinary(2), [0, 1], [0, 1]),
        (Box(-2, 2, (3,), np.int64), [-2, 0, 2], [0, 0.5, 1]),
        (Box(-128, 127, (3,), np.int8), [-128, 127, -1], [0, 1, 127 / 255]),
        (Box(10**9, 10**9 + 10, (2,), np.int64), [10**9 + 1, 10**9 + 10], [0.1, 1]),
        (Box(0, 65535, (2,), np.uint16), [65535, 1], [1, 1 / 65535]),
        (Box(np.array([0, 5]), np.array([4, 7]), dtype=np.int64), [1, 6], [0.25, 0.5]),
        (Box(-np.inf, np.inf, (2,), np.int64), [3, -70], [3, -70]),
        (Box(0, 2**31 - 1, (2,), np.int64), [3, 70], [3, 70]),
        (Box(0, 255, (2,), np.uint8), [255, 51], [1, 0.2]),
    ],
    ids=str,
)
def test_whole_numbers_are_scaled_by_the_bounds_of_their_space(space, x, read):
    reader = build_body(MLP, space).reader
    seen = reader(torch.as_tensor(np.asarray(x, dtype_of_tensor(space.dtype)))[None])
    torch.testing.assert_close(seen, torch.tensor([read], dtype=torch.float32))


def test_bounds_of_each_pixel_go_with_it():
    high = np.arange(1, 5 * 2 * 4 + 1).reshape(5, 2, 4)  # height 5, width 2, 4 channels
    reader = build_body(choice("impala_cnn"), Box(np.zeros_like(high), high, dtype=np.int64)).reader
    assert torch.equal(reader(torch.as_tensor(high)[None]), torch.ones(1, 4, 5, 2))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_, np.int64])
@pytest.mark.parametrize(
    ("shape", "channels", "read"),
    [
        ((60, 80, 3), None, (3, 60, 80)),
        ((3, 60, 80), None, (3, 60, 80)),
        ((10, 10, 4), None, (4, 10, 10)),
        ((7, 7, 20), "last", (20, 7, 7)),
        ((7, 7, 20), "first", (7, 7, 20)),
        ((17, 9, 9), "first", (17, 9, 9)),
        ((3, 8, 3), "last", (3, 3, 8)),
    ],
)
def test_images_have_their_channels_first(shape, channels, read, dtype):
    space = Box(0, 1, shape, dtype)
    body = build_body(choice("impala_cnn"), space if channels is None else with_channels(space, channels))
    x = torch.as_tensor(np.stack([space.sample() for _ in range(5)])).float()
    last = channels == "last" or (channels is None and shape[-1] in (1, 3, 4))
    expected = x.movedim(-1, 1) if last else x
    assert body(x).shape == (5, body.num_features)
    network = body.network if hasattr(body, "reader") else body
    assert network.sections[0].in_channels == read[0]
    if hasattr(body, "reader"):
        assert torch.equal(body.reader(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(17, 9, 9), (7, 7, 20), (60, 80, 2), (3, 8, 3), (4, 6, 1)])
def test_images_of_an_unclear_layout_are_refused_with_both_readings(shape, dtype):
    a, b, c = shape
    readings = f"may have {a} channels of {b} x {c} pixels, or {c} channels of {a} x {b}: set env.channels"
    space = Box(0, 1, shape, dtype)
    with pytest.raises(InputError, match=readings):
        build_body(choice("impala_cnn"), space)
    with pytest.raises(InputError, match=readings):
        build_body(choice("multi_input", parts={"eye": {"name": "impala_cnn"}}), Dict({"eye": space, "arm": VECTOR}))
    assert build_body(MLP, space)(torch.zeros(2, *shape)).shape == (2, 8)  # no layout matters here


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.int64, 1)])
def test_what_was_saved_without_a_scale_reads_as_it_was_trained(dtype, scale):
    body = build_body(MLP, Box(0, 7, (6, 6), dtype))
    old = {name: value for name, value in body.state_dict().items() if "low" not in name and "range" not in name}
    assert len(old) < len(body.state_dict())
    body.load_state_dict(old)
    torch.testing.assert_close(
        body.reader(torch.full((1, 6, 6), 7)), torch.full_like(body.reader(torch.zeros(1, 6, 6)), 7 / scale)
    )


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
