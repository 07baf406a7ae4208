// What a batch leaves for the host: for each image a header and its boxes. slab.py reads it.
#pragma once

constexpr int MAX_BOXES = 300;  // app/inference/found.py

struct Found {
    float x1, y1, x2, y2;  // source pixels, inside the source
    float score;
    float class_id;  // whole; a float holds those below 2^24 exactly
};

struct Slab {
    int count;       // boxes that are valid, best first; the rest are zeros
    int candidates;  // that reached the score, before suppression; at most MAX_CANDIDATES
    unsigned int mask_offset, mask_bytes;  // of instance masks, from the start of the slab: none yet
    Found boxes[MAX_BOXES];
};

static_assert(sizeof(Slab) == 7216, "IMAGE_BYTES in slab.py is 7216");
