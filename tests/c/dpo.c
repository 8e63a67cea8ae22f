/*
 * Direct preference optimization (DPO: Rafailov et al. 2023, arXiv 2305.18290) of a tiny model, compared with PyTorch.
 * Usage: dpo MODEL TRAINED, two Hugging Face folders: the initial model, and PyTorch's result.
 *
 * LOSS. The data are pairs of a chosen and a rejected answer to a prompt. DPO increases the log-probability of the
 * chosen answer over the rejected one, relative to a frozen reference, the model before training (equation 7):
 *
 *     margin = beta * ((log p(chosen) - log ref(chosen)) - (log p(rejected) - log ref(rejected)))
 *     loss   = mean over the pairs of a step of  -log sigmoid(margin)
 *
 * log p(answer) is the sum of the log-probabilities of the answer's tokens after the prompt, so all of them have the
 * same derivative: -beta * sigmoid(-margin) / pairs for the chosen answer, the negative for the rejected one.
 *
 * MEMORY. One model: the reference's log-probabilities do not change, so they are computed once, before training.
 *
 * LAYOUT. A sequence of T rows is a prompt, an answer, and padding. Of a step, sequence 2k has the chosen answer of
 * pair k and sequence 2k + 1 the rejected one. The target of row t is the token at t + 1 if that belongs to the
 * answer, otherwise -100: prompt and padding are masked out of the loss. Padding needs no attention mask, because
 * attention is causal.
 */
#include "dpo_data.h"
#include "pytorch.h"

/* A micro-batch has B sequences. The log-probabilities of a step are one array [MICROS, B, T], so pairs are
 * independent of micro-batches. */
enum { B = 4, SEQUENCES = 2 * PAIRS_A_STEP, MICROS = SEQUENCES / B, N = B * T };

typedef struct {
    int32_t tokens[SEQUENCES][T], targets[SEQUENCES][T];
    hz_batch_t batches[MICROS]; /* point into the arrays above */
} step_t;

static void put(const text_t *prompt, const text_t *answer, int32_t *tokens, int32_t *targets) {
    size_t length = prompt->count + answer->count;
    CHECK(prompt->count > 0 && length <= T);
    memcpy(tokens, prompt->ids, prompt->count * sizeof *tokens);
    memcpy(tokens + prompt->count, answer->ids, answer->count * sizeof *tokens);
    for (size_t t = length; t < T; t++) {
        tokens[t] = 0; /* any token */
    }
    for (size_t t = 0; t < T; t++) {
        int in_answer = t + 1 >= prompt->count && t + 1 < length;
        targets[t] = in_answer ? tokens[t + 1] : -100;
    }
}

/* Pairs first .. first + PAIRS_A_STEP - 1. */
static void fill(step_t *step, size_t first) {
    for (size_t k = 0; k < PAIRS_A_STEP; k++) {
        put(&DATA[first + k].prompt, &DATA[first + k].chosen, step->tokens[2 * k], step->targets[2 * k]);
        put(&DATA[first + k].prompt, &DATA[first + k].rejected, step->tokens[2 * k + 1], step->targets[2 * k + 1]);
    }
    for (size_t micro = 0; micro < MICROS; micro++) {
        hz_batch_t batch = HZ_BATCH_INIT;
        batch.rows = N;
        batch.tokens = step->tokens[micro * B];
        batch.targets = step->targets[micro * B];
        step->batches[micro] = batch;
    }
}

/* log p of each sequence's answer. `logprobs` is 0 for ignored targets, so the whole sequence is summed. */
static void sum_sequences(const float *logprobs, double *sums) {
    for (size_t sequence = 0; sequence < SEQUENCES; sequence++) {
        sums[sequence] = 0.0;
        for (size_t t = 0; t < T; t++) {
            sums[sequence] += (double)logprobs[sequence * T + t];
        }
    }
}

/* Further inputs and outputs of the loss function. */
typedef struct {
    const double *reference; /* [SEQUENCES], of this step's sequences */
    int preferred;           /* pairs of this step with a margin above 0 */
} dpo_t;

/* -log sigmoid(x) without overflow. */
static double minus_log_sigmoid(double x) {
    return log1p(exp(-fabs(x))) + fmax(-x, 0.0);
}

static int32_t dpo_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    dpo_t *dpo = user;
    double sums[SEQUENCES], loss = 0.0;
    CHECK(count == SEQUENCES * T);
    sum_sequences(logprobs, sums);
    dpo->preferred = 0;
    for (size_t k = 0; k < PAIRS_A_STEP; k++) {
        double chosen = sums[2 * k] - dpo->reference[2 * k];
        double rejected = sums[2 * k + 1] - dpo->reference[2 * k + 1];
        double margin = BETA * (chosen - rejected);
        double d = -BETA / (1.0 + exp(margin)) / PAIRS_A_STEP;
        for (size_t t = 0; t < T; t++) { /* those of ignored targets do not count */
            dlogprobs[2 * k * T + t] = (float)d;
            dlogprobs[(2 * k + 1) * T + t] = (float)-d;
        }
        loss += minus_log_sigmoid(margin) / PAIRS_A_STEP;
        dpo->preferred += margin > 0.0;
    }
    *out_loss = loss;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL TRAINED\n", argv[0]);
        return 2;
    }
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_trainer_t *trainer = NULL;
    OK(hz_model_config_from_hf(argv[1], &model));
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    options.grad_dtype = HZ_DTYPE_F32; /* for the comparison; bf16 is enough for training */
    options.beta1 = BETA1;
    options.beta2 = BETA2;
    options.eps = EPS;
    options.weight_decay = DECAY;
    options.clip = CLIP;
    OK(hz_trainer_open(&model, &options, &trainer));
    OK(hz_trainer_load_hf(trainer, argv[1]));

    /* The reference's log-probabilities of all pairs. `step` can be reused: calls copy the batches. */
    static step_t step;
    static float logprobs[SEQUENCES * T];
    static double reference[2 * PAIRS];
    for (size_t first = 0; first < PAIRS; first += PAIRS_A_STEP) {
        fill(&step, first);
        OK(hz_trainer_logprobs(trainer, step.batches, MICROS, logprobs, SEQUENCES * T));
        sum_sequences(logprobs, reference + 2 * first);
    }

    int preferred = 0;
    for (size_t number = 0; number < STEPS; number++) {
        size_t first = number * PAIRS_A_STEP % PAIRS;
        dpo_t dpo = {reference + 2 * first, 0};
        hz_step_report_t report = HZ_STEP_REPORT_INIT;
        fill(&step, first);
        OK(hz_trainer_step_with_loss(trainer, step.batches, MICROS, LR, dpo_loss, &dpo, &report));
        step_agrees(&report, LOSS[number], GRAD_NORM[number]);
        printf("step %d: loss %.4f, margin above 0 in %d of %d pairs\n", (int)report.step, report.loss, dpo.preferred,
               PAIRS_A_STEP);
        preferred = number * PAIRS_A_STEP < PAIRS ? 0 : preferred + dpo.preferred;
    }
    CHECK(preferred == PAIRS); /* in the second epoch */
    weights_agree(trainer, argv[2], LR);
    OK(hz_trainer_close(trainer));
    return 0;
}
