/*
 * Direct preference optimisation (DPO: Rafailov et al. 2023, arXiv 2305.18290) of a tiny model, held against the same
 * in PyTorch. Usage: dpo MODEL TRAINED, two Hugging Face folders: where to begin, and where PyTorch arrived.
 *
 * THE LOSS. Of two answers to a prompt somebody has said which is better. DPO makes the chosen one more probable against
 * the rejected one than a frozen reference has them, which is the model before training (equation 7):
 *
 *     margin = beta * ((log p(chosen) - log ref(chosen)) - (log p(rejected) - log ref(rejected)))
 *     loss   = mean over the pairs of a step of  -log sigmoid(margin)
 *
 * log p(answer) is the sum over the answer's tokens of their log-probabilities after the prompt, so the derivative by
 * each of them is the same: for the chosen answer -beta * sigmoid(-margin) / pairs, for the rejected one the negative.
 * That is all hz_trainer_step_with_loss asks for.
 *
 * WHAT IT TAKES. One model: the reference's log-probabilities never change, so they are taken once, before training.
 *
 * LAYOUT. A sequence of T rows is a prompt, an answer, and padding; sequence 2k of a step has the chosen answer of pair k,
 * sequence 2k + 1 the rejected one. Row t has as its target the token at t + 1 if that belongs to the answer, else -100:
 * prompt and padding are not learned. Padding needs no mask of its own, since attention looks back only.
 */
#include "dpo_data.h"
#include "pytorch.h"

/* B sequences are a micro-batch; a step's log-probabilities come as one array over all its micro-batches, [MICROS, B, T],
 * so that a pair need not know in which one it is. */
enum { B = 4, SEQUENCES = 2 * PAIRS_A_STEP, MICROS = SEQUENCES / B, N = B * T };

typedef struct {
    int32_t tokens[SEQUENCES][T], targets[SEQUENCES][T];
    hz_batch_t batches[MICROS]; /* point into the arrays above */
} step_t;

static void lay_out(const text_t *prompt, const text_t *answer, int32_t *tokens, int32_t *targets) {
    size_t length = prompt->count + answer->count;
    CHECK(prompt->count > 0 && length <= T);
    memcpy(tokens, prompt->ids, prompt->count * sizeof *tokens);
    memcpy(tokens + prompt->count, answer->ids, answer->count * sizeof *tokens);
    for (size_t t = length; t < T; t++) {
        tokens[t] = 0; /* any token */
    }
    for (size_t t = 0; t < T; t++) {
        int learned = t + 1 >= prompt->count && t + 1 < length;
        targets[t] = learned ? tokens[t + 1] : -100;
    }
}

/* Pairs first .. first + PAIRS_A_STEP - 1. */
static void fill(step_t *step, size_t first) {
    for (size_t k = 0; k < PAIRS_A_STEP; k++) {
        lay_out(&DATA[first + k].prompt, &DATA[first + k].chosen, step->tokens[2 * k], step->targets[2 * k]);
        lay_out(&DATA[first + k].prompt, &DATA[first + k].rejected, step->tokens[2 * k + 1], step->targets[2 * k + 1]);
    }
    for (size_t micro = 0; micro < MICROS; micro++) {
        hz_batch_t batch = HZ_BATCH_INIT;
        batch.rows = N;
        batch.tokens = step->tokens[micro * B];
        batch.targets = step->targets[micro * B];
        step->batches[micro] = batch;
    }
}

/* log p of each sequence's answer. Rows without a target are 0 in `logprobs`, so the whole sequence may be summed. */
static void sum_sequences(const float *logprobs, double *sums) {
    for (size_t sequence = 0; sequence < SEQUENCES; sequence++) {
        sums[sequence] = 0.0;
        for (size_t t = 0; t < T; t++) {
            sums[sequence] += (double)logprobs[sequence * T + t];
        }
    }
}

/* What the loss needs beside the log-probabilities, and what it tells beside the loss. */
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
        for (size_t t = 0; t < T; t++) { /* rows without a target do not count, so they need not be left out */
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
    options.grad_dtype = HZ_DTYPE_F32; /* to be compared; bf16 does for training */
    options.beta1 = BETA1;
    options.beta2 = BETA2;
    options.eps = EPS;
    options.weight_decay = DECAY;
    options.clip = CLIP;
    OK(hz_trainer_open(&model, &options, &trainer));
    OK(hz_trainer_load_hf(trainer, argv[1]));

    /* The reference, of all pairs. The arrays are ours: the library has copied a batch when a call returns. */
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
        printf("step %d: loss %.4f, %d of %d pairs as they should be\n", (int)report.step, report.loss, dpo.preferred,
               PAIRS_A_STEP);
        preferred = number * PAIRS_A_STEP < PAIRS ? 0 : preferred + dpo.preferred;
    }
    CHECK(preferred == PAIRS); /* the second time round */
    weights_agree(trainer, argv[2], LR);
    OK(hz_trainer_close(trainer));
    return 0;
}
