"""Exact selection: worked numbers of papers/baselines.md, properties, and an obvious version to compare with."""

from math import floor, prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import InputError
from compressor.selection import SCOPES, erk_densities, kept_count, layer_counts, select

W1 = torch.tensor([[-0.1, -0.4], [0.7, 0.7], [0.5, -0.4]])
W2 = torch.tensor([[-0.8, 0.1, 0.4], [-0.6, 0.4, -0.8]])


def positions(mask: torch.Tensor) -> list[list[int]]:
    return mask.nonzero().tolist()


def test_m1_a_tie_at_the_threshold_is_kept_by_position() -> None:
    mask = select({"w1": W1.abs(), "w2": W2.abs()}, 0.25)
    assert positions(mask["w1"]) == [[1, 0]]
    assert positions(mask["w2"]) == [[0, 0], [1, 2]]


def test_m1_layer_scope_keeps_the_best_of_each_layer() -> None:
    mask = select({"w1": W1.abs(), "w2": W2.abs()}, 0.5, "layer")
    assert positions(mask["w1"]) == [[1, 0], [1, 1], [2, 0]]
    assert positions(mask["w2"]) == [[0, 0], [1, 0], [1, 2]]


def test_m2_global_takes_all_of_the_larger_layer_and_layer_scope_half_of_each() -> None:
    scores = {"w1": torch.tensor([[0.1, 0.2], [0.3, 0.15]]), "w2": torch.tensor([[1.0, 2], [3, 4]])}
    assert [int(m.sum()) for m in select(scores, 0.5).values()] == [0, 4]
    mask = select(scores, 0.5, "layer")
    assert positions(mask["w1"]) == [[0, 1], [1, 0]]
    assert positions(mask["w2"]) == [[1, 0], [1, 1]]


def test_m3_all_equal_scores_keep_the_earliest_positions() -> None:
    mask = select({"w1": torch.ones(2, 2), "w2": torch.ones(1, 2)}, 0.5)
    assert positions(mask["w1"]) == [[0, 0], [0, 1], [1, 0]]
    assert not mask["w2"].any()


@pytest.mark.parametrize(
    ("total", "density", "count"),
    [
        (10, 0.25, 3),
        (10, 0.35, 4),
        (10, 0.15, 2),
        (10, 0.3, 3),
        (50, 0.01, 1),
        (24112, 0.2, 4822),
        (24112, 0.05, 1206),
        (83900, 0.2, 16780),
        (83900, 0.05, 4195),
        (14715584, 0.05, 735779),
        (100, 0.145, 15),
        (7, 1.0, 7),
        (9, 1e-09, 1),
    ],
)
def test_the_count_is_rounded_half_up_and_at_least_one(total: int, density: float, count: int) -> None:
    assert kept_count(density, total) == count


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, float("nan")])
def test_a_density_outside_0_to_1_is_an_input_error(density: float) -> None:
    with pytest.raises(InputError, match="outside"):
        kept_count(density, 10)


MLP = {"a": (100, 784), "b": (50, 100), "c": (10, 50)}
LENET = {"a": (300, 784), "b": (100, 300), "c": (10, 100)}
CONV = {"a": (16, 3, 3, 3), "b": (32, 16, 3, 3), "c": (64, 32, 3, 3), "d": (10, 64)}


@pytest.mark.parametrize(
    ("shapes", "density", "densities", "counts"),
    [
        (MLP, 0.2, [0.177529, 0.472340, 1], [13918, 2362, 500]),
        (MLP, 0.05, [0.043237, 0.115037, 0.460146], [3390, 575, 230]),
        (LENET, 0.05, [0.038484, 0.111334, 0.918507], [9051, 3340, 919]),
        (LENET, 0.2, [0.162241, 0.469362, 1], [38159, 14081, 1000]),
        (CONV, 0.2, [1, 0.281731, 0.133040, 1], [432, 1298, 2452, 640]),
        (CONV, 0.05, [0.273602, 0.055404, 0.026163, 0.546657], [118, 256, 482, 350]),
    ],
)
def test_e1_to_e3_erk_densities_and_counts(
    shapes: dict[str, tuple[int, ...]], density: float, densities: list[float], counts: list[int]
) -> None:
    assert list(erk_densities(shapes, density).values()) == pytest.approx(densities, abs=6e-7)
    assert list(layer_counts(shapes, density, "erk").values()) == counts


@pytest.mark.parametrize(("density", "counts"), [(0.2, [86, 922, 3686, 128]), (0.05, [22, 230, 922, 32])])
def test_e4_uniform_layer_counts(density: float, counts: list[int]) -> None:
    assert list(layer_counts(CONV, density, "layer").values()) == counts


def test_the_largest_remainder_takes_the_missing_weight_in_layer_order() -> None:
    assert list(layer_counts(dict.fromkeys("abc", (10,)), 0.25, "layer").values()) == [3, 3, 2]


def test_a_layer_that_would_get_none_takes_one_from_the_largest() -> None:
    assert layer_counts({"a": (1000,), "b": (2,)}, 0.01, "layer") == {"a": 9, "b": 1}


def test_fewer_kept_weights_than_layers_is_an_input_error() -> None:
    with pytest.raises(InputError, match="each needs at least one"):
        layer_counts(dict.fromkeys("abc", (10,)), 0.05, "layer")


def test_nan_scores_name_their_layer() -> None:
    with pytest.raises(InputError, match='"fc2"'):
        select({"fc1": torch.ones(2), "fc2": torch.tensor([1.0, float("nan")])}, 0.5)


def test_an_unknown_scope_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match='did you mean "global"'):
        select({"a": torch.ones(2)}, 0.5, "globl")


@given(
    values=st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12), min_size=1, max_size=4
    ),
    density=st.floats(0.01, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_global_selection_equals_a_stable_sort(
    values: list[list[float]], density: float, dtype: torch.dtype
) -> None:
    scores = {str(i): torch.tensor(v, dtype=dtype) for i, v in enumerate(values)}
    flat = [(-value, place) for place, value in enumerate([v for part in values for v in part])]
    kept = {place for _, place in sorted(flat)[: kept_count(density, len(flat))]}
    mask = torch.cat(list(select(scores, density).values()))
    assert set(mask.nonzero().flatten().tolist()) == kept


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple), min_size=1, max_size=5),
    density=st.floats(0.01, 1),
    scope=st.sampled_from(SCOPES[1:]),
)
def test_layer_counts_are_exact_in_sum_and_within_every_layer(
    shapes: list[tuple[int, ...]], density: float, scope: str
) -> None:
    named = {str(i): shape for i, shape in enumerate(shapes)}
    total = sum(prod(shape) for shape in shapes)
    if floor(density * total + 0.5) < len(shapes):
        return
    counts = layer_counts(named, density, scope)
    assert sum(counts.values()) == kept_count(density, total)
    assert all(1 <= counts[name] <= prod(shape) for name, shape in named.items())


def test_a_single_survivor_and_density_1() -> None:
    scores = {"a": torch.rand(3, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))}
    assert select(scores, 1e-6).kept == 1
    assert select(scores, 1.0).density == 1.0


@pytest.mark.parametrize("kind", ["even", "zeros", "equal", "steps", "rows", "far apart"])
@pytest.mark.parametrize("share", [1e-6, 0.001, 0.2, 0.93, 0.999999])
def test_the_threshold_of_a_large_tensor_is_exact_whatever_the_scores(kind: str, share: float) -> None:
    total = 2**21
    draws = torch.rand(total, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = {
        "even": draws,
        "zeros": torch.where(draws < 0.9, 0.0, draws),
        "equal": torch.ones(total),
        "steps": (draws * 5).floor(),
        "rows": torch.arange(total).remainder(451).double(),  # in step with the sample
        "far apart": torch.cat([draws[: total // 2] * 1e-30, draws[total // 2 :] * 1e30]),
    }[kind]
    count = kept_count(share, total)
    mask = select({"a": scores[: total // 3], "b": scores[total // 3 :]}, share)
    order = scores.sort(descending=True, stable=True).indices[:count]
    expected = torch.zeros(total, dtype=torch.bool).index_fill_(0, order, True)
    assert torch.equal(torch.cat([mask["a"], mask["b"]]), expected)


@pytest.mark.parametrize("scope", ["layer", "erk", "global"])
def test_a_layer_without_weights_keeps_none_and_is_in_the_way_of_no_scope(scope: str) -> None:
    scores = {"a": torch.rand(4, 5), "empty": torch.rand(3, 0), "b": torch.rand(4, 5)}
    mask = select(scores, 0.3, scope)
    assert mask.per_layer()["empty"] == (0, 0)
    assert mask.kept == 12
    assert select({"a": scores["a"], "empty": scores["empty"]}, 0.05, scope).kept == 1
