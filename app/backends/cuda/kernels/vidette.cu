// All kernels of the CUDA backend, one translation unit. scripts/build_kernels.py makes vidette.fatbin of it.
#include "letterbox.cuh"
#include "postprocess.cuh"
