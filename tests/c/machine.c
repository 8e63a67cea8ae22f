/*
 * The machine that the library runs on: its devices, plans that fit it or not, log levels, and the options as JSON.
 */
#include "small.h"

static void test_devices(void) {
    hz_device_info_t cpu = HZ_DEVICE_INFO_INIT, best = HZ_DEVICE_INFO_INIT, used = HZ_DEVICE_INFO_INIT;
    uint32_t count = 0, gpus = 0;
    OK(hz_device_count(HZ_DEVICE_CPU, &count));
    CHECK(count == 1);
    OK(hz_device_info(HZ_DEVICE_CPU, 0, &cpu));
    CHECK(cpu.kind == HZ_DEVICE_CPU && cpu.index == 0 && strstr(cpu.name, "threads") != NULL);
    CHECK(cpu.memory_free > 0 && cpu.memory_free <= cpu.memory);
    OK(hz_device_count(HZ_DEVICE_CUDA, &gpus));
    REFUSED(HZ_STATUS_DEVICE_UNAVAILABLE, "cuda:99", hz_device_info(HZ_DEVICE_CUDA, 99, &best));
    OK(hz_device_info(HZ_DEVICE_AUTO, 99, &best));
    CHECK(best.kind == (gpus > 0 ? HZ_DEVICE_CUDA : HZ_DEVICE_CPU) && best.index == 0 && best.name[0] != '\0');
    printf("%s, %u CUDA devices, best %s\n", cpu.name, gpus, best.name);

    hz_trainer_t *trainer = open_small();
    OK(hz_trainer_device(trainer, &used));
    CHECK(used.kind == HZ_DEVICE_CPU && strcmp(used.name, cpu.name) == 0); /* no kernels for heads of 16 */
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_info is NULL", hz_trainer_device(trainer, NULL));
    OK(hz_trainer_close(trainer));

    hz_device_t unknown = (hz_device_t)9;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "kind is 9", hz_device_count(unknown, &count));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "kind is 9", hz_device_info(unknown, 0, &best));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "index is 1", hz_device_info(HZ_DEVICE_CPU, 1, &best));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_count is NULL", hz_device_count(HZ_DEVICE_CPU, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_info is NULL", hz_device_info(HZ_DEVICE_CPU, 0, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "trainer is NULL", hz_trainer_device(NULL, &used));
}

/* A plan that is not admitted and cannot be opened, with the same message, as far as free memory does not change. */
static void refuse(hz_plan_t *plan, hz_status_t status, const char *word) {
    char admitted[1024];
    hz_trainer_t *trainer = NULL;
    REFUSED(status, word, hz_plan_admit(plan));
    snprintf(admitted, sizeof admitted, "%s", hz_last_error());
    REFUSED(status, word, hz_trainer_open_planned(plan, &trainer));
    const char *free_memory = strstr(admitted, "limit ");
    size_t length = free_memory ? (size_t)(free_memory - admitted) : strlen(admitted);
    CHECK(strncmp(admitted, hz_last_error(), length) == 0);
    hz_plan_close(plan);
}

static hz_plan_t *search(const hz_trainer_options_t *options, const char *folder, const char *machine) {
    hz_model_config_t model = small_model();
    hz_plan_t *plan = NULL;
    char path[1024];
    model.head_dim = 64; /* CUDA kernels have no heads of 16 */
    snprintf(path, sizeof path, "%s%s", folder, machine);
    OK(hz_plan_search(&model, options, path, &plan));
    return plan;
}

static void test_admit(const char *folder) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_plan_t *plan = NULL;

    /* Device memory one byte short: the message says what would fit. */
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_plan_admit(plan));
    OK(hz_plan_summary(plan, &summary));
    hz_plan_close(plan);
    options.device_mem = summary.device_bytes - 1;
    OK(hz_plan_open(&model, &options, &plan));
    refuse(plan, HZ_STATUS_OUT_OF_DEVICE_MEMORY, "1 byte short; ");
    CHECK(strstr(hz_last_error(), "the model needs ") == hz_last_error());
    CHECK(strstr(hz_last_error(), " would fit") != NULL);
    options = small_options();
    options.host_mem = summary.ram_bytes - 1;
    OK(hz_plan_open(&model, &options, &plan));
    refuse(plan, HZ_STATUS_OUT_OF_HOST_MEMORY, " of host memory ");
    CHECK(strstr(hz_last_error(), "mode = HZ_MODE_COMPACT") != NULL && strstr(hz_last_error(), " would fit") != NULL);
    options = small_options();

    /* A model larger than any RAM, and one that cannot be exported. */
    OK(hz_model_config_from_preset("dense-1t", &model));
    OK(hz_plan_open(&model, &options, &plan));
    refuse(plan, HZ_STATUS_OUT_OF_HOST_MEMORY, " tokens with mode = HZ_MODE_COMPACT");
    model = small_model();
    model.qk_norm = model.mlp_bias = 1;
    OK(hz_plan_open(&model, &options, &plan));
    refuse(plan, HZ_STATUS_UNSUPPORTED, "");

    /* Plans for other machines. */
    hz_plan_close(search(&options, "", "h200"));
    refuse(search(&options, "", "rtx3090"), HZ_STATUS_DEVICE_UNAVAILABLE, "rtx3090");
    CHECK(strstr(hz_last_error(), "without a GPU") == NULL);
    model = small_model();
    REFUSED(HZ_STATUS_UNSUPPORTED, "head_dim must be", hz_plan_search(&model, &options, "h200", &plan));
    refuse(search(&options, folder, "/large-discrete.json"), HZ_STATUS_DEVICE_UNAVAILABLE, "the machine cpu");
    plan = search(&options, folder, "/large.json"); /* the memory is this machine's */
    OK(hz_plan_admit(plan));
    hz_plan_close(plan);
    const char *small[] = {"small.json", "small-discrete.json"};
    for (int i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, small[i]);
        model = small_model();
        model.head_dim = 64;
        REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "limit 1.0 KiB (the described machine's memory)",
                hz_plan_search(&model, &options, path, &plan));
    }
}

/* ---- log levels ---- */

typedef struct {
    int of[HZ_LOG_DEBUG + 1];
    int slabs, threads;
} messages_t;

static void on_message(hz_log_level_t level, const char *message, void *user) {
    messages_t *messages = user;
    messages->of[level]++;
    messages->slabs += level == HZ_LOG_DEBUG && strstr(message, "gradient slabs ") != NULL;
    messages->threads += level == HZ_LOG_DEBUG && strcmp(message, "options: threads = 2") == 0;
}

static void test_log_levels(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    options.host_mem = (uint64_t)1 << 60; /* more than there is: a warning */
    for (int level = HZ_LOG_NONE; level <= HZ_LOG_DEBUG; level++) {
        messages_t seen = {{0}, 0, 0};
        hz_trainer_t *trainer = NULL;
        OK(hz_set_log_callback(on_message, &seen));
        OK(hz_set_log_level((hz_log_level_t)level));
        OK(hz_trainer_open(&model, &options, &trainer));
        OK(hz_trainer_close(trainer));
        OK(hz_set_log_callback(NULL, NULL));
        CHECK(seen.of[HZ_LOG_NONE] == 0 && seen.of[HZ_LOG_ERROR] == 0);
        CHECK(seen.of[HZ_LOG_WARNING] == (level >= HZ_LOG_WARNING));
        CHECK(seen.of[HZ_LOG_INFO] == (level >= HZ_LOG_INFO));
        CHECK((seen.of[HZ_LOG_DEBUG] > 20) == (level == HZ_LOG_DEBUG) && seen.slabs == (level == HZ_LOG_DEBUG));
        CHECK(seen.threads == (level == HZ_LOG_DEBUG));
    }
    OK(hz_set_log_level(HZ_LOG_INFO));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "level is 5", hz_set_log_level((hz_log_level_t)5));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "level is -1", hz_set_log_level((hz_log_level_t)-1));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_devices();
    test_admit(argv[1]);
    test_log_levels();
    CHECK(strstr(hz_options_json(), "\"hz_trainer_options_t\":[{") != NULL);
    printf("%d checks\n", checks);
    return 0;
}
