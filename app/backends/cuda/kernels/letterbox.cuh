// YUV of any layout, scaled into the model's input and normalised: a whole batch of mixed sizes in one launch.
#pragma once

#include "device.cuh"
#include "picture.cuh"

// The two samples of an axis that a target sample lies between, and the weight of the second.
struct Between {
    int first, second;
    float weight;
};

// Half-pixel centres, the border repeated: (target + 0.5) * source_size / target_size - 0.5, in whole numbers, so that
// the weight is exact however large the source. The product must fit an int: sources up to 131,071 wide.
__device__ __forceinline__ Between between(int target, int source_size, int target_size) {
    const int unit = 2 * target_size;
    const float per_unit = 1.0f / unit;
    int offset = (2 * target + 1) * source_size - target_size;
    if (offset < 0) offset = 0;
    int first = (int)(offset * per_unit);  // one too many or too few at most
    int rest = offset - first * unit;
    if (rest < 0) {
        first -= 1;
        rest += unit;
    } else if (rest >= unit) {
        first += 1;
        rest -= unit;
    }
    const int last = source_size - 1;
    if (first >= last) return {last, last, 0.0f};
    return {first, first + 1, rest * per_unit};
}

template <typename Sample>
__device__ __forceinline__ float blend(unsigned long long plane, int pitch, int step, Between x, Between y) {
    const Sample* above = (const Sample*)(plane + (unsigned long long)y.first * pitch);
    const Sample* below = (const Sample*)(plane + (unsigned long long)y.second * pitch);
    const float a = above[x.first * step], b = above[x.second * step];
    const float c = below[x.first * step], d = below[x.second * step];
    const float top = a + (b - a) * x.weight, bottom = c + (d - c) * x.weight;
    return top + (bottom - top) * y.weight;
}

struct Yuv {
    float y, u, v;
};

// Each plane is scaled by itself, as the CPU backend does it.
template <typename Sample>
__device__ __forceinline__ Yuv sample(const Picture& p, int x, int y) {
    const Between luma_x = between(x, p.width, p.box_width), luma_y = between(y, p.height, p.box_height);
    const Between chroma_x = between(x, p.chroma_width, p.box_width);
    const Between chroma_y = between(y, p.chroma_height, p.box_height);
    return {blend<Sample>(p.y, p.y_pitch, 1, luma_x, luma_y),
            blend<Sample>(p.u, p.chroma_pitch, p.chroma_step, chroma_x, chroma_y),
            blend<Sample>(p.v, p.chroma_pitch, p.chroma_step, chroma_x, chroma_y)};
}

__device__ __forceinline__ float level(const float* row, Yuv c) {
    return smaller(larger(row[0] * c.y + row[1] * c.u + row[2] * c.v + row[3], 0.0f), 255.0f);
}

// One thread a pixel; blockIdx.z is the image. `target` is [batch, 3, height, width].
template <typename Element>
__device__ __forceinline__ void letterbox(const Picture* table, Element* target, int width, int height, float pad,
                                          const float (&mean)[3], const float (&gain)[3]) {
    const Picture& picture = table[blockIdx.z];
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (blank(picture) || x >= width || y >= height) return;
    float pixel[3] = {pad, pad, pad};
    const int inside_x = x - picture.left, inside_y = y - picture.top;
    if (inside_x >= 0 && inside_x < picture.box_width && inside_y >= 0 && inside_y < picture.box_height) {
        const Yuv yuv = picture.sample_bytes == 1 ? sample<unsigned char>(picture, inside_x, inside_y)
                                                  : sample<unsigned short>(picture, inside_x, inside_y);
        for (int channel = 0; channel < 3; ++channel) pixel[channel] = level(picture.colour[channel], yuv);
    }
    const unsigned long long area = (unsigned long long)width * height;
    Element* at = target + blockIdx.z * 3 * area + (unsigned long long)y * width + x;
    for (int channel = 0; channel < 3; ++channel) {
        store(at + channel * area, (pixel[channel] - mean[channel]) * gain[channel]);
    }
}

#define LETTERBOX(NAME, ELEMENT)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        NAME(const Picture* table, ELEMENT* target, int width, int height, float pad, float mean_0, float mean_1, \
             float mean_2, float gain_0, float gain_1, float gain_2) {                                           \
        const float mean[3] = {mean_0, mean_1, mean_2}, gain[3] = {gain_0, gain_1, gain_2};                      \
        letterbox(table, target, width, height, pad, mean, gain);                                                \
    }

LETTERBOX(letterbox_f32, float)
LETTERBOX(letterbox_f16, Half)
