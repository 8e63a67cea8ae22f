/*
 * Plans: searched for another machine, with their figures and errors; and a trainer that follows one.
 */
#include <inttypes.h>
#include <sys/stat.h>

#include "small.h"

/* A number in the plan's JSON. */
static double number(const char *json, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(json, quoted);
    CHECK(at != NULL);
    return strtod(at + strlen(quoted), NULL);
}

static void test_elsewhere(const char *folder) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_plan_t *plan = NULL;
    const char *json = NULL;
    OK(hz_model_config_from_preset("llama3.1-8b", &model));
    options.sequences = 4;
    options.sequence_length = 4096;
    options.micros_max = 4;
    OK(hz_plan_search(&model, &options, "h200", &plan));
    OK(hz_plan_summary(plan, &summary));
    OK(hz_plan_json(plan, &json));
    printf("message: %s\n", json);
    printf("8B on an H200: %.2f s a step, %.0f tokens/s, %.1f GiB of device memory\n", summary.step_seconds,
           summary.tokens_per_second, (double)summary.device_bytes / (1 << 30));
    CHECK(summary.parameters == 8030261248u && summary.ram_bytes == summary.host_bytes);
    double tokens = 4.0 * 4 * 4096;
    CHECK(summary.tokens_per_second * summary.step_seconds > 0.999 * tokens);
    CHECK(summary.tokens_per_second * summary.step_seconds < 1.001 * tokens);
    CHECK(summary.tflops > 100.0 && summary.tflops < 790.0);
    CHECK(number(json, "step_seconds") > 0 && number(json, "device_bytes") == (double)summary.device_bytes);
    CHECK(strstr(json, "\"placement\":{") != NULL && strstr(json, "\"busiest_lane\":\"compute\"") != NULL);

    char path[1024];
    CHECK((size_t)snprintf(path, sizeof path, "%s/no/such/step.json", folder) < sizeof path);
    REFUSED(HZ_STATUS_NOT_FOUND, "step.json", hz_plan_trace(plan, path));
    snprintf(path, sizeof path, "%s/pipe", folder);
    CHECK(mkfifo(path, 0600) == 0);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "a pipe", hz_plan_trace(plan, path));
    snprintf(path, sizeof path, "%s/step.json", folder);
    OK(hz_plan_trace(plan, path));
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    static char trace[1 << 22];
    size_t length = fread(trace, 1, sizeof trace - 1, file);
    CHECK(fclose(file) == 0 && length < sizeof trace - 1);
    trace[length] = '\0';
    CHECK(strstr(trace, "\"simulated\"") != NULL && strstr(trace, "recompute backward unit 3") != NULL);
    CHECK(strstr(trace, "adam") != NULL && strcmp(trace + length - 3, "\n]\n") == 0);

    hz_plan_close(plan);

    /* These plans cannot run here: the tests do not run on such devices. */
    hz_model_config_t small = small_model();
    hz_trainer_options_t few = small_options();
    hz_trainer_t *trainer = NULL;
    small.head_dim = 64; /* the CUDA kernels have no smaller one */
    OK(hz_plan_search(&small, &few, "rtx3090", &plan));
    REFUSED(HZ_STATUS_DEVICE_UNAVAILABLE, "rtx3090 (NVIDIA GeForce RTX 3090", hz_trainer_open_planned(plan, &trainer));
    hz_plan_close(plan);
    few.device = HZ_DEVICE_CPU;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "device = HZ_DEVICE_CPU, but the machine h200 has a CUDA device",
            hz_plan_search(&small, &few, "h200", &plan));

    /* Less memory is not faster; weight_slots stays; memory errors are exact to the byte. */
    double step = summary.step_seconds;
    uint64_t least;
    options.device_mem = (uint64_t)24 << 30;
    options.weight_slots = 3;
    OK(hz_plan_search(&model, &options, "h200", &plan));
    OK(hz_plan_summary(plan, &summary));
    OK(hz_plan_json(plan, &json));
    CHECK(summary.step_seconds >= step && summary.device_bytes <= options.device_mem);
    CHECK(number(json, "weight_slots") == 3);
    hz_plan_close(plan);
    options.weight_slots = 0;
    options.device_mem = 1 << 20;
    REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "bytes short", hz_plan_search(&model, &options, "h200", &plan));
    const char *need = strchr(hz_last_error(), '(');
    CHECK(need != NULL);
    least = strtoull(need + 1, NULL, 10);
    options.device_mem = least - 1;
    REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, " 1 byte short", hz_plan_search(&model, &options, "h200", &plan));
    options.device_mem = least;
    OK(hz_plan_search(&model, &options, "h200", &plan));
    OK(hz_plan_summary(plan, &summary));
    CHECK(summary.device_bytes == least);
    hz_plan_close(plan);
    printf("with the least device memory, %" PRIu64 " bytes: %.2f s a step\n", least, summary.step_seconds);

    plan = NULL;
    REFUSED(HZ_STATUS_NOT_FOUND, "rtx3090", hz_plan_search(&model, &options, "a calculator", &plan));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "machine is empty", hz_plan_search(&model, &options, "", &plan));
    REFUSED(HZ_STATUS_BAD_FORMAT, "`horizon calibrate`", hz_plan_search(&model, &options, "/etc/passwd", &plan));
    hz_model_config_t unfilled = HZ_MODEL_CONFIG_INIT;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "hidden_size is 0: fill in the model", hz_plan_open(&unfilled, NULL, &plan));
    model.rms_norm_eps = 1e300;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "rms_norm_eps is 1e300", hz_plan_open(&model, NULL, &plan));
    model.rms_norm_eps = 1e-5;
    model.max_position_embeddings = 0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "it must be at least 1", hz_plan_open(&model, NULL, &plan));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_plan is NULL", hz_plan_search(&model, NULL, NULL, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model is NULL", hz_plan_search(NULL, NULL, NULL, &plan));
    CHECK(plan == NULL);
}

/* Trains with a plan and prints predicted and measured busy times of each lane. */
static void test_followed(void) {
    enum { STEPS = 6 };
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    double before[16], seconds = -1.0;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_plan_t *plan = NULL;
    hz_trainer_t *trainer = NULL;
    options.tracing = 0;
    options.measuring = 2;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "measuring is 2", hz_plan_search(&model, &options, NULL, &plan));
    options.measuring = 1;
    options.reserved = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "reserved is 1", hz_plan_search(&model, &options, NULL, &plan));
    options.reserved = 0;
    options.device = HZ_DEVICE_CUDA;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "device = HZ_DEVICE_CUDA, but the machine cpu has the CPU device",
            hz_plan_search(&model, &options, NULL, &plan));
    options.device = HZ_DEVICE_AUTO;
    OK(hz_plan_search(&model, &options, NULL, &plan));
    OK(hz_plan_summary(plan, &summary));
    OK(hz_trainer_open_planned(plan, &trainer));
    OK(hz_trainer_stats(trainer, &stats));
    CHECK(stats.device_bytes == summary.device_bytes && stats.host_bytes == summary.host_bytes);
    CHECK(summary.ram_bytes == summary.host_bytes + summary.device_bytes);
    OK(hz_trainer_busy_seconds(trainer, HZ_LANE_COMPUTE, &seconds));
    CHECK(seconds == 0.0);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lane is 99", hz_trainer_busy_seconds(trainer, 99, &seconds));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_seconds is NULL", hz_trainer_busy_seconds(trainer, 0, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lane is 99", hz_plan_busy_seconds(plan, 99, &seconds));
    OK(hz_trainer_init_weights(trainer, 1));
    rows_t rows;
    fill(&rows);
    batch.rows = N;
    batch.tokens = rows.tokens;
    batch.targets = rows.targets;
    OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report)); /* warm-up: touches memory for the first time */
    CHECK(report.loss > 0);
    OK(hz_trainer_sync(trainer));
    for (hz_lane_t lane = HZ_LANE_COMPUTE; hz_lane_name(lane); lane++) {
        OK(hz_trainer_busy_seconds(trainer, lane, &before[lane]));
    }
    for (int step = 0; step < STEPS; step++) OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
    OK(hz_trainer_sync(trainer));
    printf("lane     predicted   measured\n");
    for (hz_lane_t lane = HZ_LANE_COMPUTE; hz_lane_name(lane); lane++) {
        double predicted, measured;
        OK(hz_plan_busy_seconds(plan, lane, &predicted));
        OK(hz_trainer_busy_seconds(trainer, lane, &measured));
        measured = (measured - before[lane]) / STEPS;
        printf("%-8s %6.3f ms  %6.3f ms\n", hz_lane_name(lane), 1e3 * predicted, 1e3 * measured);
        /* All lanes work in every step, except the disk lane: nothing is saved. */
        CHECK((predicted > 0) == (lane != HZ_LANE_DISK));
        CHECK((measured > 0) == (lane != HZ_LANE_DISK));
        CHECK(predicted <= summary.step_seconds);
    }
    hz_plan_close(plan);
    OK(hz_trainer_close(trainer));
    trainer = NULL;

    options.measuring = 0;
    OK(hz_trainer_open(&model, &options, &trainer));
    OK(hz_trainer_init_weights(trainer, 1));
    OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
    OK(hz_trainer_stats(trainer, &stats));
    OK(hz_trainer_busy_seconds(trainer, HZ_LANE_COMPUTE, &seconds));
    CHECK(stats.steps == 1 && seconds == 0.0);
    OK(hz_trainer_close(trainer));
    trainer = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", hz_trainer_open_planned(NULL, &trainer));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_elsewhere(argv[1]);
    test_followed();
    printf("plan.c: %d checks\n", checks);
    return 0;
}
