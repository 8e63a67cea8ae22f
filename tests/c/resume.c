/*
 * Resumes a run from a checkpoint with another placement, bit for bit; and errors. Usage: resume FOLDER (an empty
 * one, for files).
 */
#include "small.h"

enum { STEPS = 6, STOP = 3 };

static hz_trainer_t *open_with(const hz_trainer_options_t *options) {
    hz_model_config_t model = small_model();
    hz_trainer_t *trainer = NULL;
    OK(hz_trainer_open(&model, options, &trainer));
    return trainer;
}

/* All f32 masters, one tensor after the other. */
static float *read_all(hz_trainer_t *trainer, size_t *out_count) {
    size_t tensors = 0, count = 0;
    float *values = NULL;
    OK(hz_trainer_tensor_count(trainer, &tensors));
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        values = realloc(values, (count + tensor.elements) * sizeof *values);
        CHECK(values != NULL);
        OK(hz_trainer_read_tensor(trainer, tensor.name, values + count, (size_t)tensor.elements));
        count += (size_t)tensor.elements;
    }
    *out_count = count;
    return values;
}

/* The note has the data position: the state of the generator that draws rows. */
static void save(hz_trainer_t *trainer, const char *folder, uint64_t keep) {
    char note[32];
    snprintf(note, sizeof note, "%u", (unsigned)lcg);
    OK(hz_trainer_save_to(trainer, folder, keep, note));
}

static char path_of[512];

static const char *in(const char *folder, const char *name) {
    snprintf(path_of, sizeof path_of, "%s/%s", folder, name);
    return path_of;
}

/* Flips a bit in the middle of a file; a second call restores it. */
static void flip(const char *path) {
    FILE *file = fopen(path, "r+b");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    long middle = ftell(file) / 2;
    CHECK(fseek(file, middle, SEEK_SET) == 0);
    int byte = fgetc(file);
    CHECK(byte != EOF && fseek(file, middle, SEEK_SET) == 0 && fputc(byte ^ 4, file) != EOF && fclose(file) == 0);
}

static int32_t no_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    (void)logprobs, (void)dlogprobs, (void)count, (void)out_loss, (void)user;
    return 1;
}

static int32_t no_save(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual,
                       const void *m, const void *v, void *user) {
    (void)unit, (void)elements, (void)weights, (void)residual, (void)m, (void)v, (void)user;
    return 1;
}

static void test_resuming(const char *folder) {
    hz_trainer_t *whole = open_small();
    for (int i = 0; i < STEPS; i++) {
        if (i == STOP) {
            save(whole, folder, 0);
            REFUSED(HZ_STATUS_INVALID_STATE, "call hz_trainer_save_wait", hz_trainer_save_to(whole, folder, 0, NULL));
        }
        small_step(whole); /* while the checkpoint is written */
    }
    OK(hz_trainer_save_wait(whole));

    hz_layer_placement_t layers = HZ_LAYER_PLACEMENT_INIT;
    hz_trainer_options_t options = small_options();
    layers.recompute = HZ_RECOMPUTE_NONE;
    layers.boundary = HZ_PLACE_HOST;
    options.layers = &layers;
    options.layers_count = 1;
    options.threads = 1;
    options.weight_slots = 3;
    options.sweeps = 2;
    options.grad_place = HZ_PLACE_DEVICE;
    hz_trainer_t *other = open_with(&options);
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    const char *note = NULL;
    OK(hz_trainer_resume(other, folder, NULL, &note));
    OK(hz_trainer_stats(other, &stats));
    CHECK(stats.steps == STOP && stats.tokens == STOP * MICROS * N && note != NULL);
    lcg = (uint32_t)strtoul(note, NULL, 10);
    for (int i = STOP; i < STEPS; i++) {
        small_step(other);
    }
    size_t ours = 0, theirs = 0;
    float *one = read_all(whole, &ours), *two = read_all(other, &theirs);
    CHECK(ours == theirs && memcmp(one, two, ours * sizeof *one) == 0);
    free(one);
    free(two);

    /* The first trainer locks the folder until it is closed, also while it resumes; the newest two checkpoints are
     * kept. */
    OK(hz_trainer_resume(whole, folder, NULL, NULL));
    REFUSED(HZ_STATUS_INVALID_STATE, "another run writes", hz_trainer_save_to(other, folder, 2, NULL));
    OK(hz_trainer_close(whole));
    hz_trainer_t *fresh = open_small();
    REFUSED(HZ_STATUS_INVALID_STATE, "checkpoints already", hz_trainer_save_to(fresh, folder, 1, NULL));
    OK(hz_trainer_close(fresh));
    for (int i = 0; i < 2; i++) {
        small_step(other);
        OK(hz_trainer_save_to(other, folder, 2, NULL));
        OK(hz_trainer_save_wait(other));
    }
    REFUSED(HZ_STATUS_NOT_FOUND, "step-00000003", hz_trainer_resume(other, in(folder, "step-00000003"), NULL, NULL));
    OK(hz_trainer_resume(other, in(folder, "step-00000007"), NULL, &note));
    OK(hz_trainer_stats(other, &stats));
    CHECK(stats.steps == STEPS + 1 && note == NULL);
    OK(hz_trainer_close(other));

    hz_model_config_t model = HZ_MODEL_CONFIG_INIT, wanted = small_model();
    OK(hz_model_config_from_hf(in(folder, "step-00000007"), &model));
    model.hidden_size = 0;
    OK(hz_model_config_from_hf(folder, &model));
    CHECK(model.hidden_size == wanted.hidden_size && model.num_key_value_heads == wanted.num_key_value_heads);
}

static int errors;

static void count_errors(hz_log_level_t level, const char *message, void *user) {
    (void)message, (void)user;
    errors += level == HZ_LOG_ERROR;
}

/* Weights that were never set cannot be used. */
static void test_weights_never_set(const char *folder) {
    hz_trainer_options_t options = small_options();
    hz_trainer_t *trainer = open_with(&options);
    static rows_t rows;
    static float logits[V], logprobs[N];
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t step = HZ_STEP_REPORT_INIT;
    hz_eval_report_t eval = HZ_EVAL_REPORT_INIT;
#define NEVER_SET(call) \
    REFUSED(HZ_STATUS_INVALID_STATE, "the weights were never set: call hz_trainer_init_weights", call)
    NEVER_SET(hz_trainer_step(trainer, &batch, 1, 1e-3, &step));
    NEVER_SET(hz_trainer_eval(trainer, &batch, 1, &eval));
    NEVER_SET(hz_trainer_logits(trainer, rows.tokens, 1, logits, V));
    NEVER_SET(hz_trainer_logprobs(trainer, &batch, 1, logprobs, N));
    NEVER_SET(hz_trainer_step_with_loss(trainer, &batch, 1, 1e-3, no_loss, NULL, &step));
    NEVER_SET(hz_trainer_export_hf(trainer, in(folder, "export"), HZ_DTYPE_F32));
    NEVER_SET(hz_trainer_save_to(trainer, in(folder, "run"), 0, NULL));
    NEVER_SET(hz_trainer_save(trainer, no_save, NULL));
    OK(hz_trainer_accumulate(trainer, &batch));
    NEVER_SET(hz_trainer_update(trainer, 1e-3, &step));
    OK(hz_trainer_init_weights(trainer, 1));
    OK(hz_trainer_update(trainer, 1e-3, &step));
    OK(hz_trainer_close(trainer));
}

static void test_errors(const char *folder) {
    hz_trainer_options_t options = small_options();
    options.clip = 0.5;
    options.beta2 = 0.95;
    hz_trainer_t *trainer = open_with(&options);
    const char *note = "mine";
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "clip is 0.5, the checkpoint's is 1",
            hz_trainer_resume(trainer, folder, "beta2", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "beta2 is 0.95, the checkpoint's is 0.999",
            hz_trainer_resume(trainer, folder, "clip", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "`lr` cannot change", hz_trainer_resume(trainer, folder, "lr", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "mode, sequences, sequence_length, logits_chunk, grad_dtype, clip",
            hz_trainer_resume(trainer, folder, "lr", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "`weight_slots` need not be listed",
            hz_trainer_resume(trainer, folder, "clip, weight_slots", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "changes = \"clip, beta2\"",
            hz_trainer_resume(trainer, folder, "beta2", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "allow the change (changes = \"clip, beta2\")",
            hz_trainer_resume(trainer, folder, "sequences, micro-batch, grad_dtype", &note));
    REFUSED(HZ_STATUS_NOT_FOUND, "nowhere", hz_trainer_resume(trainer, in(folder, "nowhere"), NULL, &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder", hz_trainer_resume(trainer, NULL, NULL, &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder", hz_trainer_save_to(trainer, "", 0, NULL));
    CHECK(strcmp(note, "mine") == 0);
    OK(hz_trainer_resume(trainer, folder, "clip, beta2", NULL));
    small_step(trainer);
    OK(hz_trainer_close(trainer));

    hz_model_config_t model = small_model();
    options = small_options();
    model.intermediate_size = 96;
    OK(hz_trainer_open(&model, &options, &trainer));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "intermediate_size is 96, the checkpoint's is 160",
            hz_trainer_resume(trainer, folder, NULL, NULL));
    CHECK(strstr(hz_last_error(), "the trainer has another model") != NULL);
    CHECK(strstr(hz_last_error(), "open the trainer with the result of hz_model_config_from_hf(\"") != NULL);
    OK(hz_trainer_close(trainer));

    options.mode = HZ_MODE_COMPACT;
    trainer = open_with(&options);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "mode is HZ_MODE_COMPACT, the checkpoint's is HZ_MODE_EXACT",
            hz_trainer_resume(trainer, folder, NULL, NULL));
    OK(hz_trainer_close(trainer));
    options.mode = HZ_MODE_EXACT;

    /* Errors name the damaged file and the newest complete checkpoint; a damaged manifest changes nothing. */
    trainer = open_with(&options);
    flip(in(folder, "step-00000008/manifest.json"));
    REFUSED(HZ_STATUS_BAD_FORMAT, "manifest.json", hz_trainer_resume(trainer, folder, NULL, NULL));
    CHECK(strstr(hz_last_error(), "step 7 is complete") != NULL);
    flip(in(folder, "step-00000008/manifest.json"));
    OK(hz_trainer_resume(trainer, folder, NULL, NULL));
    flip(in(folder, "step-00000008/unit-00001.state"));
    OK(hz_set_log_callback(count_errors, NULL));
    REFUSED(HZ_STATUS_BAD_FORMAT, "unit-00001.state", hz_trainer_resume(trainer, folder, NULL, NULL));
    char first[2048];
    snprintf(first, sizeof first, "%s", hz_last_error());
    CHECK(strstr(first, "step 7 is complete") != NULL);
    CHECK(strstr(first, "The trainer has failed: close it and open another") != NULL);
    REFUSED(HZ_STATUS_BAD_FORMAT, first, hz_trainer_resume(trainer, in(folder, "step-00000007"), NULL, NULL));
    CHECK(strcmp(hz_last_error(), first) == 0);
    REFUSED(HZ_STATUS_BAD_FORMAT, first, hz_trainer_resume(trainer, "nowhere", NULL, NULL));
    REFUSED(HZ_STATUS_BAD_FORMAT, first, hz_trainer_sync(trainer));
    REFUSED(HZ_STATUS_BAD_FORMAT, first, hz_trainer_close(trainer));
    CHECK(strcmp(hz_last_error(), first) == 0 && errors == 1);
    OK(hz_set_log_callback(NULL, NULL));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_resuming(argv[1]);
    test_errors(argv[1]);
    test_weights_never_set(argv[1]);
    printf("%d checks\n", checks);
    return 0;
}
