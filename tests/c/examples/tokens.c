/* Trains a byte-level model on a token file, with a learning rate schedule and evaluation, and exports it:
 *     horizon tokenize --model tiny --data README.md --out readme.bin
 *     cc tokens.c $(pkg-config --cflags --libs horizon) -lm -o tokens && ./tokens readme.bin my-first-model */
#include <horizon.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 4, T = 48, STEPS = 40, WARMUP = 4 };
static int32_t tokens[B * T], targets[B * T];

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

/* Fills the batch with random windows of tokens from .. to - 1 of the file: 64 bytes of header, then uint16. */
static void fill_batch(FILE *file, uint64_t from, uint64_t to) {
    uint16_t window[T + 1];
    for (int i = 0; i < B * T; i += T) {
        uint64_t start = from + (uint64_t)rand() % (to - from - T);
        if (fseek(file, 64 + 2 * (long)start, SEEK_SET) != 0 || fread(window, sizeof window, 1, file) != 1)
            perror("cannot read tokens"), exit(1);
        for (int t = 0; t < T; t++) tokens[i + t] = window[t], targets[i + t] = window[t + 1];
    }
}

int main(int argc, char **argv) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_eval_report_t held_out = HZ_EVAL_REPORT_INIT;
    hz_trainer_t *trainer = NULL;
    uint64_t header[8] = {0};
    if (argc != 3) return fprintf(stderr, "usage: %s TOKENS OUT\n", argv[0]), 2;
    FILE *file = fopen(argv[1], "rb");
    if (file == NULL) return fprintf(stderr, "cannot open %s\n", argv[1]), 1;
    if (fread(header, sizeof header, 1, file) != 1 || memcmp(header, "HZTOKENS", 8) != 0 || header[2] < 10 * (T + 2))
        return fprintf(stderr, "%s is not a token file, or a short one\n", argv[1]), 1;
    uint64_t count = header[2], train = count - count / 10; /* the last tenth is held out */
    must(hz_model_config_from_preset("tiny", &model));
    options.sequences = B, options.sequence_length = T;
    must(hz_trainer_open(&model, &options, &trainer)), must(hz_trainer_init_weights(trainer, 1)); /* seed 1 */
    batch.rows = B * T, batch.tokens = tokens, batch.targets = targets;
    for (int step = 1; step <= STEPS; step++) { /* linear warmup, then a cosine to a tenth */
        double lr = 3e-3 * fmin((double)step / WARMUP, 0.55 + 0.45 * cos(3.14159 * step / STEPS));
        fill_batch(file, 0, train);
        must(hz_trainer_step(trainer, &batch, 1, lr, &report));
        if (step > 1 && step % 10 != 0) continue;
        fill_batch(file, train, count);
        must(hz_trainer_eval(trainer, &batch, 1, &held_out));
        printf("step %d: lr %.1e, loss %.3f, validation loss %.3f\n", step, lr, report.loss, held_out.loss);
    }
    must(hz_trainer_export_hf(trainer, argv[2], HZ_DTYPE_BF16));
    must(hz_trainer_close(trainer));
    return fclose(file);
}
