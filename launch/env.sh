# shellcheck shell=bash
# Sets the environment for a run on accelerators; each setting states its reason.  Usage: source launch/env.sh tpu|gpu|cpu
# Flags that are already set outside win: they are appended to these, and the last one counts.

tpu_flags=(
  # A stage sharded over fsdp gathers the weights of every block before use. With this flag, the gather overlaps with the preceding block.
  --xla_enable_async_all_gather=true
  # Lets a TensorCore compute and communicate at once. Whether collectives are fused with what computes meanwhile
  # (xla_tpu_enable_async_collective_fusion) is left to libtpu: since 0.0.50 it refuses to do so on v5p, because results may be wrong.
  --xla_tpu_overlap_compute_collective_tc=true
  # Gradients are summed over the data axis once per step; this pipelines the sums with the backward pass.
  --xla_tpu_enable_data_parallel_all_reduce_opt=true
  # Also if the sums differ in size, as the parameters of the levels of a U-Net do.
  --xla_tpu_data_parallel_opt_different_sized_ops=true
)

gpu_flags=(
  # Orders operations so that collectives overlap with kernels.
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Sums small gradients together, up to 128 MiB at a time, which makes fewer and longer messages between nodes.
  --xla_gpu_all_reduce_combine_threshold_bytes=134217728
  # The same for the weights that fsdp gathers,
  --xla_gpu_all_gather_combine_threshold_bytes=134217728
  # and for the gradients that it scatters; less here, because they must wait until the backward pass has produced them.
  --xla_gpu_reduce_scatter_combine_threshold_bytes=67108864
)

cpu_flags=(
  # Virtual devices share a few cores. A device that waits long for its turn is not lost and must not end the process; heartbeats
  # detect lost processes.
  --xla_cpu_collective_call_warn_stuck_timeout_seconds=300
  # The time after which XLA ends the process.
  --xla_cpu_collective_call_terminate_timeout_seconds=1800
)

case ${1:-tpu} in
  tpu)
    # The TPU compiler reads its flags from here, not from XLA_FLAGS; an unknown flag ends the process.
    export LIBTPU_INIT_ARGS="${tpu_flags[*]} ${LIBTPU_INIT_ARGS:-}"
    # Otherwise libtpu's log buries the lines of the run.
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

# Where compiled programs are kept. Only process 0 writes them, so hosts share a folder if there is one (IVID_SHARED); otherwise ivid uses
# its default, the user's cache folder.
if [[ -n ${IVID_SHARED:-} ]]; then
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$IVID_SHARED/jax_cache}
fi
# Lines appear as soon as they are written, including those just before a crash.
export PYTHONUNBUFFERED=1
