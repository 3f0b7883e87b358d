# shellcheck shell=bash
# The environment of a run on accelerators, each setting with its reason:  source launch/env.sh tpu|gpu|cpu
# What is set outside already wins, as it stands behind these and the last one counts.

tpu_flags=(
  # A stage sharded over fsdp gathers every block's weights before use. These gathers then run beside the block before, not between the two.
  --xla_enable_async_all_gather=true
  # Lets a collective go on while fusions compute, instead of waiting for it where it starts.
  --xla_tpu_enable_async_collective_fusion=true
  # The same for all-gathers, which are most of what fsdp sends.
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  # One collective may be hidden behind several fusions: a block's weights take longer than one of its convolutions.
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  # Allows both at once on a TensorCore; without it the settings above have little to work with.
  --xla_tpu_overlap_compute_collective_tc=true
  # Gradients are summed over the data axis once a step: this pipelines those sums with the backward pass.
  --xla_tpu_enable_data_parallel_all_reduce_opt=true
  # Also where the sums differ in size, as the parameters of a U-Net's levels do.
  --xla_tpu_data_parallel_opt_different_sized_ops=true
)

gpu_flags=(
  # Orders operations so that collectives overlap with kernels.
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Small gradients are summed together, up to 128 MiB at a time: fewer, longer messages between nodes.
  --xla_gpu_all_reduce_combine_threshold_bytes=134217728
  # The same for the weights that fsdp gathers,
  --xla_gpu_all_gather_combine_threshold_bytes=134217728
  # and for the gradients that it scatters; less, as these wait for the backward pass to have produced them.
  --xla_gpu_reduce_scatter_combine_threshold_bytes=67108864
)

cpu_flags=(
  # Virtual devices share a few cores: one that waits long for its turn is not lost, and must not end the process. Lost processes are what
  # heartbeats are for.
  --xla_cpu_collective_call_warn_stuck_timeout_seconds=300
  # The time after which XLA would end it.
  --xla_cpu_collective_call_terminate_timeout_seconds=1800
)

case ${1:-tpu} in
  tpu)
    # The TPU compiler reads its flags here, not in XLA_FLAGS; one that it does not know ends the process.
    export LIBTPU_INIT_ARGS="${tpu_flags[*]} ${LIBTPU_INIT_ARGS:-}"
    # libtpu's log otherwise buries the run's own lines.
    export TPU_MIN_LOG_LEVEL=${TPU_MIN_LOG_LEVEL:-2} TPU_STDERR_LOG_LEVEL=${TPU_STDERR_LOG_LEVEL:-2}
    ;;
  gpu)
    export XLA_FLAGS="${gpu_flags[*]} ${XLA_FLAGS:-}"
    # XLA's share of a GPU's memory; the rest is for NCCL and the CUDA libraries.
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
    ;;
  cpu) export XLA_FLAGS="${cpu_flags[*]} ${XLA_FLAGS:-}" ;; # launch/local.py adds how many virtual devices
  *) printf 'env.sh: error: %s: expected tpu, gpu or cpu\n' "$1" >&2 && return 2 ;;
esac

# Compiled programs. Process 0 alone writes them, so hosts share a folder where there is one (IVID_SHARED); otherwise ivid's default holds,
# the user's cache folder.
if [[ -n ${IVID_SHARED:-} ]]; then
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$IVID_SHARED/jax_cache}
fi
# Lines appear when they are written, also those before a crash.
export PYTHONUNBUFFERED=1
