// What the kernels need of the language, and half precision without a header of the toolkit's. The same sources
// compile for the host behind tests/support/host_cuda.h, so: no warp intrinsics, no inline assembly but here.
#pragma once

#ifdef __CUDACC__
struct Half {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

__device__ __forceinline__ void store(Half* target, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(target->bits) : "f"(value));
}

__device__ __forceinline__ unsigned int bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float float_of(unsigned int bits) { return __uint_as_float(bits); }
// A product that the compiler may not fuse with a sum: which box suppresses which must not depend on the device.
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
#endif

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ void store(float* target, float value) { *target = value; }

// Smaller and larger of two, whose answer to NaN is numpy's where it matters: see nms.cuh.
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
