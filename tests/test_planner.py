"""The planner of the sequence tier: no GPU and no kernel is needed."""

import dataclasses
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from gpu_lstm import LSTM, BackendError
from gpu_lstm.layers import schedule
from gpu_lstm.layers.call import Call
from gpu_lstm.native import catalogue, kernels, sources
from gpu_lstm.recurrence import Offer, make_plan, runnable_tiers
from gpu_lstm.recurrence.cuda import auto, costs, planner
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.cuda.beside import MEETING, SLOWER_BESIDE, beside
from gpu_lstm.recurrence.cuda.explain import explain
from gpu_lstm.recurrence.cuda.layout import CELLS, DIRECTIONS, FEWER_HELD, HELD, MOST_RUNS, held
from gpu_lstm.recurrence.tier import Fit
from tests.gpu import H100, HostBackend

A100 = dataclasses.replace(H100, multiprocessors=108, shared_bytes=163 * 1024, capability=80)
DESKTOP = dataclasses.replace(H100, multiprocessors=170, shared_bytes=99 * 1024, capability=120)
H100_CLUSTERS = dataclasses.replace(H100, clusters=16)
"""The same where a grid of clusters can be launched."""
DTYPES = (*kernels.STORAGE, "tf32")
DEVICES = [H100, H100_CLUSTERS, A100, DESKTOP]
BATCHES, WIDTHS = (1, 3, 16, 64, 256, 1000), (1, 5, 33, 64, 100, 128, 250, 256, 480, 512, 768, 1024, 1320)


@pytest.mark.parametrize("device", DEVICES, ids=["sm_90", "sm_90_clusters", "sm_80", "sm_120"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_layout_covers_the_problem_and_fits(device, direction):
    launched = {kernel.expression for kernel in catalogue.every_kernel()}
    for batch, hidden, dtype, cells in product(BATCHES, WIDTHS, DTYPES, catalogue.SEQUENCE_CELLS):
        layout = planner.choose(device, direction, batch, hidden, dtype, 1, cells)
        if isinstance(layout, str):
            assert "does not fit" in layout or "more units" in layout
            continue
        assert layout.members * layout.share >= hidden
        assert layout.teams * layout.slice >= batch > (layout.teams - 1) * layout.slice
        assert layout.shared_bytes <= device.shared_bytes
        threads = catalogue.SEQUENCE_THREADS
        assert layout.share * 8 * layout.columns <= CELLS * threads
        assert layout.by_memory or layout.slice <= 8 * layout.columns
        assert not layout.by_memory or layout.blocks <= device.multiprocessors
        assert layout.form != "joint" or layout.blocks <= catalogue.CLUSTER * device.clusters
        assert layout.form != "joint" or layout.members % catalogue.CLUSTER == 0
        assert layout.form != "cluster" or (device.capability >= 90 and layout.members == catalogue.CLUSTER)
        assert layout.pitch * {"float64": 8, "float32": 4, "tf32": 4}.get(dtype, 2) % 16 == 0
        rows = layout.share * (4 if direction == "forward" else 1)
        at_once = catalogue.CLUSTER if layout.form == "joint" else 1
        assert (
            at_once * -(-rows // (16 * layout.height)) * layout.split <= threads // 32
        )  # each warp multiplies one part
        assert (layout.register_bytes > 0) == (held(dtype, layout.height, layout.columns, cells) > 0)
        kernel = catalogue.sequence(direction, dtype, layout.form, layout.height, layout.columns, cells)
        assert kernel.expression in launched
        assert kernel.cooperative == layout.by_memory
        assert 10 * device.capability >= 10 * kernel.since


@pytest.mark.parametrize("device", DEVICES, ids=["sm_90", "sm_90_clusters", "sm_80", "sm_120"])
def test_two_recurrences_at_once_have_all_they_need_or_a_reason_why_not(device):
    said = set()
    for direction, batch, hidden in product(DIRECTIONS, BATCHES, WIDTHS):
        layout = planner.choose_pair(device, direction, batch, hidden, "float32")
        if isinstance(layout, str):
            said.add(layout.split()[0])
            continue
        alone = planner.choose(device, direction, batch, hidden, "float32")
        assert layout.together == 2
        assert layout.blocks == 2 * layout.teams * layout.members
        assert layout.form != "grid" or layout.blocks <= device.multiprocessors
        assert costs.of(layout).microseconds < 2 * costs.of(alone).microseconds
    assert said == {"W_hh", "that"}  # doesn't fit; would take longer


@pytest.mark.parametrize("device", [H100, A100, DESKTOP], ids=["sm_90", "sm_80", "sm_120"])
def test_layers_at_once_have_all_they_need_or_a_reason_why_not(device):
    said, counts = set(), set()
    for direction, batch, hidden, dtype in product(DIRECTIONS, (1, 16, 70), (5, 128, 512, 1024), DTYPES):
        layout = planner.choose_layers(device, direction, batch, hidden, dtype, 3)
        times = planner.layer_times(device, direction, batch, hidden, dtype, 3)
        if isinstance(layout, str):
            said.add(layout.split()[0])
            assert all(times[n] > times[1] for n in times if n > 1)
            continue
        assert layout.stacked and layout.form == "grid"
        assert times[layout.together] == min(times.values())
        counts.add(layout.together)
        assert layout.blocks == layout.together * layout.teams * layout.members <= device.multiprocessors
        assert layout.members * layout.share >= hidden
        assert layout.teams * layout.slice >= batch
        assert layout.shared_bytes <= device.shared_bytes
        assert layout.share * 8 * layout.columns <= CELLS * catalogue.SEQUENCE_THREADS
        rows = layout.share * (4 if direction == "forward" else 1)
        warps = catalogue.SEQUENCE_THREADS // 32
        assert layout.split % 2 == 0  # each half of k has its own sums
        assert -(-rows // (16 * layout.height)) * layout.split <= warps
        alone = planner.choose(device, direction, batch, hidden, dtype)
        assert costs.of(layout).microseconds >= costs.of(alone).microseconds / 2
    assert {"2", "W_hh"} <= said
    assert counts == {2, 3}


def test_more_layers_than_a_launch_has_run_in_several():
    def at_once(layers):
        layout = planner.choose_layers(H100, "forward", 1, 256, "bfloat16", layers)
        return layout.together

    assert [at_once(layers) for layers in (2, 3, 4, 6)] == [2, 3, 4, 4]
    assert MOST_RUNS == 4
    source = (Path(__file__).parents[1] / "kernels" / "cuda" / "sequence.cu").read_text()
    assert "MOST_RUNS = 4;" in source
    lone = dataclasses.replace(H100, multiprocessors=1)
    said = planner.choose_layers(lone, "forward", 1, 16, "float32", 2)
    assert said == "H = 16 has more units than 0 of 1 multiprocessors can take"


def test_a_block_has_the_registers_and_the_shared_memory_that_the_planner_assumes():
    """All threads of one block share 65,536 registers, and nothing takes shared memory besides what is planned."""
    lines = (Path(__file__).parents[1] / "kernels" / "cuda" / "resources.md").read_text().splitlines()
    needs = {line.split("`")[1]: line.split("|")[2:-1] for line in lines if line.startswith("| `sequence_")}
    assert set(needs) == {kernel.expression for kernel in catalogue.every_kernel() if kernel.file == "sequence.cu"}
    for *registers, shared in needs.values():
        assert max(int(number) for number in registers if number.strip()) * catalogue.SEQUENCE_THREADS <= 65536
        assert int(shared) == 0


def test_weights_in_registers_are_as_many_as_the_kernel_holds():
    source = sources.read_source("sequence.cu")
    assert "held = (M >= 3 ? 3 : N == 1 ? (M == 1 ? 12 : 5) : (M == 1 ? 8 : 4)) - FewerHeld / M -" in source
    assert "fewer_held = sizeof(T) == 8 ? 4 / M : M * N / 4 * 2;" in source
    assert f"THREADS = {catalogue.SEQUENCE_THREADS};" in source
    for cells, fewer in FEWER_HELD.items():
        text = re.split(rf"struct {cells} (?:: [^{{]*)?{{", source)[1].split("struct Ahead")[0]
        assert re.search(rf"fewer_held = (sizeof\(S\) == 8 \? {fewer + 2} : )?{fewer};", text)
    assert HELD == {(1, 1): 12, (2, 1): 5, (3, 1): 3, (4, 1): 3, (1, 2): 8, (2, 2): 4, (3, 2): 3}
    for direction in DIRECTIONS:
        layout = planner.choose(H100, direction, 16, 768, "bfloat16")
        assert layout.register_bytes >= 2 * 4 * 768 * 768 / layout.members  # all of W_hh: nothing is read again


def test_small_middle_and_large_take_their_forms():
    def form(device, hidden):
        return planner.choose(device, "forward", 16, hidden, "bfloat16").form

    assert [form(H100, hidden) for hidden in (16, 256, 768)] == ["block", "cluster", "grid"]
    assert [form(A100, hidden) for hidden in (16, 256, 768)] == ["block", "grid", "grid"]


def test_clusters_of_a_grid_share_dz_where_that_pays():
    """Not forward: h is no wider than the sums that would go between blocks instead."""
    for hidden, dtype in ((512, "bfloat16"), (768, "bfloat16"), (1024, "tf32"), (768, "float32")):
        alone, joint = (planner.choose(device, "backward", 16, hidden, dtype) for device in (H100, H100_CLUSTERS))
        assert (alone.form, joint.form) == ("grid", "joint")
        assert costs.of(joint).microseconds < costs.of(alone).microseconds
        assert planner.choose(H100_CLUSTERS, "forward", 16, hidden, dtype).form == "grid"
    assert planner.choose(H100_CLUSTERS, "backward", 16, 128, "bfloat16").form == "cluster"
    said = explain(H100_CLUSTERS, 16, 768, "bfloat16")
    assert "backward: 2 x 64 blocks of the grid in clusters of 8, 12 units and 8 sequences each, " in said
    assert "no grid of clusters" not in said
    assert "no grid of clusters" in explain(H100, 16, 768, "bfloat16")
    assert "no grid of clusters" not in explain(A100, 16, 768, "bfloat16")


def test_without_cooperative_launches_there_is_no_grid():
    device = dataclasses.replace(A100, cooperative=False)
    assert planner.choose(device, "forward", 16, 64, "float16").form == "block"
    assert "H = 768 has more units" in planner.choose(device, "forward", 16, 768, "float16")


def test_what_does_not_fit_is_refused_with_numbers():
    said = planner.obstacle(H100, 2048, "float32")
    assert "W_hh of H = 2048 in float32 does not fit on chip: forward needs at least" in said
    assert "227 are there on each of 132 multiprocessors" in said
    backend = HostBackend()
    with pytest.raises(BackendError, match="tier sequence can't run on backend cuda: W_hh of H = 2048 in float32"):
        make_plan(backend, "sequence", 2048)
    plan = make_plan(backend, "auto", 2048)
    assert plan.tier == "pointwise"
    assert "sequence: can't run: W_hh of H = 2048" in plan.why()
    old = dataclasses.replace(H100, capability=75)
    assert planner.obstacle(old, 8, "float32") == "it needs compute capability 8.0; this device has 7.5"
    assert runnable_tiers(HostBackend(limits=old)) == ["reference", "pointwise"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_fits_and_the_next_does_not(dtype):
    most = planner.largest(H100, dtype)
    assert most > {"float64": 512, "float32": 1100, "tf32": 1200}.get(dtype, 2048)
    assert not planner.obstacle(H100, most, dtype)
    assert planner.obstacle(H100, most + 1, dtype)


def test_the_plan_explains_itself_with_numbers():
    said = LSTM(4, 256, backend=HostBackend()).plan.why()
    for part in (
        "sequence: chosen, the fastest that runs here (persistent CUDA kernels that keep W_hh on chip; at H = 256",
        "forward: 8 x 16 blocks of the grid, 16 units and 8 sequences each, 72 KiB on chip a block (64 of them ",
        "backward: 8 clusters of 8 blocks, 32 units and 8 sequences each, 234 KiB on chip a block (80 of them ",
        "registers), no barrier, ",
        "us a step expected (product",
        "backward: ",
        "both directions of a layer forward: in one launch of 2 x 8 clusters of 8 blocks, 2.61 us a step expected",
        "the next x W_ih^T of D = 256 beside 256 steps forward: 4 of 132 multiprocessors idle for ",
        "dx, dW_ih and dW_hh of D = 256 beside 256 steps backward: 68 of 132 multiprocessors idle for ",
        "larger batches than B = 512 forward and B = 512 backward take the pointwise tier",
        "2 layers forward: one after the other (2 at once would take 6.13 us a step instead of 5.54)",
        "3 layers run at once, or some of them, up to B = 32 forward and B = 64 backward",
        "layers in both directions, or with residual, input_dropout, cells or an option of the recurrence, run",
        "pointwise: could run, but it is slower",
    ):
        assert part in said
    assert (
        "both directions of a layer backward: one after the other (W_hh of H = 1100 in float32 does not fit on chip"
        in LSTM(4, 1100, backend=HostBackend()).plan.why()
    )
    said = explain(H100, 16, 512, "bfloat16")
    assert (
        "3 layers forward: in one launch of 3 x 2 x 22 blocks of the grid, 2.28 us a step expected instead of" in said
    )
    assert "layers" not in explain(H100, 16, 512, "bfloat16", frozenset({"zoneout_h"}))
    assert "no barrier, " in LSTM(4, 768, backend=HostBackend()).plan.why()
    assert "larger batches" not in LSTM(4, 64, backend=HostBackend()).plan.why()
    assert "up to H = 1152 in float32" in make_plan(HostBackend()).why()


def test_auto_takes_the_pointwise_tier_for_batches_where_it_is_expected_to_be_faster():
    backend = HostBackend()
    assert make_plan(backend, "auto", 1024).run is auto.TIER
    assert make_plan(backend, "sequence", 1024).run is sequence_cuda.TIER
    most = planner.most_that_pays(H100, "backward", 1024, "float32")
    assert planner.pays(H100, "backward", most, 1024, "float32")
    assert not planner.pays(H100, "backward", 2 * most, 1024, "float32")
    assert not planner.pays(H100, "backward", 1, 4096, "float32")


def test_more_work_never_takes_less_time():
    for direction, dtype in product(DIRECTIONS, DTYPES):
        times = [
            costs.of(planner.choose(H100, direction, batch, 256, dtype)).microseconds
            for batch in (1, 16, 64, 256, 1024)
        ]
        assert times == sorted(times)


def test_products_beside_a_recurrence_get_the_multiprocessors_that_it_leaves_idle():
    shape = 256, 64, 256
    layout = planner.choose(H100, "backward", 64, 256, "float32")
    share = (132 - layout.blocks) / 132
    assert 0.4 < share < 0.6

    def taking(microseconds):
        products = round(microseconds * costs.product_rate(H100, "float32"))
        return beside(H100, "backward", shape, "float32", products)

    recurrence = 256 * costs.of(layout).microseconds
    assert taking(100).recurrence == pytest.approx(recurrence)
    assert taking(100).products == pytest.approx(100)
    # Hidden as a whole: their own time is saved, less what meeting and sharing cost.
    slower = SLOWER_BESIDE * 100 / share
    assert taking(100).saved == pytest.approx(100 - slower - MEETING)
    # Hidden in part: what the idle multiprocessors get done meanwhile.
    most = recurrence * (share - SLOWER_BESIDE) - MEETING
    assert taking(10000).saved == pytest.approx(most)
    assert taking(1).saved < 0 < taking(20).saved
    said = f"68 of 132 multiprocessors idle for {recurrence:.0f} us, products 100 us with all of them: saves "
    assert taking(100).words() == f"{said}{taking(100).saved:.0f} us"
    assert taking(1).words().endswith("products 1 us with all of them: does not pay")


def test_beside_two_directions_there_is_less_room():
    one, two = (beside(H100, "forward", (256, 16, 256), "tf32", 10**10, count) for count in (1, 2))
    assert (one.idle, two.idle) == (132 - 16, 132 - 32)
    assert two.recurrence == pytest.approx(one.recurrence)  # in one launch
    assert isinstance(planner.choose_pair(H100, "backward", 64, 1100, "float32"), str)
    one, two = (beside(H100, "backward", (256, 64, 1100), "float32", 10**10, count) for count in (1, 2))
    assert (one.idle, 2 * one.recurrence) == (two.idle, two.recurrence)  # one after the other


def test_beside_a_full_device_nothing_pays():
    for direction, dtype, hidden in product(DIRECTIONS, DTYPES, (768, 1024, 2048)):
        assert beside(H100, direction, (1024, 64, hidden), dtype, 10**13).saved <= 0
    layout = planner.choose(H100, "forward", 4096, 64, "bfloat16")
    assert layout.waves > 1
    assert beside(H100, "forward", (256, 4096, 64), "bfloat16", 10**13).idle == 0


@pytest.mark.parametrize("tier", [sequence_cuda, auto], ids=["sequence", "auto"])
def test_a_tier_leaves_room_where_that_pays_and_it_takes_the_options(tier):
    backend, none = HostBackend(), frozenset()

    def room(hidden, batch=64, options=none, dtype="float32", count=1):
        products = count * 256 * batch * 4 * hidden * 3 * hidden
        return tier.fit(backend, Offer("backward", 256, batch, hidden, dtype, options, count, 1, products)).beside

    assert room(256)
    assert room(256, batch=16, count=2)
    assert not room(256, count=2)  # the other direction takes what is idle
    assert not room(1024)  # every multiprocessor is taken
    assert not room(64, dtype="bfloat16")  # too little to do
    assert not room(256, options=frozenset({"no such option"}))
    assert not room(2048)  # nothing fits
    backend.tf32 = True
    assert room(256)
    most = planner.most_that_pays(H100, "backward", 1024, "bfloat16")
    recurrences = Offer("backward", 256, 2 * most, 1024, "bfloat16", multiply_adds=10**13)
    assert not auto.fit(backend, recurrences).beside


def test_auto_leaves_no_room_where_the_pointwise_tier_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(planner, "pays", lambda *given: asked.append(given))
    recurrences = Offer("forward", 256, 64, 256, "float32", frozenset({"peepholes"}), multiply_adds=10**10)
    assert not auto.fit(HostBackend(), recurrences).beside
    assert asked == [(H100, "forward", 64, 256, "float32", "Family")]


@pytest.mark.parametrize("layers, directions", [(1, 1), (1, 2), (2, 1)])
def test_an_lstm_asks_with_the_products_of_a_segment(monkeypatch, layers, directions):
    asked = []
    one = LSTM(3, 8, layers, bidirectional=directions == 2, backend=HostBackend())
    tier = replace(one.plan.run, fit=lambda backend, offer: (asked.append(offer), Fit())[1])
    one.plan = replace(one.plan, run=tier)
    for steps in (700, 200):
        work = one._work({}, Call(steps, 50, None, None, None, True))
        for direction in DIRECTIONS:
            schedule.passes(work, direction)
    whole = directions * 256 * 50 * 4 * 8
    kind = 256, 50, 8, "float32", frozenset(), directions, layers
    expected = [Offer("forward", *kind, whole * 3), Offer("backward", *kind, whole * (3 + 3 + 8))]
    if layers > 1:  # of a single segment, gradients of an upper layer go beside the recurrence of the one below
        expected.append(Offer("forward", 200, *kind[1:]))
        expected.append(Offer("backward", 200, *kind[1:], 200 * 50 * 4 * 8 * (3 + 3 + 8)))
    assert asked == expected


def test_tf32_is_planned_only_where_it_was_asked_for():
    backend = HostBackend()
    assert planner.multiplied(backend, "float32") == "float32"
    backend.tf32 = True
    assert [planner.multiplied(backend, dtype) for dtype in ("float32", "float64", "float16")] == [
        "tf32",
        "float64",
        "float16",
    ]
    said = make_plan(backend, "auto", 512).why()
    assert "at H = 512, B = 64, tf32, forward" in said
    assert "cuBLAS at each step in TF32" in make_plan(backend, "pointwise", 512).why()
