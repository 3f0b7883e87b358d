"""What a command line says of a run of `ivid sample` as a whole, beside how its stages are sampled."""

from __future__ import annotations

import dataclasses

from ivid.spec.options import option


@dataclasses.dataclass(frozen=True)
class RequestOptions:
  """Every field is a flag of that name; what they may say is checked where it is read (ivid.sample.negative and sizes)."""

  negative_prompt: str = option("", "What guidance leads away from, instead of from no text; distilled stages cannot read it")
  size: str = option("", "HEIGHTxWIDTH of the last stage that runs, as far as its network and those before allow; default: its own")
  names: str = option("", "vbench: files are named PROMPT-NUMBER, as VBench reads them; default: a short name with the seed")
