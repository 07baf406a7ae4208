// Raw outputs to boxes in source pixels, in three launches: `begin`, `collect` and `finish`. The answers, byte by byte,
// do not depend on the order that threads run in.
#pragma once

#include "device.cuh"
#include "families.cuh"
#include "nms.cuh"
#include "picture.cuh"
#include "ranking.cuh"
#include "slab.cuh"

// Empties the lists of a batch; inside the launches, because a captured graph is all that runs for a batch.
extern "C" __global__ void begin(Collected* collected, int batch) {
    const int image = blockIdx.x * blockDim.x + threadIdx.x;
    if (image < batch) collected[image].found = 0;
}

// All items of an image (blockIdx.y) that reach its score go into its list, in no order.
template <typename Element>
__device__ __forceinline__ void collect(const Picture* table, Collected* collected, const Head<Element>& head) {
    const int image = blockIdx.y;
    if (blank(table[image])) return;
    const float min_score = table[image].min_score;
    Collected& list = collected[image];
    const unsigned int items = head.items();
#pragma unroll 1
    for (unsigned int item = blockIdx.x * blockDim.x + threadIdx.x; item < items; item += gridDim.x * blockDim.x) {
        const float score = score_of(head, image, item, min_score);
        if (!(score >= min_score)) continue;
        // A full list takes no more. The look before saves a flood of atomics; it may be late, never early.
        if (*(volatile int*)&list.found > CAPACITY) continue;
        const int slot = atomicAdd(&list.found, 1);
        if (slot < CAPACITY) list.keys[slot] = key_of(score, item);
    }
}

// NaN stays NaN, and inside `bounded` that is no box.
__device__ __forceinline__ float bounded(float value, float limit) {
    return value < 0.0f ? 0.0f : value > limit ? limit : value;
}

__device__ __forceinline__ Found to_source(const Picture& picture, const Box& box, float score, int class_id) {
    const float width = picture.width, height = picture.height;
    return {bounded((box.x1 - picture.left) * picture.scale_x, width),
            bounded((box.y1 - picture.top) * picture.scale_y, height),
            bounded((box.x2 - picture.left) * picture.scale_x, width),
            bounded((box.y2 - picture.top) * picture.scale_y, height),
            score,
            (float)class_id};
}

__device__ __forceinline__ bool visible(const Found& found) { return found.x2 > found.x1 && found.y2 > found.y1; }

// The keys of the best candidates, sorted; returns how many, at most MAX_CANDIDATES.
template <typename Element>
__device__ __forceinline__ int rank(const Head<Element>& head, int image, const Collected& list, float min_score,
                                    Key* keys) {
    int count = list.found;
    if (count > CAPACITY) {
        select(Recomputed<Element>{head, image, min_score, head.items()}, keys);
        count = MAX_CANDIDATES;
    } else if (count > SORTED) {
        select(Listed{list.keys, (unsigned int)count}, keys);
        count = MAX_CANDIDATES;
    } else {
        for (int slot = threadIdx.x; slot < count; slot += blockDim.x) keys[slot] = list.keys[slot];
    }
    int size = 1;
    while (size < count) size *= 2;
    for (int slot = count + threadIdx.x; slot < size; slot += blockDim.x) keys[slot] = 0;
    __syncthreads();
    sort(keys, size);
    return count < MAX_CANDIDATES ? count : MAX_CANDIDATES;
}

// One block an image: sort, decode, suppress, map to the source, and close the gaps that boxes in the padding leave.
template <typename Element>
__device__ __forceinline__ void finish(const Picture* table, const Collected* collected, Slab* slabs,
                                       const Head<Element>& head, float iou) {
    __shared__ Key keys[SORTED];
    __shared__ Box boxes[MAX_CANDIDATES];
    __shared__ int class_ids[MAX_CANDIDATES];
    __shared__ unsigned char gone[MAX_CANDIDATES];
    __shared__ short kept[MAX_BOXES];
    const int image = blockIdx.x;
    const Picture& picture = table[image];
    Slab& slab = slabs[image];
    int candidates = 0, count = 0;
    if (!blank(picture)) {
        candidates = rank(head, image, collected[image], picture.min_score, keys);
#pragma unroll 1
        for (int number = threadIdx.x; number < candidates; number += blockDim.x) {
            const Candidate candidate = candidate_of(head, image, item_of(keys[number]));
            boxes[number] = candidate.box;
            class_ids[number] = candidate.class_id;
            gone[number] = 0;
            if (number < MAX_BOXES) kept[number] = (short)number;
        }
        __syncthreads();
        count = candidates < MAX_BOXES ? candidates : MAX_BOXES;
        if (head.family != END2END) count = suppress(boxes, class_ids, gone, candidates, iou, kept);
#pragma unroll 1
        for (int number = threadIdx.x; number < count; number += blockDim.x) {
            const int at = kept[number];
            gone[number] = !visible(to_source(picture, boxes[at], 0.0f, 0));
        }
        __syncthreads();
    }
    int valid = 0;
    for (int number = 0; number < count; ++number) valid += !gone[number];
#pragma unroll 1
    for (int number = threadIdx.x; number < count; number += blockDim.x) {
        if (gone[number]) continue;
        int slot = 0;
        for (int before = 0; before < number; ++before) slot += !gone[before];
        const int at = kept[number];
        slab.boxes[slot] = to_source(picture, boxes[at], score_of(keys[at]), class_ids[at]);
    }
#pragma unroll 1
    for (int number = valid + threadIdx.x; number < MAX_BOXES; number += blockDim.x) slab.boxes[number] = {};
    if (threadIdx.x == 0) {
        slab.count = valid;
        slab.candidates = candidates;
        slab.mask_offset = slab.mask_bytes = 0;
    }
}

// A kernel's parameters are plain numbers: addresses of up to eight outputs, then what they mean.
#define HEAD_PARAMETERS(ELEMENT)                                                                                  \
    const ELEMENT *o0, const ELEMENT *o1, const ELEMENT *o2, const ELEMENT *o3, const ELEMENT *o4,                \
        const ELEMENT *o5, const ELEMENT *o6, const ELEMENT *o7, int parts, int family, int rows, int classes,    \
        int width, int height
#define HEAD(ELEMENT) \
    Head<ELEMENT> { {o0, o1, o2, o3, o4, o5, o6, o7}, parts, family, rows, classes, width, height }

#define POSTPROCESS(SUFFIX, ELEMENT)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                             \
        collect_##SUFFIX(const Picture* table, Collected* collected, HEAD_PARAMETERS(ELEMENT)) {                  \
        collect(table, collected, HEAD(ELEMENT));                                                                 \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(512)                                                             \
        finish_##SUFFIX(const Picture* table, const Collected* collected, Slab* slabs, HEAD_PARAMETERS(ELEMENT),  \
                        float iou) {                                                                              \
        finish(table, collected, slabs, HEAD(ELEMENT), iou);                                                      \
    }

POSTPROCESS(f32, float)
POSTPROCESS(f16, Half)
