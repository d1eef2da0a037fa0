"""What an engine remembers: undo, redo, checkpoints, what an error leaves behind, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effvision.errors import DTypeError, InputError, RangeError, RuntimeFailure, ShapeError, StateError
from effvision.host.edit_journal import Step
from effvision.incremental import IncrementalNetwork, Mode, make_incremental
from effvision.incremental.rules import Convolution
from painters import ResnetGenerator, SpadeGenerator, UnetGenerator


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return UnetGenerator(4, 3).eval()


@pytest.fixture
def picture() -> Tensor:
    return torch.randn(1, 3, 64, 72, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def engine(network: nn.Module, picture: Tensor) -> IncrementalNetwork:
    made = make_incremental(network, picture)
    made.update(picture)
    return made


def painted(picture: Tensor, top: int, left: int, size: int = 5) -> Tensor:
    found = picture.clone()
    found[:, :, top : top + size, left : left + size] += 1
    return found


def everything(engine: IncrementalNetwork) -> list[Tensor]:
    """A copy of every map the engine keeps."""
    maps = engine._maps
    assert maps is not None
    return [maps[index].clone() for index in sorted(engine._kept)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("plan", ["auto", "rectangles", "tiles", "dense"])
def test_undo_and_redo_restore_every_map_bit_for_bit(network: nn.Module, picture: Tensor, plan: str) -> None:
    engine = make_incremental(network, picture, plan=plan)  # type: ignore[arg-type]
    engine.update(picture)
    states, now = [everything(engine)], picture
    for top, left in ((0, 0), (3, 4), (59, 67), (3, 5)):
        now = painted(now, top, left)
        engine.update(now)
        states.append(everything(engine))
        assert not same(states[-1], states[-2])
    for state in reversed(states[:-1]):
        engine.undo()
        assert same(everything(engine), state)
    for state in states[1:]:
        engine.redo()
        assert same(everything(engine), state)
    assert (engine.can_undo, engine.can_redo) == (4, 0)


def test_a_local_edit_changes_the_same_pixels_whatever_is_cheapest_here(network: nn.Module, picture: Tensor) -> None:
    engines = [make_incremental(network, picture, plan=plan) for plan in ("rectangles", "dense")]
    now = picture
    for engine in engines:
        engine.update(picture)
    for top, left in (
        (3, 4),
        (30, 30),
        (8, 10),
    ):  # the first edit leaks further than is followed; later ones leave that alone
        now, before = painted(now, top, left), [engine.output.clone() for engine in engines]
        updates = [engine.update(now) for engine in engines]
        assert updates[0].changed == updates[1].changed
        for engine, update, then in zip(engines, updates, before, strict=True):
            written = torch.from_numpy(engine.changed_mask(update))
            assert torch.equal(update.output[:, :, ~written], then[:, :, ~written])
        assert torch.allclose(engines[0].output, engines[1].output, atol=1e-5)


def test_after_an_undo_the_next_edit_is_compared_with_what_is_there(network: nn.Module, picture: Tensor) -> None:
    engine = make_incremental(network, picture, mode="exact")
    engine.update(picture)
    engine.update(painted(picture, 3, 4))
    engine.undo()
    other = painted(picture, 30, 30)
    with torch.no_grad():
        assert torch.allclose(engine.update(other).output, network(other), atol=1e-5)
    assert engine.can_redo == 0


@pytest.mark.parametrize("mode", ["local", "exact", "frozen", "reference"])
def test_another_engine_of_any_mode_needs_no_second_trace(
    picture: Tensor, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
    ).eval()
    first = make_incremental(network, picture, mode="frozen", plan="rectangles")
    own = make_incremental(network, picture, mode=mode, plan="rectangles")
    monkeypatch.setattr("effvision.incremental.engine.trace", None)
    assert first.serves(mode)
    made = first.another(mode=mode, journal_bytes=1 << 20)
    assert (made.mode, made.promise, made.report.journal_limit_bytes) == (mode, own.promise, 1 << 20)
    for now in (picture, painted(picture, 9, 9), painted(picture, 30, 30)):
        assert torch.equal(made.update(now).output, own.update(now).output)
    assert first.kept() == {} and set(made.kept()) == set(own.kept())


def test_modes_that_treat_norms_differently_need_their_own_trace(picture: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)).eval()
    frozen = make_incremental(network, picture, mode="frozen")
    assert frozen.serves("local") and not frozen.serves("exact")
    with pytest.raises(InputError, match="hint: make_incremental"):
        frozen.another(mode="exact")
    with pytest.raises(InputError, match="unknown"):
        frozen.another(mode="fast")  # type: ignore[arg-type]
    with pytest.raises(RangeError):
        frozen.another(journal_bytes=-1)


def test_a_checkpoint_is_a_place_to_return_to(engine: IncrementalNetwork, picture: Tensor) -> None:
    now = painted(picture, 1, 1)
    engine.update(now)
    mark, state = engine.checkpoint(), everything(engine)
    for top in (10, 20, 30):
        now = painted(now, top, 5)
        engine.update(now)
    engine.undo(to=mark)
    assert same(everything(engine), state) and engine.can_redo == 3
    with pytest.raises(StateError, match="hint:"):
        engine.undo(to=mark + 9)


def test_a_mark_of_a_picture_that_was_forgotten_is_no_place_of_the_next(
    engine: IncrementalNetwork, picture: Tensor
) -> None:
    marks = [engine.checkpoint()]
    engine.update(painted(picture, 3, 3))
    marks.append(engine.checkpoint())
    for forget in (engine.reset, lambda: engine.restore(picture, {k: v.clone() for k, v in engine.kept().items()})):
        forget()
        for place in (3, 9, 20):
            engine.update(painted(picture, place, place))
        for mark in marks:
            with pytest.raises(StateError, match="cannot go back"):
                engine.undo(to=mark)
        marks.append(engine.checkpoint())


def test_an_undo_of_several_steps_that_fails_half_way_is_none(
    engine: IncrementalNetwork, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.update(picture)
    mark = engine.checkpoint()
    for place in (2, 9, 12):
        engine.update(painted(picture, place, place))
    before, steps = everything(engine), engine.can_undo
    maps = engine._maps
    assert maps is not None
    swap, calls = maps.swap, 0

    def failing(step: Step) -> Step:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return swap(step)

    monkeypatch.setattr(maps, "swap", failing)
    with pytest.raises(MemoryError):
        engine.undo(to=mark)
    monkeypatch.undo()
    assert same(everything(engine), before) and (engine.can_undo, engine.can_redo) == (steps, 0)
    assert torch.equal(engine.undo(to=mark), engine.another(mode="exact").update(picture).output)


def test_a_callers_autocast_changes_nothing(network: nn.Module, picture: Tensor) -> None:
    engine = make_incremental(network, picture, mode="exact")
    with torch.autocast("cpu", torch.bfloat16):
        first = engine.update(picture).output.clone()
    assert first.dtype == torch.float32
    assert torch.equal(first, make_incremental(network, picture, mode="exact").update(picture).output)


def test_commit_forgets_the_way_and_keeps_the_picture(engine: IncrementalNetwork, picture: Tensor) -> None:
    engine.update(painted(picture, 3, 4))
    state = everything(engine)
    assert engine.report.journal_bytes > 0
    engine.commit()
    assert engine.report.journal_bytes == 0 and same(everything(engine), state)
    for refused in (engine.undo, engine.redo):
        with pytest.raises(StateError, match="hint:"):
            refused()


def test_the_journal_keeps_its_limit(network: nn.Module, picture: Tensor) -> None:
    engine = make_incremental(network, picture, journal_bytes=60_000, plan="rectangles")
    engine.update(picture)
    for n in range(12):
        engine.update(painted(picture, 4 * n, 5))
        assert engine.report.journal_bytes <= 60_000
    assert 0 < engine.can_undo < 12
    for _ in range(engine.can_undo):
        engine.undo()
    with pytest.raises(StateError, match="journal_bytes"):
        engine.undo()


def test_an_edit_of_nothing_computes_nothing(
    engine: IncrementalNetwork, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setattr(Convolution, "run", never)
    before = engine.output.clone()
    for mask in (None, np.zeros((64, 72), bool)):
        update = engine.update(picture.clone(), mask)
        assert update.macs == 0 and update.how == {} and update.changed == ((),)
        assert torch.equal(update.output, before) and engine.can_undo == 0


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), ValueError("odd")])
def test_an_exception_takes_everything_back(
    engine: IncrementalNetwork, picture: Tensor, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    state, calls, run = everything(engine), [0], Convolution.run

    def breaks(rule: Convolution, *given: object) -> Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise error
        return run(rule, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Convolution, "run", breaks)
    engine._plan = "rectangles"
    with pytest.raises(RuntimeFailure if isinstance(error, RuntimeError) else type(error)):
        engine.update(painted(picture, 20, 20))
    assert calls[0] == 3 and same(everything(engine), state) and engine.can_undo == 0
    monkeypatch.undo()
    after = painted(picture, 20, 20)
    fresh = make_incremental(UnetGenerator(4, 3).eval(), picture)
    assert fresh._kept == engine._kept
    engine.update(after)
    assert not same(everything(engine), state)


def test_a_mask_says_where_to_look_and_can_be_checked(network: nn.Module, picture: Tensor) -> None:
    engine = make_incremental(network, picture, mode="exact")
    engine.update(picture)
    after = painted(picture, 10, 12)
    mask = np.zeros((64, 72), bool)
    mask[10:15, 12:16] = True  # one column short
    with pytest.raises(InputError, match="5 pixels of input `x` changed outside"):
        engine.update(after, mask, check=True)
    assert engine.can_undo == 0
    mask[10:15, 16] = True
    with torch.no_grad():
        assert torch.allclose(
            engine.update(after, torch.from_numpy(mask), check=True).output, network(after), atol=1e-5
        )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x: x[:, :, 1:], ShapeError),
        (lambda x: torch.cat([x, x]), ShapeError),
        (lambda x: x.double(), DTypeError),
        (lambda x: (x, x), InputError),
        (lambda x: x.numpy(), DTypeError),
        (lambda x: torch.where(x == x[0, 1, 2, 3], torch.nan, x), RangeError),
        (lambda x: torch.where(x == x[0, 1, 2, 3], torch.inf, x), RangeError),
    ],
)
def test_inputs_that_do_not_fit_are_refused_and_change_nothing(
    engine: IncrementalNetwork, picture: Tensor, change: object, error: type[Exception]
) -> None:
    state = everything(engine)
    with pytest.raises(error, match="hint:"):
        engine.update(change(picture))  # type: ignore[operator]
    assert same(everything(engine), state) and engine.can_undo == 0


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones((64, 71), bool), ShapeError), (np.ones((64, 72)), DTypeError), (np.ones(5, bool), ShapeError)],
)
def test_masks_that_do_not_fit_are_refused(
    engine: IncrementalNetwork, picture: Tensor, mask: object, error: type
) -> None:
    with pytest.raises(error, match="hint:"):
        engine.update(painted(picture, 1, 1), mask)  # type: ignore[arg-type]
    engine.reset()
    with pytest.raises(error, match="hint:"):  # of a first picture too, though it is not needed there
        engine.update(picture, mask)  # type: ignore[arg-type]


def test_a_full_pass_that_fails_leaves_no_picture(
    engine: IncrementalNetwork, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = engine.output.clone()
    engine.reset()
    with monkeypatch.context() as broken:
        broken.setattr("effvision.incremental.engine.compute_whole", lambda *given: torch.zeros(2) + torch.zeros(3))
        with pytest.raises(RuntimeFailure, match="PyTorch failed during the full pass"):
            engine.update(picture)
    with pytest.raises(StateError, match="no picture"):
        engine.checkpoint()
    assert torch.equal(engine.update(picture).output, wanted)


def test_a_caller_may_be_in_inference_mode_for_some_calls_only(network: nn.Module, picture: Tensor) -> None:
    engine, plain = (make_incremental(network, picture, mode="frozen", plan="rectangles") for _ in range(2))
    after = painted(picture, 20, 20)
    with torch.inference_mode():
        engine.update(picture)
    engine.update(after)
    plain.update(picture)
    plain.update(after)
    assert same(everything(engine), everything(plain))
    with torch.inference_mode():
        engine.undo()
    engine.redo()
    assert same(everything(engine), everything(plain))
    with torch.inference_mode():
        engine.restore(after, {name: tensor.clone() for name, tensor in engine.kept().items()})
    engine.update(picture)
    plain.update(picture)
    assert same(everything(engine), everything(plain))


def test_the_first_picture_is_checked_too(network: nn.Module, picture: Tensor) -> None:
    engine = make_incremental(network, picture)
    for early in (engine.undo, engine.redo, engine.commit, engine.checkpoint, lambda: engine.output):
        with pytest.raises(StateError, match="hint: call update"):
            early()
    picture[0, 0, 0, 0] = torch.nan
    with pytest.raises(RangeError, match="1 values"):
        engine.update(picture)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x, 0.5, True)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class WritingInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


class WritingView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1].mul_(3)
        return y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(3)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Noisy(), "random"),
        (Dropping(), "random"),
        (Branching(), "followed"),
        (WritingInput(), "in place"),
        (WritingView(), "shares memory"),
        (Counting(), "in place"),
        (Constant(), "does not depend"),
    ],
)
def test_networks_that_cannot_be_kept_are_refused(module: nn.Module, says: str) -> None:
    with pytest.raises(InputError, match=rf"(?s){says}.*hint:"):
        make_incremental(module.eval(), torch.randn(1, 3, 8, 8))


def test_training_mode_is_refused_and_eval_with_dropout_is_not(picture: Tensor) -> None:
    network = ResnetGenerator(4, 1)
    with pytest.raises(InputError, match=r"network\.eval\(\)"):
        make_incremental(network, picture)
    make_incremental(network.eval(), picture)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"mode": "fast"}, InputError),
        ({"plan": "both"}, InputError),
        ({"halo": -1}, RangeError),
        ({"journal_bytes": -1}, RangeError),
    ],
)
def test_options_that_mean_nothing_are_refused(
    network: nn.Module, picture: Tensor, given: dict[str, object], error: type
) -> None:
    with pytest.raises(error, match="hint:"):
        make_incremental(network, picture, **given)  # type: ignore[arg-type]


def test_reset_takes_new_statistics() -> None:
    torch.manual_seed(3)
    network = ResnetGenerator(4, 1).eval()
    first, second = torch.randn(1, 3, 32, 32), 3 * torch.randn(1, 3, 32, 32) + 1
    engine = make_incremental(network, first, mode="frozen")
    engine.update(first)
    with torch.no_grad():
        wanted = network(second)
    assert not torch.allclose(engine.update(second).output, wanted, atol=1e-2)
    engine.reset()
    assert torch.allclose(engine.update(second).output, wanted, atol=1e-4) and engine.can_undo == 0


def strokes() -> Iterator[Tensor]:
    """Label maps of a painting session, one-hot (1, 5, 64, 64)."""
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[40:] = 1
    yield nn.functional.one_hot(labels, 5).movedim(-1, 0)[None].float()
    for n in range(4):
        labels[20 + 3 * n : 26 + 3 * n, 10 * n : 10 * n + 6] = n + 1
        yield nn.functional.one_hot(labels, 5).movedim(-1, 0)[None].float()


def test_local_computes_less_than_exact_and_more_halo_is_closer() -> None:
    torch.manual_seed(5)
    network = SpadeGenerator(5, 8, 3).eval()
    errors, shares = {}, {}
    for name, options in {"exact": {"mode": "exact"}, "2": {"halo": 2}, "6": {"halo": 6}, "64": {"halo": 64}}.items():
        engine = make_incremental(network, next(strokes()), plan="rectangles", **options)  # type: ignore[arg-type]
        errors[name] = shares[name] = 0.0
        for labels in strokes():
            update = engine.update(labels)
            with torch.no_grad():
                errors[name] += float((update.output - network(labels)).square().mean())
            shares[name] += update.computed_fraction
    assert shares["2"] < shares["6"] < shares["exact"]
    assert errors["exact"] < 1e-10 and errors["64"] < 1e-10
    assert errors["exact"] < errors["6"] < errors["2"]


def test_the_report_says_what_is_done() -> None:
    network = ResnetGenerator(4, 2).eval()
    x = torch.randn(1, 3, 40, 40)
    exact, local = (make_incremental(network, x, mode=mode).report for mode in ("exact", "local"))  # type: ignore[arg-type]
    assert set(exact.dense.values()) == {"its statistics are those of the whole map"}
    assert len(exact.dense) == sum(isinstance(layer, nn.InstanceNorm2d) for layer in network.modules())
    assert local.dense == {} and "approximate" in local.promise and "2 pixels" in local.promise
    assert 0 < local.cache_bytes < 0.5 * local.all_bytes
    counted = 40 * 40 * (4 * 3 * 49 + 3 * 4 * 49) + 20 * 20 * 8 * 4 * 9 + 100 * 16 * 8 * 9 + 4 * 100 * 16 * 16 * 9
    counted += 100 * 16 * 8 * 9 + 400 * 8 * 4 * 9
    assert local.dense_macs == counted
    halos = {row.name: row.halo for row in local.rows}
    assert halos["pad"] == (0, 0) and halos["conv2d"] == (3, 3)
    table = str(exact)
    assert "its statistics are those of the whole map" in table and "kept" in table and str(counted // 10**6) in table


def test_the_multiply_adds_are_those_of_the_parts() -> None:
    network = nn.Conv2d(3, 8, 3, padding=1).eval()
    x = torch.randn(1, 3, 64, 64)
    engine = make_incremental(network, x, mode="exact", plan="rectangles")
    assert engine.update(x).computed_fraction == 1
    update = engine.update(painted(x, 10, 10, 4))
    assert update.macs == 6 * 6 * 8 * 3 * 9 and update.changed == (((9, 15, 9, 15),),)
    assert int(engine.changed_mask(update).sum()) == 36
    assert update.how == {"conv2d": "1 rectangle"} and update.seconds > 0


def test_the_network_is_left_as_it_was(network: nn.Module, picture: Tensor) -> None:
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    engine = make_incremental(network, picture)
    given = picture.clone()
    engine.update(given)
    engine.update(painted(given, 3, 3))
    assert torch.equal(given, picture)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert all(value.is_contiguous() for value in network.state_dict().values())
