/*
 * Compares a run with PyTorch within the bounds of all golden tests: losses 1e-5, norms 1e-4, weights
 * 1e-4 * |w| + 0.02 * lr for all but one in 10^4, lr for all.
 */
#ifndef PYTORCH_H
#define PYTORCH_H

#include <math.h>

#include "check.h"

static inline void agree(const char *what, uint64_t step, double ours, double theirs, double bound) {
    checks++;
    if (!(fabs(ours - theirs) <= bound)) {
        fprintf(stderr, "%s of step %d: %.9g; PyTorch: %.9g\n", what, (int)step, ours, theirs);
        exit(1);
    }
}

static inline void step_agrees(const hz_step_report_t *report, double loss, double grad_norm) {
    agree("loss", report->step, report->loss, loss, 1e-5 * fmax(1.0, fabs(loss)));
    agree("gradient norm", report->step, report->grad_norm, grad_norm, 1e-4 * grad_norm);
}

static inline float *read_values(hz_trainer_t *trainer, const hz_tensor_info_t *tensor) {
    float *values = malloc((size_t)tensor->elements * sizeof *values);
    CHECK(values != NULL);
    OK(hz_trainer_read_tensor(trainer, tensor->name, values, (size_t)tensor->elements));
    return values;
}

/* Compares every weight with a Hugging Face folder, after steps with learning rates up to `lr`. */
static inline void weights_agree(hz_trainer_t *trainer, const char *folder, double lr) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_trainer_t *theirs = NULL;
    options.sequence_length = 1; /* not trained */
    OK(hz_model_config_from_hf(folder, &model));
    OK(hz_trainer_open(&model, &options, &theirs));
    OK(hz_trainer_load_hf(theirs, folder));
    size_t tensors = 0, elements = 0, beyond = 0;
    OK(hz_trainer_tensor_count(trainer, &tensors));
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        float *got = read_values(trainer, &tensor), *want = read_values(theirs, &tensor);
        for (size_t at = 0; at < tensor.elements; at++) {
            double difference = fabs((double)got[at] - (double)want[at]);
            if (!(difference <= lr)) {
                fprintf(stderr, "%s[%zu]: %.9g; PyTorch: %.9g\n", tensor.name, at, (double)got[at], (double)want[at]);
                exit(1);
            }
            beyond += difference > 1e-4 * fabs((double)want[at]) + 0.02 * lr;
        }
        elements += (size_t)tensor.elements;
        free(got);
        free(want);
    }
    printf("weights: %zu of %zu outside 1e-4 * |w| + 0.02 * lr\n", beyond, elements);
    CHECK(beyond * 10000 <= elements);
    OK(hz_trainer_close(theirs));
}

#endif
