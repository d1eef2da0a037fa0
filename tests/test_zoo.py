"""Every card through one interface. A new family passes it for free: nothing here knows a family by name.

Cards whose weights are bundled use them; the others get seeded random weights, since their files lie on the authors' servers.
Also run against an installed wheel by test_packaging.py, in an environment that may lack PyTorch.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision._files import sha256
from effvision.cards import Card, default_card, get_card, list_cards, predictor_class
from effvision.checkpoints import bundled, weights_index
from effvision.errors import EffvisionError, StreamingError
from effvision.predictor import Predictor

CARDS = list_cards()
HAS_TORCH = find_spec("torch") is not None
BUNDLED = [card for card in CARDS if card.onnx]
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed here")


def _by_name(card: Card) -> str:
    return card.name


@pytest.fixture(scope="module", params=CARDS, ids=_by_name)
def card(request: pytest.FixtureRequest) -> Card:
    """Each card in turn; of this scope, so that all tests of one card follow each other and its model is made once."""
    return request.param  # type: ignore[no-any-return]


def _network(card: Card) -> tuple[str, str]:
    """What an export depends on: a network of other widths is the same graph with other numbers, a deeper one a longer one."""
    kinds = {name: value for name, value in card.network.items() if name not in ("width", "channels", "frames")}
    if kinds.get("backbone") == "resnet101":
        kinds["backbone"] = "resnet50"  # more of the same blocks
    return card.family, repr(sorted(kinds.items()))


_DEEP_LAST = sorted(
    CARDS, key=lambda card: (card.network.get("backbone") == "resnet101", card.network.get("frames", 0))
)
EXPORTED = {_network(card): card for card in reversed(_DEEP_LAST)}  # the least of those with the same settings


def _use(card: Card) -> tuple[Any, ...]:
    """What running it depends on: cards that agree in this differ in weights, labels and widths."""
    network = {name: value for name, value in card.network.items() if name not in ("width", "channels")}
    return card.family, repr(sorted(network.items())), card.task, repr(card.preprocess), repr(card.options)


RUN = {_use(card): card for card in reversed(CARDS)}  # likewise


def _skip_what_another_card_shows(card: Card) -> None:
    """Leave out a card whose weights lie elsewhere if another one has the same network, its input and its options."""
    if not card.bundled and card is not (other := RUN.get(_use(card), card)):  # a card that a test made is in no list
        pytest.skip(f"runs as {other.name} does: the same network, at this width or another")


@lru_cache(maxsize=2)
def _model(card_name: str) -> Predictor:
    card = get_card(card_name)
    family = predictor_class(card.family)
    if card.bundled:
        return family.from_pretrained(card.name)  # type: ignore[no-any-return]
    if not HAS_TORCH:
        pytest.skip("PyTorch is not installed here, and this card has no exported file")
    return family.untrained(card.name)  # type: ignore[no-any-return]


def _plain(result: Any) -> dict[str, Any]:
    """The answer without what depends on the clock and on the place in the stream."""
    data = result.to_dict()
    return {key: value for key, value in data.items() if key not in ("timing", "index", "reset_reason")}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("samples")

    def make(card: Card) -> Path:
        kind = f"{card.family}-{card.preprocess.get('kind', '')}"  # cards that take the same kind of input share one
        if kind not in made:
            target = folder / f"{kind}{predictor_class(card.family).sample_suffix}"
            made[kind] = predictor_class(card.family).write_sample(target, card=card.name)
        return made[kind]

    return make


@pytest.mark.parametrize("family", sorted({card.family for card in CARDS}))
def test_every_family_has_a_default_card_with_bundled_weights_and_an_exported_file(family: str) -> None:
    card = default_card(family)
    assert card.bundled and bundled(card.weights) is not None
    assert bundled(card.onnx) is not None


def test_bundled_files_are_those_of_the_index_and_within_the_budget() -> None:
    total = 0
    for card in BUNDLED:
        for name in (card.weights, card.onnx):
            path = bundled(name)
            assert path is not None
            assert sha256(path) == weights_index()[name]["sha256"], f"{name}: run `python -m effvision.weights.ship`"
            total += path.stat().st_size
    assert total < 40e6


@pytest.mark.parametrize("card", BUNDLED, ids=_by_name)
def test_the_bundled_exported_file_was_made_from_the_bundled_weights(card: Card) -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("ONNX Runtime is not installed here")
    path = bundled(card.weights)
    exported = predictor_class(card.family).from_pretrained(bundled(card.onnx))
    assert path is not None and exported.metadata.weights_sha256 == sha256(path)
    assert dict(exported.metadata.preprocess) | dict(card.preprocess) == dict(exported.metadata.preprocess)
    assert dict(exported.metadata.options) | dict(card.options) == dict(exported.metadata.options)


def test_says_what_it_is(card: Card) -> None:
    assert card.summary and card.paper and card.licence and card.data
    if card.task != "tracking":  # which follows anything and names nothing
        assert len(card.class_names) == len(set(card.class_names)) > 1
    assert card.bundled or card.urls


def test_predicts(card: Card, sample: Any) -> None:
    _skip_what_another_card_shows(card)
    model = _model(card.name)
    result = model.predict(sample(card), **_told(model))
    assert result.to_json()
    if card.bundled:  # the others are the same code with larger networks
        assert _plain(model.predict(sample(card), **_told(model))) == _plain(result)


def test_streams_or_refuses_with_a_reason(card: Card, sample: Any) -> None:
    _skip_what_another_card_shows(card)
    model = _model(card.name)
    if not model.streams:
        with pytest.raises(StreamingError, match="hint: "):
            next(iter(model.stream(sample(card))))
        return
    some = None if card.bundled else 60  # the others are the same code with larger networks
    results = list(islice(model.stream(sample(card), images=False, **_told(model)), some))
    assert results and [result.index for result in results] == list(range(len(results)))
    again = list(islice(model.stream(sample(card), images=False, **_told(model)), len(results) // 3))
    assert [_plain(result) for result in again] == [_plain(result) for result in results[: len(again)]]


def test_a_reset_forgets_everything(card: Card) -> None:
    _skip_what_another_card_shows(card)
    model = _model(card.name)
    if not model.streams:
        pytest.skip("does not stream")
    frames = _updates(model, 4)
    session = model.session(**_told(model))
    first = [_plain(session.update(frame)) for frame in frames]
    session.reset()
    result = session.update(frames[0])
    assert result.reset_reason == "reset" and result.index == 0
    assert [_plain(result), *[_plain(session.update(frame)) for frame in frames[1:]]] == first


def test_a_saved_session_goes_on_as_if_nothing_happened(card: Card, tmp_path: Path) -> None:
    _skip_what_another_card_shows(card)
    model = _model(card.name)
    if not model.streams:
        pytest.skip("does not stream")
    frames = _updates(model, 6)
    session = model.session(**_told(model))
    for frame in frames[:3]:
        session.update(frame)
    path = session.save(tmp_path / "session.npz")
    uninterrupted = [_plain(session.update(frame)) for frame in frames[3:]]
    restored = model.session(path=path)
    assert [_plain(restored.update(frame)) for frame in frames[3:]] == uninterrupted
    assert [file.name for file in tmp_path.iterdir()] == ["session.npz"]


def test_what_is_no_input_is_refused_with_our_own_error(card: Card) -> None:
    if card.network == RUN.get(_use(card), card).network:  # one of another width is at least built
        _skip_what_another_card_shows(card)
    model = _model(card.name)
    for bad in (
        None,
        object(),
        b"bytes",
        {"a": 1},
        np.zeros((0, 4, 3), np.uint8),
        np.array([["x"]]),
        "no such file.mp4",
    ):
        with pytest.raises(EffvisionError):
            model.predict(bad)


@needs_torch
@pytest.mark.timeout(900)
def test_exports_and_the_file_equals_pytorch(card: Card, tmp_path: Path) -> None:
    if card is not (other := EXPORTED.get(_network(card), card)) and not card.bundled:
        pytest.skip(f"the same network as {other.name}, at this width and depth or another")
    family, model = predictor_class(card.family), _model(card.name)
    assert model.runtime.name == "torch"
    report = model.export(tmp_path / "model.onnx", batch="dynamic" if model.streams else 1)
    exported = family.from_pretrained(report)
    assert exported.runtime.name == "onnx" and exported.metadata.labels == model.metadata.labels
    graph = next(iter(model.metadata.graphs))
    states = [runtime.initial_state(1, graph=graph) for runtime in (model.runtime, exported.runtime)]
    steps = 6 if states[0] else 2  # without a state each step is the first
    for inputs in model.example_inputs(graph, steps=steps, batch=1, seed=9):
        wanted, states[0] = model.runtime.step(inputs, states[0], graph=graph)
        got, states[1] = exported.runtime.step(inputs, states[1], graph=graph)
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-4 * max(1.0, float(np.abs(value).max())))
    for old, new in zip(states[0].numpy().values(), states[1].numpy().values(), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-4 * max(1.0, float(np.abs(old).max())))


@pytest.mark.parametrize("card", BUNDLED, ids=_by_name)
def test_the_bundled_exported_file_runs_without_pytorch(card: Card, sample: Any) -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("ONNX Runtime is not installed here")
    model = predictor_class(card.family).from_pretrained(card.name, runtime="onnx")
    assert model.metadata.card == card.name and model.metadata.labels == card.labels
    assert model.predict(sample(card)).to_dict()


def _told(model: Predictor) -> dict[str, Any]:
    """What the family says a session has to be told to work on the sample."""
    return model.example_options()


def _updates(model: Predictor, count: int) -> list[Any]:
    """Inputs of `Session.update`: what the family says an update takes."""
    return list(model.example_updates(count, seed=3))
