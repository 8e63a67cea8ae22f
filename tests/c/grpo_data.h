/* Group relative policy optimization (arXiv 2402.03300, equations 3 and 4), outcome rewards.
 * Written by tests/golden/losses.py with torch 2.15.0, transformers 5.24.0. */
#ifndef GRPO_DATA_H
#define GRPO_DATA_H

#include <stddef.h>
#include <stdint.h>

enum { T = 32, ROUNDS = 2, GROUPS = 2, GROUP_SIZE = 4 };
enum { INNER_STEPS = 3, STEPS = 6 };

static const double BETA = 0.04, EPSILON = 0.2;

typedef struct {
    size_t count;
    int32_t ids[10];
} text_t;

static const struct {
    text_t prompt, completion;
    double reward;
} DATA[ROUNDS][GROUPS * GROUP_SIZE] = {
    {
        {{2, {25, 2}}, {6, {40, 33, 9, 37, 34, 60}}, 0.75},
        {{2, {25, 2}}, {3, {1, 4, 50}}, 0.5},
        {{2, {25, 2}}, {8, {40, 52, 3, 53, 1, 8, 35, 58}}, 0.25},
        {{2, {25, 2}}, {7, {33, 21, 45, 59, 48, 5, 25}}, 0.75},
        {{5, {53, 4, 29, 47, 44}}, {4, {27, 14, 21, 32}}, 0.5},
        {{5, {53, 4, 29, 47, 44}}, {10, {49, 45, 17, 9, 6, 38, 22, 56, 4, 38}}, 0.0},
        {{5, {53, 4, 29, 47, 44}}, {8, {29, 55, 25, 11, 24, 19, 22, 49}}, 0.5},
        {{5, {53, 4, 29, 47, 44}}, {6, {53, 7, 37, 15, 39, 45}}, 0.0},
    },
    {
        {{4, {35, 11, 23, 33}}, {5, {46, 34, 12, 4, 25}}, 0.0},
        {{4, {35, 11, 23, 33}}, {4, {47, 54, 21, 11}}, 1.0},
        {{4, {35, 11, 23, 33}}, {3, {43, 45, 56}}, 0.0},
        {{4, {35, 11, 23, 33}}, {5, {55, 19, 25, 36, 42}}, 0.25},
        {{3, {23, 60, 5}}, {4, {25, 28, 41, 11}}, 0.0},
        {{3, {23, 60, 5}}, {5, {48, 24, 34, 49, 54}}, 0.75},
        {{3, {23, 60, 5}}, {7, {46, 42, 30, 24, 45, 9, 50}}, 0.5},
        {{3, {23, 60, 5}}, {9, {42, 19, 24, 8, 24, 2, 6, 3, 12}}, 0.5},
    },
};

/* AdamW and clipping; the learning rate is constant. */
static const double LR = 0.001, BETA1 = 0.9, BETA2 = 0.95, EPS = 1e-06;
static const double DECAY = 0.1, CLIP = 1.0;

/* Results of PyTorch. */
static const double LOSS[STEPS] = {
    1.4901161193847656e-08,
    -0.09559375792741776,
    -0.13923758268356323,
    0.0001704152673482895,
    -0.05041258782148361,
    -0.09866286814212799,
};
static const double GRAD_NORM[STEPS] = {
    1.9779708119481687,
    1.0951245435302945,
    0.859738081301566,
    1.893890845562699,
    1.9157565178592393,
    1.5565665270972668,
};

#endif
