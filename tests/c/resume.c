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

    /* The first trainer locks the folder until it is closed; the newest two checkpoints are kept. */
    REFUSED(HZ_STATUS_INVALID_STATE, "another run", hz_trainer_save_to(other, folder, 2, NULL));
    OK(hz_trainer_close(whole));
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
    CHECK(model.hidden_size == wanted.hidden_size && model.num_key_value_heads == wanted.num_key_value_heads);
}

static void test_errors(const char *folder) {
    hz_trainer_options_t options = small_options();
    options.clip = 0.5;
    options.beta2 = 0.95;
    hz_trainer_t *trainer = open_with(&options);
    const char *note = "mine";
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "clip is 0.5, and was 1", hz_trainer_resume(trainer, folder, "beta2", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "beta2 is 0.95, and was 0.999",
            hz_trainer_resume(trainer, folder, "clip", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "`lr` cannot change", hz_trainer_resume(trainer, folder, "lr", &note));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "mode, sequences, sequence_length, logits_chunk, grad_dtype, clip",
            hz_trainer_resume(trainer, folder, "host_mem", &note));
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
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "intermediate_size is 96, and was 160",
            hz_trainer_resume(trainer, folder, NULL, NULL));
    OK(hz_trainer_close(trainer));

    /* Errors name the damaged file and the newest complete checkpoint; a damaged manifest changes nothing. */
    trainer = open_with(&options);
    flip(in(folder, "step-00000008/manifest.json"));
    REFUSED(HZ_STATUS_BAD_FORMAT, "manifest.json", hz_trainer_resume(trainer, folder, NULL, NULL));
    CHECK(strstr(hz_last_error(), "step 7 is complete") != NULL);
    flip(in(folder, "step-00000008/manifest.json"));
    OK(hz_trainer_resume(trainer, folder, NULL, NULL));
    flip(in(folder, "step-00000008/unit-00001.state"));
    REFUSED(HZ_STATUS_BAD_FORMAT, "unit-00001.state", hz_trainer_resume(trainer, folder, NULL, NULL));
    REFUSED(HZ_STATUS_BAD_FORMAT, "unit-00001.state", hz_trainer_sync(trainer));
    REFUSED(HZ_STATUS_BAD_FORMAT, "unit-00001.state", hz_trainer_close(trainer));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_resuming(argv[1]);
    test_errors(argv[1]);
    printf("%d checks\n", checks);
    return 0;
}
