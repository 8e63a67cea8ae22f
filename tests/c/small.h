/*
 * Shared by the C programs: a text and a small byte-level model.
 */
#ifndef SMALL_H
#define SMALL_H

#include <stdarg.h>

#include "check.h"

/* Compiled with -DEMULATED, the programs make the same calls with fewer rows and steps: for valgrind, which emulates
 * fused multiply-adds one element at a time. */
#ifdef EMULATED
#define LESS(native, emulated) (emulated)
#else
#define LESS(native, emulated) (native)
#endif

enum { B = LESS(4, 2), T = LESS(48, 12), N = B * T, V = 256, MICROS = 2 };

/* Words of a message that depend on these sizes. */
static inline const char *words(const char *format, ...) {
    static char text[200];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return text;
}

static const char TEXT[] =
    "The store is in host memory and the device is a place that layers pass through. A layer comes up, every "
    "micro-batch of the step goes through it, and it is gone. On the way back it comes up again, its gradient "
    "leaves, and the optimizer does its work where the weights live. Nothing waits for what it does not need. ";

/* ---- data ---- */

typedef struct {
    int32_t tokens[N], targets[N], starts[N];
    float weights[N];
} rows_t;

static uint32_t lcg = 12345;

static inline void fill(rows_t *rows) {
    const size_t length = sizeof TEXT - 1;
    for (size_t b = 0; b < B; b++) {
        lcg = lcg * 1664525u + 1013904223u;
        size_t from = (lcg >> 8) % length;
        for (size_t t = 0; t < T; t++) {
            size_t n = b * T + t;
            rows->tokens[n] = (unsigned char)TEXT[(from + t) % length];
            rows->targets[n] = (unsigned char)TEXT[(from + t + 1) % length];
            rows->weights[n] = 1.0f;
            rows->starts[n] = 0;
        }
    }
}

static inline hz_batch_t batch_of(const rows_t *rows) {
    hz_batch_t batch = HZ_BATCH_INIT;
    batch.rows = N;
    batch.tokens = rows->tokens;
    batch.targets = rows->targets;
    return batch;
}

/* Runs a step on the next rows of the text. Returns its loss. */
static inline double small_step(hz_trainer_t *trainer) {
    static rows_t rows[MICROS];
    hz_batch_t batches[MICROS];
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    for (int micro = 0; micro < MICROS; micro++) {
        fill(&rows[micro]);
        batches[micro] = batch_of(&rows[micro]);
    }
    OK(hz_trainer_step(trainer, batches, MICROS, 3e-3, &report));
    return report.loss;
}

/* A hash (FNV-1a) of all f32 masters. */
static inline uint64_t small_bits(hz_trainer_t *trainer) {
    uint64_t hash = 14695981039346656037u;
    size_t tensors = 0;
    OK(hz_trainer_tensor_count(trainer, &tensors));
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        size_t bytes = (size_t)tensor.elements * sizeof(float);
        unsigned char *values = (unsigned char *)malloc(bytes);
        CHECK(values != NULL);
        OK(hz_trainer_read_tensor(trainer, tensor.name, (float *)(void *)values, (size_t)tensor.elements));
        for (size_t at = 0; at < bytes; at++) hash = (hash ^ values[at]) * 1099511628211u;
        free(values);
    }
    return hash;
}

static inline hz_model_config_t small_model(void) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    model.vocab_size = V;
    model.hidden_size = 64;
    model.intermediate_size = 160;
    model.num_hidden_layers = 2;
    model.num_attention_heads = 4;
    model.num_key_value_heads = 2;
    model.max_position_embeddings = 256;
    return model;
}

static inline hz_trainer_options_t small_options(void) {
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    options.threads = 2;
    return options;
}

static inline hz_trainer_t *open_small(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    options.tracing = 1;
    hz_trainer_t *trainer = NULL;
    OK(hz_trainer_open(&model, &options, &trainer));
    CHECK(trainer != NULL);
    OK(hz_trainer_init_weights(trainer, 7));
    return trainer;
}

#endif
