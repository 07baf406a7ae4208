// The best candidates of an image, in order: an unsigned key says both score and place, so no two are alike.
#pragma once

#include "families.cuh"

constexpr int MAX_CANDIDATES = 1000;  // app/inference/families/base.py
constexpr int SORTED = 1024;          // keys that the sort has room for: a power of two
constexpr int CAPACITY = 8192;        // of the list that candidates are collected in

typedef unsigned long long Key;

// Greater is better: by score, and of equal scores the lower item. Never 0. The sum turns -0 into 0.
__device__ __forceinline__ Key key_of(float score, unsigned int item) {
    const unsigned int bits = bits_of(score + 0.0f);
    const unsigned int rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (Key)rising << 32 | (unsigned int)~item;
}

__device__ __forceinline__ unsigned int item_of(Key key) { return ~(unsigned int)key; }

__device__ __forceinline__ float score_of(Key key) {
    const unsigned int rising = (unsigned int)(key >> 32);
    return float_of(rising & 0x80000000u ? rising & 0x7fffffffu : ~rising);
}

// Where `collect` leaves an image's candidates. `found` above CAPACITY says that some are missing.
struct Collected {
    int found;
    int reserved;
    Key keys[CAPACITY];
};

static_assert(sizeof(Collected) == 65544, "COLLECTED_BYTES in kernels.py is 65544");

// Keys by number; 0 for what is no candidate. From the list, or computed anew from all outputs when it overflowed.
struct Listed {
    const Key* keys;
    unsigned int count;

    __device__ __forceinline__ Key operator[](unsigned int number) const { return keys[number]; }
};

template <typename Element>
struct Recomputed {
    const Head<Element>& head;
    int image;
    float min_score;
    unsigned int count;

    __device__ __forceinline__ Key operator[](unsigned int item) const {
        const float score = score_of(head, image, item, min_score);
        return score >= min_score ? key_of(score, item) : 0;
    }
};

// Bitonic sort, greatest first, by all threads of the block. `size` is a power of two.
__device__ __forceinline__ void sort(Key* keys, int size) {
    for (int span = 2; span <= size; span *= 2) {
        for (int distance = span / 2; distance > 0; distance /= 2) {
            for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
                const int first = 2 * pair - (pair & (distance - 1)), second = first + distance;
                const Key a = keys[first], b = keys[second];
                if ((first & span) == 0 ? a < b : a > b) {
                    keys[first] = b;
                    keys[second] = a;
                }
            }
            __syncthreads();
        }
    }
}

// The greatest MAX_CANDIDATES of more keys than the sort has room for, in no order. Radix select from the top byte down.
template <typename Keys>
__device__ void select(const Keys& all, Key* best) {
    __shared__ unsigned int histogram[256];
    __shared__ Key floor_key;
    __shared__ unsigned int wanted;  // keys still to be found among those that begin like `floor_key`
    __shared__ int exact, taken;
    if (threadIdx.x == 0) {
        floor_key = 0;
        wanted = MAX_CANDIDATES;
        exact = taken = 0;
    }
    __syncthreads();
    for (int shift = 56; shift >= 0 && !exact; shift -= 8) {
        for (int digit = threadIdx.x; digit < 256; digit += blockDim.x) histogram[digit] = 0;
        const Key settled = shift == 56 ? 0 : ~(Key)0 << (shift + 8), prefix = floor_key;
        __syncthreads();
#pragma unroll 1
        for (unsigned int number = threadIdx.x; number < all.count; number += blockDim.x) {
            const Key key = all[number];
            if (key != 0 && (key & settled) == prefix) atomicAdd(&histogram[(key >> shift) & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            while (histogram[digit] < wanted) wanted -= histogram[digit--];
            floor_key = prefix | (Key)digit << shift;
            exact = histogram[digit] == wanted;  // all of this digit, so nothing is left to settle
        }
        __syncthreads();
    }
#pragma unroll 1
    for (unsigned int number = threadIdx.x; number < all.count; number += blockDim.x) {
        const Key key = all[number];
        if (key != 0 && key >= floor_key) best[atomicAdd(&taken, 1)] = key;
    }
    __syncthreads();
}
