/*
 * Placement of layers, saves during training, log-probabilities, and loss functions in C.
 */
#include <math.h>

#include "small.h"

/* ---- placements ---- */

static const char *const NAME = "model.layers.1.mlp.up_proj.weight";

enum { ELEMENTS = 160 * 64 };

/* The units of a save so far. */
typedef struct {
    uint32_t units, end_at;
    float first; /* the first weight of the embedding */
} saved_t;

static int32_t save_unit(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual,
                         const void *m, const void *v, void *user) {
    saved_t *saved = user;
    CHECK(unit == saved->units && elements > 0 && m != NULL && v != NULL);
    saved->units++;
    if (unit == 0) {
        OK(hz_master_join(weights, residual, 1, &saved->first));
    }
    return saved->units == saved->end_at;
}

/* Runs steps, evaluations, reads, writes and saves with some options. Returns a tensor. */
static void train(hz_trainer_options_t options, float *out) {
    hz_model_config_t model = small_model();
    hz_trainer_t *trainer = NULL;
    OK(hz_trainer_open(&model, &options, &trainer));
    OK(hz_trainer_init_weights(trainer, 3));
    lcg = 99;
    for (int step = 0; step < 3; step++) {
        static rows_t rows[MICROS];
        static float logits[V], norm[64], embedding[V * 64];
        hz_batch_t batches[MICROS];
        for (int micro = 0; micro < MICROS; micro++) {
            fill(&rows[micro]);
            batches[micro] = batch_of(&rows[micro]);
        }
        hz_step_report_t report = HZ_STEP_REPORT_INIT;
        hz_eval_report_t held_out = HZ_EVAL_REPORT_INIT;
        OK(hz_trainer_step(trainer, batches, MICROS, 1e-2, &report));
        saved_t saved = {0};
        saved.end_at = step == 1 ? 2 : 0; /* the callback cancels the second save */
        OK(hz_trainer_save(trainer, save_unit, &saved));
        REFUSED(HZ_STATUS_INVALID_STATE, "call hz_trainer_save_wait", hz_trainer_save(trainer, save_unit, &saved));
        OK(hz_trainer_read_tensor(trainer, "model.embed_tokens.weight", embedding, V * 64));
        OK(hz_trainer_read_tensor(trainer, "model.layers.0.input_layernorm.weight", norm, 64));
        OK(hz_trainer_eval(trainer, batches, 1, &held_out));
        norm[step] += 0.25f;
        OK(hz_trainer_write_tensor(trainer, "model.layers.0.input_layernorm.weight", norm, 64));
        OK(hz_trainer_logits(trainer, rows[0].tokens, 5, logits, V));
        if (saved.end_at > 0) {
            REFUSED(HZ_STATUS_CANCELLED, "the save function returned 1", hz_trainer_save_wait(trainer));
        } else {
            OK(hz_trainer_save_wait(trainer));
        }
        CHECK(saved.units == (saved.end_at > 0 ? saved.end_at : 4) && saved.first == embedding[0]);
    }
    REFUSED(HZ_STATUS_INVALID_STATE, "hz_trainer_save_wait has returned its result", hz_trainer_save_wait(trainer));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "save is NULL", hz_trainer_save(trainer, NULL, NULL));
    OK(hz_trainer_read_tensor(trainer, NAME, out, ELEMENTS));
    OK(hz_trainer_close(trainer));
}

static void test_placements(void) {
    static float plain[ELEMENTS], placed[ELEMENTS];
    train(small_options(), plain);

    hz_layer_placement_t layers[2] = {HZ_LAYER_PLACEMENT_INIT, HZ_LAYER_PLACEMENT_INIT};
    hz_trainer_options_t options = small_options();
    options.layers = layers;
    options.layers_count = 1;
    layers[0].recompute = HZ_RECOMPUTE_NONE; /* of all layers */
    train(options, placed);
    CHECK(memcmp(plain, placed, sizeof plain) == 0);

    layers[0].recompute = HZ_RECOMPUTE_SELECTIVE;
    layers[0].boundary = HZ_PLACE_HOST;
    layers[1].first = 1;
    layers[1].count = 1;
    layers[1].resident = 1;
    layers[1].accumulator = HZ_PLACE_DEVICE;
    options.layers_count = 2;
    options.sweeps = 2;
    options.weight_slots = 3;
    options.slabs = 4;
    train(options, placed);
    CHECK(memcmp(plain, placed, sizeof plain) == 0);

    options.mode = HZ_MODE_STREAMED; /* can clip, because gradients wait on the device */
    options.grad_place = HZ_PLACE_DEVICE;
    train(options, placed);
    CHECK(memcmp(plain, placed, sizeof plain) == 0);

    /* Plans include the memory of a placement. */
    hz_model_config_t model = small_model();
    hz_plan_t *plan = NULL;
    hz_plan_summary_t small = HZ_PLAN_SUMMARY_INIT, large = HZ_PLAN_SUMMARY_INIT;
    options = small_options();
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_plan_summary(plan, &small));
    hz_plan_close(plan);
    options.layers = layers;
    options.layers_count = 2;
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_plan_summary(plan, &large));
    hz_plan_close(plan);
    CHECK(large.device_bytes > small.device_bytes);

    hz_trainer_t *trainer = NULL;
#define CASE(word, change) \
    do { \
        hz_layer_placement_t good = HZ_LAYER_PLACEMENT_INIT; \
        layers[0] = good; \
        layers[1] = good; \
        change; \
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_open(&model, &options, &trainer)); \
    } while (0)
    CASE("layers[1].recompute is 9", layers[1].recompute = 9);
    CASE("layers[0].boundary is 3", layers[0].boundary = 3);
    CASE("layers[0].resident is 2", layers[0].resident = 2);
    CASE("layers[1].accumulator is 7", layers[1].accumulator = 7);
    CASE("layers[0].reserved is 1", layers[0].reserved = 1);
    CASE("layers first .. first+count-1 must be in 0 .. 1 (num_hidden_layers - 1)", layers[0].first = 2);
    CASE("layers[1].first is 1 and layers[1].count is 2; layers first",
         (layers[1].first = 1, layers[1].count = 2));
    CASE("layers[1].struct_size", layers[1].struct_size = 0);
    CASE("layers is NULL", options.layers = NULL);
    CHECK(trainer == NULL);
}

/* ---- losses ---- */

typedef struct {
    const int32_t *targets; /* of all micro-batches, [MICROS, B, T] */
    hz_trainer_t *trainer;
    int calls, result;
} mean_t;

/* The mean of the negative log-probabilities. */
static int32_t mean_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    mean_t *mean = user;
    mean->calls++;
    double sum = 0.0, counted = 0.0;
    for (size_t i = 0; i < count; i++) {
        CHECK(dlogprobs[i] == 0.0f);
        if (mean->targets[i] != -100) {
            CHECK(logprobs[i] < 0.0f);
            sum -= (double)logprobs[i];
            counted += 1.0;
        } else {
            CHECK(logprobs[i] == 0.0f);
        }
    }
    for (size_t i = 0; i < count; i++) {
        dlogprobs[i] = -(float)(1.0 / counted);
    }
    /* The trainer is in use. */
    REFUSED(HZ_STATUS_INVALID_STATE, "another call is running on this trainer (a callback of it,", hz_trainer_sync(mean->trainer));
    *out_loss = sum / counted;
    return mean->result;
}

/* Sets no loss. */
static int32_t unset_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    (void)logprobs, (void)dlogprobs, (void)count, (void)out_loss, (void)user;
    return 0;
}

static void test_losses(void) {
    hz_trainer_t *ours = open_small(), *theirs = open_small();
    static rows_t rows[MICROS];
    static int32_t targets[MICROS * N];
    static float logprobs[MICROS * N], one[ELEMENTS], other[ELEMENTS];
    hz_step_report_t a = HZ_STEP_REPORT_INIT, b = HZ_STEP_REPORT_INIT;
    hz_batch_t batches[MICROS];
    mean_t mean = {targets, ours, 0, 0};
    for (int step = 0; step < 3; step++) {
        for (int micro = 0; micro < MICROS; micro++) {
            fill(&rows[micro]);
            rows[micro].targets[7 * step + micro] = -100;
            batches[micro] = batch_of(&rows[micro]);
            memcpy(targets + micro * N, rows[micro].targets, sizeof rows[micro].targets);
        }
        OK(hz_trainer_logprobs(ours, batches, MICROS, logprobs, MICROS * N));
        double sum = 0.0, counted = 0.0;
        for (int i = 0; i < MICROS * N; i++) {
            sum -= (double)logprobs[i];
            counted += targets[i] != -100;
        }
        OK(hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, mean_loss, &mean, &a));
        OK(hz_trainer_step(theirs, batches, MICROS, 1e-2, &b));
        CHECK(a.step == b.step && a.grad_norm == b.grad_norm && a.targets == b.targets && a.tokens == b.tokens);
        CHECK(fabs(a.loss - b.loss) < 1e-12 && fabs(a.loss - sum / counted) < 1e-12);
    }
    CHECK(mean.calls == 3);

    /* A cancelled step changes nothing. */
    mean.result = 5;
    REFUSED(HZ_STATUS_CANCELLED, "returned 5",
            hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, mean_loss, &mean, &a));
    REFUSED(HZ_STATUS_NON_FINITE, "*out_loss is ",
            hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, unset_loss, NULL, &a));
    CHECK(a.step == 3);
    OK(hz_trainer_read_tensor(ours, NAME, one, ELEMENTS));
    OK(hz_trainer_read_tensor(theirs, NAME, other, ELEMENTS));
    CHECK(memcmp(one, other, sizeof one) == 0);

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "loss is NULL",
            hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, NULL, NULL, &a));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report",
            hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, mean_loss, &mean, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lr is ",
            hz_trainer_step_with_loss(ours, batches, MICROS, -1.0, mean_loss, &mean, &a));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("logprobs_count is %d", N - 1),
            hz_trainer_logprobs(ours, batches, 1, logprobs, N - 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "logprobs is NULL", hz_trainer_logprobs(ours, batches, 1, NULL, N));
    OK(hz_trainer_close(ours));
    OK(hz_trainer_close(theirs));

    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    options.sweeps = 2;
    OK(hz_trainer_open(&model, &options, &ours));
    OK(hz_trainer_init_weights(ours, 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "sweeps = 2",
            hz_trainer_step_with_loss(ours, batches, MICROS, 1e-2, mean_loss, &mean, &a));
    OK(hz_trainer_close(ours));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_placements();
    test_losses();
    printf("%d checks\n", checks);
    return 0;
}
