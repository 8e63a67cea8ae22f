/* Trains with checkpoints. Kill it and run it again: it continues, and the result has the same bits.
 *     cc resume.c $(pkg-config --cflags --libs horizon) -o resume && ./resume RUN OUT */
#include <horizon.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { B = 2, T = 32, STEPS = 40, SAVE_EVERY = 5, KEEP = 2 };
static const char TEXT[] = "It was the best of times, it was the worst of times, it was the age of wisdom, ";

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

int main(int argc, char **argv) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    hz_trainer_t *trainer = NULL;
    int32_t tokens[B * T], targets[B * T];
    uint64_t at = 0; /* position in the text: all that the data loader has to remember */
    const char *note = NULL;
    int saving = 0;
    if (argc != 3) return fprintf(stderr, "usage: %s RUN OUT\n", argv[0]), 2;
    must(hz_model_config_from_preset("tiny", &model));
    options.sequences = B, options.sequence_length = T;
    must(hz_trainer_open(&model, &options, &trainer));
    hz_status_t resumed = hz_trainer_resume(trainer, argv[1], NULL, &note);
    must(resumed == HZ_STATUS_NOT_FOUND ? hz_trainer_init_weights(trainer, 1) : resumed);
    if (note != NULL) at = strtoull(note, NULL, 10);
    must(hz_trainer_stats(trainer, &stats));
    printf("%s after step %" PRIu64 "\n", note != NULL ? "resumed" : "started", stats.steps);
    batch.rows = B * T, batch.tokens = tokens, batch.targets = targets;
    for (uint64_t step = stats.steps + 1; step <= STEPS; step++) {
        for (int i = 0; i < B * T; i++, at = (at + 1) % (sizeof TEXT - 2)) {
            tokens[i] = TEXT[at], targets[i] = TEXT[at + 1];
        }
        must(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
        printf("step %" PRIu64 ": loss %.3f\n", step, report.loss), fflush(stdout);
        if (step % SAVE_EVERY != 0) continue;
        char state[32];
        snprintf(state, sizeof state, "%" PRIu64, at);
        if (saving) must(hz_trainer_save_wait(trainer));
        must(hz_trainer_save_to(trainer, argv[1], KEEP, state)); /* returns at once; training continues */
        saving = 1;
    }
    if (saving) must(hz_trainer_save_wait(trainer));
    must(hz_trainer_export_hf(trainer, argv[2], HZ_DTYPE_F32));
    must(hz_trainer_close(trainer));
    return 0;
}
