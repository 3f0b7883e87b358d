"""Measures how often the retrieval network is right, on drawn clips with known prompts and on prompts with one changed attribute.

python -m ivid.evaluate.calibrate_retrieval [NETWORK] [--prompts=400] [--seed=0] [--json=FILE]
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax

from ivid.evaluate.dual_encoder import WEIGHTS_FILE, load_network
from ivid.evaluate.retrieval import drawn_truth, validate
from ivid.media.files import write_whole
from ivid.spec import formats
from ivid.weights.cascades import file_sha256
from ivid.weights.opening import retrieval_folder


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("network", nargs="?", default="nano", help="folder, or a cascade that ships with one")
  parser.add_argument("--prompts", type=int, default=400)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", help="file for the figures, with the network that they are of")
  options = parser.parse_args()
  folder = retrieval_folder(options.network)
  network = load_network(folder)
  truth = drawn_truth(network.spec.clip, options.prompts, seed=options.seed)
  found = validate(network, truth)
  count = sum(leaf.size for leaf in jax.tree.leaves(network.params))
  print(f"network {network.hash[:12]}, {count:,} parameters, {options.prompts} drawn clips in sets of 100")
  for name, value in found.items():
    print(f"{name:20} {value:.4f}")
  if options.json:
    of = dict(hash=network.hash, sha256=file_sha256(folder / WEIGHTS_FILE), parameters=count)
    record = dict(network=of, prompts=options.prompts, seed=options.seed, changed_prompts=len(truth.changed), figures=found)
    write_whole(pathlib.Path(options.json), json.dumps(formats.stamped(record), indent=1) + "\n")


if __name__ == "__main__":
  main()
