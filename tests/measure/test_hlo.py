"""Costs read from the text of a compiled program, on a text whose costs are known by hand."""

import pytest

from ivid.measure.hlo import parse, program_cost

TEXT = """HloModule jit_call, is_scheduled=true

%fused (p.0: bf16[8,128]) -> bf16[8,128] {
  %p.0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %rs.1 = bf16[4,128]{1,0} reduce-scatter(%p.0), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add
  ROOT %n.1 = bf16[8,128]{1,0:T(8,128)(2,1)} negate(%p.0), backend_config={"window_config":{"estimated_cycles":"999"}}
}

%all-reduce-scatter.1 (p.1: bf16[8,128]) -> bf16[2,128] {
  %p.1 = bf16[8,128]{1,0} parameter(0)
  %ar.1 = bf16[8,128]{1,0} all-reduce(%p.1), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %ds = bf16[2,128]{1,0} dynamic-slice(%ar.1), dynamic_slice_sizes={2,128}
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b), backend_config={"estimated_cycles":"777"}
}

%body (s: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %s = (s32[], bf16[8,128]{1,0}) parameter(0)
  %x = bf16[8,128]{1,0} get-tuple-element(%s), index=1
  %ag = (bf16[8,128]{1,0}, bf16[16,128]{1,0}) all-gather-start(%x), replica_groups=[4,2]<=[8], dimensions={0}
  %agd = bf16[16,128]{1,0} all-gather-done(%ag)
  %f = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(call)/transpose(jvp(VideoUNet))/while/body/down0/mlp/dot_general"}, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[], bf16[8,128]{1,0}) tuple(%f)
}

%cond (s: (s32[], bf16[8,128])) -> pred[] {
  ROOT %p = pred[] compare(%s), backend_config={"estimated_cycles":"555"}
}

ENTRY %main (p: bf16[8,128]) -> bf16[8,128] {
  %p = bf16[8,128]{1,0} parameter(0)
  %w = (s32[], bf16[8,128]{1,0}) while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"},"estimated_cycles":"1"}
  %ar = f32[32]{0} all-reduce(%p), replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}, to_apply=%add
  %ars = bf16[2,128]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %r = bf16[8,128]{1,0} copy(%w), backend_config={"window_config":{"estimated_cycles":"10"}}
}
"""  # noqa: E501


def test_loops_count_their_trips_and_fusions_once():
  assert program_cost(TEXT).cycles == 7 * 100 + 10


def test_a_loop_that_does_not_say_how_often_it_runs_has_a_condition_that_does():
  text = TEXT.replace('"known_trip_count":{"n":"7"},', "")
  assert program_cost(text).cycles == 100 + 10
  limit = "  %limit = s32[]{:T(128)} constant(5)\n  ROOT %p = pred[] compare(%s)"
  assert program_cost(text.replace("  ROOT %p = pred[] compare(%s)", limit)).cycles == 5 * 100 + 10


def test_collectives_by_kind_count_bytes_and_what_passes_a_chip():
  """Groups given in all three ways. A TPU's reduce-scatter is an all-reduce inside a fusion of that name."""
  gathered, scattered, reduced, fused = 16 * 128 * 2, 2 * 4 * 128 * 2, 32 * 4, 8 * 128 * 2
  assert program_cost(TEXT).collectives == {
    "all-gather": (7, 7 * gathered, 7 * gathered // 2),
    "reduce-scatter": (7 + 1, 7 * scattered + fused, 7 * scattered // 2 + fused * 3 // 4),
    "all-reduce": (1, reduced, 2 * reduced * 3 // 4),
  }
  unknown = TEXT.replace("replica_groups=[4,2]<=[8], ", "")
  assert program_cost(unknown).collectives["all-gather"] == (7, 7 * gathered, 7 * gathered)


def test_cycles_by_place_in_the_model():
  assert program_cost(TEXT).where == {"backward dot_general in mlp": 700, "copy": 10}


def test_text_of_no_program():
  with pytest.raises(ValueError, match="no entry computation"):
    parse("nothing")


def test_what_crosses_the_network_between_slices_is_what_a_chip_sends():
  """As libtpu writes the sum over two slices: a send and a recv, in a loop as often as it turns."""
  told = 'frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'
  send = f"  %send = (f32[4,128]{{1,0:T(8,128)}}, u32[], token[]) send(%x, %t), channel_id=2, {told}\n"
  recv = f"  %recv = (f32[4,128]{{1,0:T(8,128)}}, u32[], token[]) recv(%t), channel_id=1, {told}\n"
  assert program_cost(TEXT).between_slices == {}
  assert program_cost(TEXT.replace("  %agd", send + recv + "  %agd")).between_slices == {"all-reduce": (7, 7 * 4 * 128 * 4)}
  to_host = send.replace(f", {told}", "")
  assert program_cost(TEXT.replace("  %agd", to_host + "  %agd")).between_slices == {}
