# Sourced by build-wheels in Horovod's source directory: adds NCCL and the CUDA toolkit, both from wheels.
# shellcheck shell=bash disable=SC2154
pip install --target "$work/cuda" --no-deps --requirement "$here/nvcc.txt"
cuda=$work/cuda/nvidia/cu13
# Wheels contain versioned library names; linkers and CMake look for unversioned ones.
ln -s lib "$cuda/lib64"
ln -s libcudart.so.13 "$cuda/lib/libcudart.so"
nccl=$("$python" -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])')
mkdir "$work/nccl"
ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/libnccl.so"
export HOROVOD_CUDA_HOME=$cuda HOROVOD_GPU_OPERATIONS=NCCL
export HOROVOD_NCCL_INCLUDE=$nccl/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
# Turing (T4) to Blackwell; CUDA 13 does not support older GPUs.
export HOROVOD_BUILD_CUDA_CC_LIST=75,80,86,89,90,100,120

sed -i 's/CMAKE_CUDA_STANDARD 11/CMAKE_CUDA_STANDARD 17/' horovod/common/ops/cuda/CMakeLists.txt
# TensorFlow 2.21 no longer exports AsGpuStreamValue, which this file declares. The stream's public handle is the same
# pointer.
"$python" - horovod/tensorflow/mpi_ops.cc << 'PATCH'
import sys
from pathlib import Path

file = Path(sys.argv[1])
text = file.read_text()
begin = text.index("// Forward declaration of AsGpuStreamValue")
end = text.index("#endif // HAVE_GPU", begin)
inline = """\
#include "xla/stream_executor/stream.h"
namespace stream_executor {
namespace gpu {
inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {
  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);
}
} // namespace gpu
} // namespace stream_executor
"""
file.write_text(text[:begin] + inline + text[end:])
PATCH
