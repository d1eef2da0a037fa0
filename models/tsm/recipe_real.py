"""What the bundled motion weights do on real footage that training has not seen: `recipe real`.

Hands (`recipe_hands`), streams of held-out video and the price of the rule that keeps them quiet (`recipe_streams`). Nothing is
chosen here; the rule was chosen by `recipe rule` on the training side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from effvision.errors import SourceError
from effvision.models.tsm.predictor import TSM
from effvision.models.tsm.recipe_data import FPS
from effvision.models.tsm.recipe_evaluate import load_motion, wilson
from effvision.models.tsm.recipe_hands import Hands, measure_hands, read_spans
from effvision.models.tsm.recipe_rule import Judged, choose, judge, told, training_material
from effvision.models.tsm.recipe_streams import (
    PLAIN,
    QUIET,
    Price,
    Watched,
    held_out_videos,
    measure_price,
    strokes_shown,
    watch_noise,
    watch_videos,
)

__all__ = ["measure_real", "measure_rule"]

_RULES = ("shipped", "plain")
_TITLES = {"shipped": "the card's rule", "plain": "3 frames, no threshold"}
_LENGTHS = (10, 18)  # frames of the rendered gestures


def measure_rule(weights: Path, root: Path | None, *, seed: int, as_json: bool) -> Judged:
    """Choose the smoothing rule on the training side, and print how all of them did."""
    network = load_motion(weights)
    # two draws: with one, the choice between neighbours in the table still changes with the seed
    material = training_material(network, root=root, seed=seed) + training_material(network, root=root, seed=seed + 1)
    plain = judge(PLAIN, material)
    chosen, judged = choose(material)
    print(told(chosen, judged, plain))
    if as_json:
        print(json.dumps({"chosen": chosen.row(), "plain": plain.row(), "rules": [one.row() for one in judged]}))
    return chosen


def measure_real(weights: Path, root: Path, *, clips: int, seed: int, as_json: bool) -> dict[str, Any]:
    """Measure everything and print it; what the folder does not hold is left out, and said.

    Raises:
        SourceError: the folder holds neither sign clips nor held-out video, or a file cannot be read.
    """
    network, model = load_motion(weights), TSM.from_pretrained(weights, runtime="torch")
    folder, paths = root / "gestures" / "asl", held_out_videos(root)
    if not (folder / "labels.csv").is_file() and not paths:
        raise SourceError(
            f"{root} holds neither gestures/asl nor video/**/*.mp4\nhint: give `--data` the folder that holds them"
        )
    facts: dict[str, Any] = {"weights": weights.name, "rule": model.session().memory.to_dict()["smoothing"]}
    if (folder / "labels.csv").is_file():
        spans = read_spans(folder)
        networks = {"shipped": network, "without shift (control)": load_motion(weights, "none")}
        facts["hands"] = _tell_hands(measure_hands(networks, spans))
        facts["strokes_shown"] = _tell_strokes(strokes_shown(model, spans, folder))
    else:
        print(f"no sign clips at {folder}: left out")
    if paths:
        facts["videos"] = _tell_videos(model, paths, seed)
    else:
        print(f"no held-out video below {root / 'video'}: left out")
    if clips:
        media = root if (root / "gestures" / "poses").is_dir() else None
        rules = {"shipped": cast(Any, model.session().memory).smoothing, "plain": PLAIN}
        facts["rendered"] = {
            str(frames): _tell_price(measure_price(network, rules, root=media, frames=frames, clips=clips), frames)
            for frames in _LENGTHS
        }
    if as_json:
        print(json.dumps(facts))
    return facts


def _tell_hands(made: Sequence[Hands]) -> dict[str, Any]:
    print(
        "\nraise or lower, gestures/asl: each stroke forwards and backwards, so a single frame is at 50 %; 95 % Wilson"
    )
    print(
        "interval by strokes, since the two clips of one are the same pictures (nor are strokes of one signer independent)"
    )
    for one in made:
        print(f"  {one}")
    return {one.method: one.facts() for one in made}


def _tell_strokes(found: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    print("\nthe same clips as streams: strokes whose `up` or `down` is shown by half a second after their end")
    for rule in _RULES:
        right, count = found[rule]
        low, high = wilson(right, count)
        print(f"  {_TITLES[rule]:24} {right}/{count} = {right / count:.1%} ({low:.1%} .. {high:.1%})")
    return {rule: list(pair) for rule, pair in found.items()}


def _tell_videos(model: TSM, paths: Sequence[Path], seed: int) -> dict[str, Any]:
    quiet = [path for path in paths if path.stem in QUIET]
    groups = {
        "people who sit, stand or walk": watch_videos(model, quiet),
        "the same mirrored, backwards, and both": watch_videos(model, quiet, variants=True),
        "one frame of each clip with sensor noise": watch_noise(model, paths, seed=seed),
        "things that move (gestures there may be right)": watch_videos(model, [p for p in paths if p not in quiet]),
    }
    return {title: _tell_group(title, made) for title, made in groups.items() if made}


def _tell_group(title: str, made: Sequence[Watched]) -> dict[str, Any]:
    seconds = sum(one.seconds for one in made)
    counts = {rule: sum(len(one.gestures(rule)) for one in made) for rule in _RULES}
    rates = {rule: 60 * count / seconds for rule, count in counts.items()}
    print(f"\nheld-out video: {title}, {seconds:.1f} s")
    for rule in _RULES:
        print(f"  {_TITLES[rule]:24} {counts[rule]} gestures = {rates[rule]:.2f} a minute")
    for one in made:
        facts = one.facts()
        answered = ", ".join(f"{label} {share:.0%}" for label, share in facts["share_of_frames"]["plain"].items())
        shown = ", ".join(f"{what} at {at:.1f} s" for at, what in one.gestures("shipped")) or "only still"
        print(f"    {one.name:54} {one.seconds:5.1f} s  shown: {shown}  | without the rule: {answered}")
    return {
        "seconds": seconds, "gestures": counts, "per_minute": rates, "clips": [one.facts() for one in made],
    }  # fmt: skip


def _tell_price(prices: Mapping[str, Price], frames: int) -> dict[str, Any]:
    print(f"\nrendered held-out gestures of {frames} frames ({frames / FPS:.2f} s): label shown while they last")
    for rule in _RULES:
        facts = prices[rule].facts()
        low, high = wilson(facts["found"], facts["gestures"])
        late, (false, still) = facts["seconds_until_shown"], prices[rule].false
        print(
            f"  {_TITLES[rule]:24} {facts['found']}/{facts['gestures']} = {facts['recall']:.1%} ({low:.1%} .. {high:.1%}), "
            f"after {late['median']:.2f} s (90 %: {late['90 %']:.2f} s), a gesture in {false} of {still} still clips"
        )
        print("    " + "  ".join(f"{label} {share:.0%}" for label, share in facts["by_class"].items()))
    return {rule: price.facts() for rule, price in prices.items()}
