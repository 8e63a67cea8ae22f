/* Fine-tunes a Hugging Face model on questions with answers, and exports it as a new folder:
 *     cc finetune.c $(pkg-config --cflags --libs horizon) -o finetune
 *     ./finetune MODEL OUT
 * Tokens are bytes here, as in the model of tokens.c; for another model, use the ids of its tokenizer. */
#include <horizon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 4, T = 32, STEPS = 60 }; /* B sequences of T tokens are a micro-batch */

static const char *const QUESTIONS[B] = {
    "Capital of France?", "Capital of Japan?", "Capital of Egypt?", "Capital of Peru?",
};
static const char *const ANSWERS[B] = {" Paris\n", " Tokyo\n", " Cairo\n", " Lima\n"};

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

/* The target of a token is the next token of the answer. Others are -100: not trained on. */
static void encode(const char *question, const char *answer, int32_t *tokens, int32_t *targets) {
    char text[T + 1] = "";
    int from = (int)strlen(question), length = snprintf(text, sizeof text, "%s%s", question, answer);
    for (int t = 0; t < T; t++) {
        tokens[t] = (unsigned char)text[t];
        targets[t] = t + 1 >= from && t + 1 < length ? (unsigned char)text[t + 1] : -100;
    }
}

int main(int argc, char **argv) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_t *trainer = NULL;
    int32_t tokens[B * T], targets[B * T];
    if (argc != 3) return fprintf(stderr, "usage: %s MODEL OUT\n", argv[0]), 2;
    for (int b = 0; b < B; b++) encode(QUESTIONS[b], ANSWERS[b], tokens + b * T, targets + b * T);
    batch.rows = B * T;
    batch.tokens = tokens;
    batch.targets = targets;

    must(hz_model_config_from_hf(argv[1], &model));
    options.sequences = B;
    options.sequence_length = T;
    must(hz_trainer_open(&model, &options, &trainer)); /* allocates all memory, or says what is missing */
    must(hz_trainer_load_hf(trainer, argv[1]));
    for (int step = 1; step <= STEPS; step++) {
        must(hz_trainer_step(trainer, &batch, 1, 2e-3, &report)); /* learning rate; for a large model 1e-5 */
        if (step % 10 == 0) printf("step %d: loss %.3f, gradient norm %.3f\n", step, report.loss, report.grad_norm);
    }
    must(hz_trainer_export_hf(trainer, argv[2], HZ_DTYPE_BF16));
    must(hz_trainer_close(trainer));
    return 0;
}
