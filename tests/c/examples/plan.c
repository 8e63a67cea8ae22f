/* Plans first: prints memory and speed before anything is allocated; then trains, if the plan fits this machine.
 *     cc plan.c $(pkg-config --cflags --libs horizon) -o plan
 *     ./plan tiny
 *     ./plan llama3.1-8b h200     (a model, or a Hugging Face folder; a machine, or a file of `horizon calibrate`) */
#include <horizon.h>
#include <stdio.h>
#include <stdlib.h>

enum { B = 4, T = 64, STEPS = 10 };

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

int main(int argc, char **argv) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_plan_t *plan = NULL;
    hz_trainer_t *trainer = NULL;
    if (argc != 2 && argc != 3) return fprintf(stderr, "usage: %s MODEL [MACHINE]\n", argv[0]), 2;
    if (hz_model_config_from_preset(argv[1], &model) != HZ_STATUS_OK) must(hz_model_config_from_hf(argv[1], &model));
    options.sequences = B, options.sequence_length = T;
    must(hz_plan_search(&model, &options, argc == 3 ? argv[2] : "cpu", &plan)); /* fails if nothing fits */
    must(hz_plan_summary(plan, &summary));
    printf("parameters     %.1f million\n", (double)summary.parameters / 1e6);
    printf("host memory    %.1f MiB\n", (double)summary.host_bytes / (1 << 20));
    printf("device memory  %.1f MiB\n", (double)summary.device_bytes / (1 << 20));
    printf("simulated      %.3f s per step, %.0f tokens/s\n", summary.step_seconds, summary.tokens_per_second);
    for (hz_lane_t lane = HZ_LANE_COMPUTE; hz_lane_name(lane) != NULL; lane++) {
        double seconds;
        must(hz_plan_busy_seconds(plan, lane, &seconds));
        printf("  %-12s busy %.0f %%\n", hz_lane_name(lane), 100.0 * seconds / summary.step_seconds);
    }
    must(hz_plan_admit(plan)); /* fits into the memory that is free now, or says what would fit */
    must(hz_trainer_open_planned(plan, &trainer));
    hz_plan_close(plan);

    must(hz_trainer_init_weights(trainer, 1));
    int32_t tokens[B * T], targets[B * T];
    for (int i = 0; i < B * T; i++) tokens[i] = i % 10, targets[i] = (i + 1) % 10;
    batch.rows = B * T, batch.tokens = tokens, batch.targets = targets;
    for (int step = 1; step <= STEPS; step++) {
        must(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
        printf("step %d: loss %.3f\n", step, report.loss);
    }
    must(hz_trainer_close(trainer));
    return 0;
}
