/* Trains with a loss of its own: direct preference optimization (DPO, arXiv 2305.18290) on one pair of answers.
 *     cc loss.c $(pkg-config --cflags --libs horizon) -lm -o loss && ./loss */
#include <horizon.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FROM = 10, T = 24, N = 2 * T, STEPS = 20 }; /* the answers start at byte FROM */
static const char *const TEXTS[2] = {"The sky is blue.", "The sky is falling."}; /* chosen, rejected */
static const double BETA = 0.1;

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

/* log p(chosen) - log p(rejected). Log-probabilities are [2, T], and 0 for ignored targets. */
static double preference(const float *logprobs) {
    double sum = 0.0;
    for (int t = 0; t < T; t++) sum += (double)logprobs[t] - (double)logprobs[T + t];
    return sum;
}

/* -log sigmoid(margin), and its derivative by each log-probability. */
static int32_t dpo(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    const double *reference = user;
    double margin = BETA * (preference(logprobs) - *reference), slope = -BETA / (1.0 + exp(margin));
    for (size_t i = 0; i < count; i++) dlogprobs[i] = (float)(i < T ? slope : -slope);
    *out_loss = log1p(exp(-margin));
    return 0;
}

int main(void) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_t *trainer = NULL;
    int32_t tokens[N], targets[N];
    float logprobs[N];
    for (int i = 0; i < N; i++) { /* the byte after each token is its target, if it belongs to the answer */
        char text[T + 1] = "";
        int t = i % T, length = snprintf(text, sizeof text, "%s", TEXTS[i / T]);
        tokens[i] = text[t];
        targets[i] = t + 1 >= FROM && t + 1 < length ? text[t + 1] : -100;
    }
    must(hz_model_config_from_preset("tiny", &model));
    options.sequences = 2, options.sequence_length = T;
    must(hz_trainer_open(&model, &options, &trainer));
    must(hz_trainer_init_weights(trainer, 1));
    batch.rows = N, batch.tokens = tokens, batch.targets = targets;
    must(hz_trainer_logprobs(trainer, &batch, 1, logprobs, N)); /* of the reference: the model before training */
    double reference = preference(logprobs);
    for (int step = 1; step <= STEPS; step++) {
        must(hz_trainer_step_with_loss(trainer, &batch, 1, 1e-4, dpo, &reference, &report));
        printf("step %d: loss %.4f\n", step, report.loss);
    }
    return hz_trainer_close(trainer) != HZ_STATUS_OK;
}
