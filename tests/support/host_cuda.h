// CUDA C++ as the host understands it: enough for app/backends/cuda/kernels, nothing more.
// Blocks run one after the other in the calling thread. Threads of a block run one after the other too, unless the
// kernel has barriers: then each is a fiber that lets the next one run at every barrier.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __CUDA_ON_HOST__ 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// One block at a time in a thread, so the thread's storage is the block's.
#define __shared__ static thread_local
#define __syncthreads() host::barrier(__LINE__)

struct Three {
    unsigned int x, y, z;
};

inline thread_local Three threadIdx, blockIdx, blockDim, gridDim;

namespace host {
void barrier(int line);
}

template <typename Number>
Number atomicAdd(Number* at, Number value) {
    const Number before = *at;
    *at += value;
    return before;
}

// What device.cuh defines for the device.
struct Half {
    _Float16 value;
};

inline float to_float(Half value) { return (float)value.value; }
inline void store(Half* target, float value) { target->value = (_Float16)value; }

inline unsigned int bits_of(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float product(float a, float b) { return a * b; }
