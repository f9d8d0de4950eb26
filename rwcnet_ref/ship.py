"""Take the weights out of a finished training's checkpoint, for the package.

python -m rwcnet_ref.ship runs/base
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rwcnet_ref.checkpoint import save_weights, shipped
from rwcnet_ref.config import PRESETS
from rwcnet_ref.model import Cascade
from rwcnet_ref.train import SCHEDULES

ABOUT = {
    "licence": "MIT",
    "training_data": "images synthesised from SynthSeg's label maps (Apache-2.0) and from shapes",
}


def main() -> None:
    """Write the last stage's checkpoint as safetensors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that rwcnet_ref.train wrote to")
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("-o", "--output", type=Path, help="default: where the package looks")
    options = parser.parse_args()
    cascade = Cascade(PRESETS[options.preset])
    stages = len(cascade.config.stages)
    last = options.run / f"stage{stages}.ckpt"
    if not last.is_file():
        parser.error(f"there is no {last}: train all {stages} stages first")
    state = torch.load(last, weights_only=True, map_location="cpu")
    if state["step"] < SCHEDULES[stages].steps:
        parser.error(f"{last} stopped at step {state['step']}: train it to the end first")
    cascade.load_state_dict(state["model"])
    save_weights(cascade, options.output or shipped(options.preset), **ABOUT)


if __name__ == "__main__":
    main()
