// One image of a batch. pictures.py writes the table of these: PICTURE there has the same fields in the same order.
#pragma once

struct Picture {
    unsigned long long y, u, v;  // addresses of the first samples
    float min_score;
    int width, height;                           // of the source; a row without width is blank
    int left, top, box_width, box_height;        // where the source lies in the model's input
    float scale_x, scale_y;                      // source pixels per input pixel
    int y_pitch, chroma_pitch;                   // bytes from row to row
    int chroma_step, chroma_width, chroma_height;  // samples
    int sample_bytes;                            // 1 or 2
    float colour[3][4];                          // (Y, U, V, 1), samples as they are, to the model's order, 0..255
    int reserved;
};

static_assert(sizeof(Picture) == 136, "PICTURE in pictures.py has 136 bytes");

__device__ __forceinline__ bool blank(const Picture& picture) { return picture.width == 0; }
