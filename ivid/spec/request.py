"""What a command line says about a run of `ivid sample` as a whole, apart from how its stages are sampled."""

from __future__ import annotations

import dataclasses

from ivid.spec.options import option


@dataclasses.dataclass(frozen=True)
class RequestOptions:
  """Every field is a flag of that name; the values are checked by their readers (ivid.sample.negative and sizes)."""

  negative_prompt: str = option("", "What guidance leads away from, instead of from empty text; distilled stages cannot read it")
  size: str = option("", "HEIGHTxWIDTH of the last stage that runs, if its network and the stages before allow it; default: its own size")
  names: str = option("", "vbench: files are named PROMPT-NUMBER, as VBench reads them; default: a short name with the seed")
