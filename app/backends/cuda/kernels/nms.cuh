// Greedy non-maximum suppression of sorted candidates by one block, class by class, with bit masks.
#pragma once

#include "ranking.cuh"
#include "slab.cuh"

constexpr int CHUNK = 64;  // candidates that are settled together: the bits of a mask

__device__ __forceinline__ float area(const Box& box) { return product(box.x2 - box.x1, box.y2 - box.y1); }

// The same operations in the same order as app/inference/nms.py, so that the same boxes stay. A coordinate that is NaN
// makes an area NaN, and then nothing is suppressed, whatever `smaller` and `larger` answered.
__device__ __forceinline__ bool suppresses(const Box& better, const Box& box, float iou) {
    const float width = larger(smaller(better.x2, box.x2) - larger(better.x1, box.x1), 0.0f);
    const float height = larger(smaller(better.y2, box.y2) - larger(better.y1, box.y1), 0.0f);
    const float shared = product(width, height);
    return shared > product(iou, area(better) + area(box) - shared);
}

// Chunk by chunk: every candidate's mask of those in its chunk that it would suppress, one thread that walks the masks,
// then all threads suppress what comes later. Writes the candidates that stay and returns how many they are, at most
// MAX_BOXES. `gone` must be zeros.
__device__ __forceinline__ int suppress(const Box* boxes, const int* class_ids, unsigned char* gone, int count,
                                        float iou, short* kept) {
    __shared__ Key masks[CHUNK];
    __shared__ int kept_count;
    if (threadIdx.x == 0) kept_count = 0;
    __syncthreads();
    int settled = 0;
    for (int start = 0; start < count && settled < MAX_BOXES; start += CHUNK) {
        const int size = count - start < CHUNK ? count - start : CHUNK;
        for (int piece = threadIdx.x; piece < size * 8; piece += blockDim.x) {  // eight bits each
            const int row = piece / 8, first = piece % 8 * 8;
            unsigned int bits = 0;
#pragma unroll 1
            for (int bit = 0; bit < 8; ++bit) {
                const int better = start + row, other = start + first + bit;
                if (other > better && other < start + size && class_ids[other] == class_ids[better] &&
                    suppresses(boxes[better], boxes[other], iou)) {
                    bits |= 1u << bit;
                }
            }
            ((unsigned char*)masks)[piece] = (unsigned char)bits;  // little-endian: bit n of a mask is candidate n
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            Key out = 0;
            for (int row = 0; row < size && kept_count < MAX_BOXES; ++row) {
                if (gone[start + row] || out >> row & 1) continue;
                out |= masks[row];
                kept[kept_count++] = (short)(start + row);
            }
        }
        __syncthreads();
        for (int other = start + CHUNK + threadIdx.x; other < count; other += blockDim.x) {
#pragma unroll 1
            for (int number = settled; number < kept_count && !gone[other]; ++number) {
                const int better = kept[number];
                gone[other] = class_ids[better] == class_ids[other] && suppresses(boxes[better], boxes[other], iou);
            }
        }
        settled = kept_count;
        __syncthreads();
    }
    return settled;
}
