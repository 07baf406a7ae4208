// From a model's raw outputs to scores and boxes, as app/inference/families does it in numpy.
#pragma once

#include "device.cuh"

enum Family { YOLOX = 0, YOLOV5 = 1, YOLOV8 = 2, NANODET = 3, NANODET_PLUS = 4, END2END = 5 };  // kernels.py: FAMILIES

constexpr int BINS = 8;         // of a distance in NanoDet
constexpr int SIDES = 4 * BINS;
constexpr int MAX_OUTPUTS = 8;  // NanoDet-Plus with two tensors for each of four strides

struct Box {
    float x1, y1, x2, y2;
};

// A batch's outputs. `rows` are those of all outputs of one image together: cells, anchors or boxes.
template <typename Element>
struct Head {
    const Element* outputs[MAX_OUTPUTS];
    int parts;  // outputs in use
    int family, rows, classes, width, height;

    // By comparison: an index that is not constant would move the array, and all that is read of it, to local memory.
    __device__ __forceinline__ const Element* output(int number) const {
        const Element* found = outputs[0];
#pragma unroll
        for (int each = 1; each < MAX_OUTPUTS; ++each) found = each == number ? outputs[each] : found;
        return found;
    }

    // Everything that may become a box. The CPU's decoders number their candidates alike, which settles equal scores.
    __device__ __forceinline__ unsigned int items() const {
        return family == YOLOV8 || family == NANODET || family == NANODET_PLUS ? (unsigned int)rows * classes : rows;
    }
};

struct Cell {
    int x, y, stride;
    int part, row;  // the stride's number, and the row among its own
};

// The cell of a row, finest stride first, line by line.
__device__ __forceinline__ Cell cell_of(int row, int width, int height, int strides) {
    int stride = 8;
    for (int part = 0;; ++part, stride *= 2) {
        const int columns = (width + stride - 1) / stride, lines = (height + stride - 1) / stride;
        if (row < columns * lines || part + 1 == strides) return {row % columns, row / columns, stride, part, row};
        row -= columns * lines;
    }
}

// NanoDet's tensors: one pair for each stride, all class tensors first, or both in one tensor.
template <typename Element>
struct Nano {
    const Element* scores;
    const Element* sides;
};

template <typename Element>
__device__ __forceinline__ Nano<Element> nanodet_row(const Head<Element>& head, int image, int row) {
    if (head.parts == 1) {
        const Element* at =
            head.outputs[0] + ((unsigned long long)image * head.rows + row) * (head.classes + SIDES);
        return {at, at + head.classes};
    }
    const int strides = head.parts / 2;
    const Cell cell = cell_of(row, head.width, head.height, strides);
    const int cells = ((head.width + cell.stride - 1) / cell.stride) * ((head.height + cell.stride - 1) / cell.stride);
    const unsigned long long at = (unsigned long long)image * cells + cell.row;
    return {head.output(cell.part) + at * head.classes, head.output(strides + cell.part) + at * SIDES};
}

// The score of an item; NaN, which reaches no score, when objectness alone falls short.
template <typename Element>
__device__ __forceinline__ float score_of(const Head<Element>& head, int image, unsigned int item, float min_score) {
    const unsigned long long rows = head.rows;
    switch (head.family) {
        case YOLOX:
        case YOLOV5: {
            const Element* row = head.outputs[0] + (image * rows + item) * (5 + head.classes);
            const float objectness = to_float(row[4]);
            if (!(objectness >= min_score)) return float_of(0x7fc00000u);
            float best = 0.0f;
#pragma unroll 4
            for (int number = 0; number < head.classes; ++number) {
                const float score = to_float(row[5 + number]);
                if (score != score) return score;
                best = larger(best, score);
            }
            return objectness * best;
        }
        case YOLOV8:
            return to_float(head.outputs[0][image * rows * (4 + head.classes) + 4 * rows + item]);
        case END2END:
            return to_float(head.outputs[0][(image * rows + item) * 6 + 4]);
        default: {
            const Nano<Element> nano = nanodet_row(head, image, item / head.classes);
            return to_float(nano.scores[item % head.classes]);
        }
    }
}

__device__ __forceinline__ Box around(float x, float y, float width, float height) {
    const float half_width = width * 0.5f, half_height = height * 0.5f;
    return {x - half_width, y - half_height, x + half_width, y + half_height};
}

// A distance in strides: the mean of softmax(logits).
template <typename Element>
__device__ __forceinline__ float mean_bin(const Element* logits) {
    float largest = to_float(logits[0]);
    for (int bin = 1; bin < BINS; ++bin) largest = larger(largest, to_float(logits[bin]));
    float sum = 0.0f, mean = 0.0f;
    for (int bin = 0; bin < BINS; ++bin) {
        const float weight = expf(to_float(logits[bin]) - largest);
        sum += weight;
        mean += weight * bin;
    }
    return mean / sum;
}

struct Candidate {
    Box box;  // input pixels
    int class_id;
};

template <typename Element>
__device__ __forceinline__ int best_class(const Element* scores, int classes) {
    int best = 0;
#pragma unroll 1
    for (int number = 1; number < classes; ++number) {
        if (to_float(scores[number]) > to_float(scores[best])) best = number;
    }
    return best;
}

template <typename Element>
__device__ __forceinline__ Candidate nanodet_candidate(const Head<Element>& head, int image, unsigned int item) {
    const int row = item / head.classes;
    const bool plus = head.family == NANODET_PLUS;
    const Cell cell = cell_of(row, head.width, head.height, plus ? 4 : 3);
    const Element* sides = nanodet_row(head, image, row).sides;
    const float shift = plus ? 0.0f : 0.5f * (cell.stride - 1), stride = cell.stride;
    const float x = cell.x * stride + shift, y = cell.y * stride + shift;
    const Box box = {x - mean_bin(sides) * stride, y - mean_bin(sides + BINS) * stride,
                     x + mean_bin(sides + 2 * BINS) * stride, y + mean_bin(sides + 3 * BINS) * stride};
    return {box, (int)(item % head.classes)};
}

// What an item that reached its score says.
template <typename Element>
__device__ __forceinline__ Candidate candidate_of(const Head<Element>& head, int image, unsigned int item) {
    const unsigned long long rows = head.rows;
    switch (head.family) {
        case YOLOX:
        case YOLOV5: {
            const Element* row = head.outputs[0] + (image * rows + item) * (5 + head.classes);
            const int class_id = best_class(row + 5, head.classes);
            const float x = to_float(row[0]), y = to_float(row[1]), w = to_float(row[2]), h = to_float(row[3]);
            if (head.family == YOLOV5) return {around(x, y, w, h), class_id};
            const Cell cell = cell_of(item, head.width, head.height, 3);
            const float stride = cell.stride;
            return {around((x + cell.x) * stride, (y + cell.y) * stride, expf(w) * stride, expf(h) * stride), class_id};
        }
        case YOLOV8: {
            const Element* column = head.outputs[0] + image * rows * (4 + head.classes) + item % head.rows;
            return {around(to_float(column[0]), to_float(column[rows]), to_float(column[2 * rows]),
                           to_float(column[3 * rows])),
                    (int)(item / head.rows)};
        }
        case END2END: {
            const Element* row = head.outputs[0] + (image * rows + item) * 6;
            const float class_id = to_float(row[5]);
            // What numpy makes of a number that no int holds, NaN among them.
            const bool fits = class_id >= -2147483648.0f && class_id < 2147483648.0f;
            return {{to_float(row[0]), to_float(row[1]), to_float(row[2]), to_float(row[3])},
                    fits ? (int)class_id : (-2147483647 - 1)};
        }
        default:
            return nanodet_candidate(head, image, item);
    }
}
