/*
 * Group relative policy optimization (GRPO: Shao et al. 2024, arXiv 2402.03300) of a tiny model, compared with PyTorch.
 * Usage: grpo MODEL TRAINED, two Hugging Face folders: the initial model, and PyTorch's result.
 *
 * LOSS. Each round samples G completions of some prompts from the current model (the old policy) and assigns rewards.
 * The advantage of a completion is relative to its group, (r - mean(r)) / std(r), without a value model. Several
 * steps use the same completions (the negative of equation 3):
 *
 *     ratio = p(token) / old(token)
 *     loss  = - mean over completions of mean over their tokens of
 *               min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A) - beta * kl
 *     kl    = ref(token) / p(token) - log(ref(token) / p(token)) - 1        (equation 4; Schulman's k3 estimator:
 *             joschu.net/blog/kl-approx.html; nonnegative, an unbiased estimate of the KL divergence)
 *
 * With respect to a token's log-probability, kl has the derivative 1 - ref/p, and the first term has ratio * A, or 0
 * where the clipped term is the minimum.
 *
 * MEMORY. The model that is trained computes the old policy's log-probabilities, once per round. The reference needs
 * those of completions that do not exist before training, so a second trainer holds the frozen model.
 *
 * Completions and rewards are fixed here, to be equal in both programs. A real program samples and rewards in
 * take_round, with hz_trainer_logits or an inference engine.
 *
 * LAYOUT. Completions are short, so several are packed into a sequence: `starts` prevents attention between them and
 * restarts positions. Targets, log-probabilities and derivatives are indexed by row: [MICROS, B, T].
 */
#include "grpo_data.h"
#include "pytorch.h"

enum { B = 2, MICROS = 2, N = B * T, ROWS = MICROS * N, SAMPLES = GROUPS * GROUP_SIZE };

/* The completions of a round as micro-batches, and the inputs and outputs of the loss function. */
typedef struct {
    int32_t tokens[ROWS], targets[ROWS], starts[ROWS];
    hz_batch_t batches[MICROS]; /* point into the arrays above */
    struct {
        size_t first, count; /* rows first .. first + count - 1 have the completion's tokens as their targets */
        double advantage;
    } samples[SAMPLES];
    float old[ROWS], reference[ROWS]; /* log-probabilities */
    int moved, clipped;               /* in the last step: tokens with a ratio other than 1, and clipped tokens */
    double kl;                        /* in the last step: mean over completions of the mean over their tokens */
} round_t;

/* Writes a prompt and its completion into rows `row` .. of a sequence. Returns the number of rows. */
static size_t put(round_t *round, size_t row, const text_t *prompt, const text_t *completion) {
    size_t length = prompt->count + completion->count;
    for (size_t i = 0; i < length; i++) {
        round->tokens[row + i] = i < prompt->count ? prompt->ids[i] : completion->ids[i - prompt->count];
        round->starts[row + i] = (int32_t)(row % T);
    }
    for (size_t i = 0; i < completion->count; i++) {
        round->targets[row + prompt->count - 1 + i] = completion->ids[i];
    }
    return length;
}

/* Packs the completions one after the other, each within a sequence. */
static void pack(round_t *round, size_t number) {
    for (size_t row = 0; row < ROWS; row++) { /* padding, until overwritten */
        round->tokens[row] = 0;
        round->targets[row] = -100;
        round->starts[row] = (int32_t)(row % T);
    }
    size_t row = 0;
    for (size_t i = 0; i < SAMPLES; i++) {
        const text_t *prompt = &DATA[number][i].prompt, *completion = &DATA[number][i].completion;
        size_t length = prompt->count + completion->count;
        if (row % T + length > T) {
            row = (row / T + 1) * T;
        }
        CHECK(prompt->count > 0 && row + length <= ROWS);
        round->samples[i].first = row + prompt->count - 1;
        round->samples[i].count = completion->count;
        row += put(round, row, prompt, completion);
    }
    for (size_t micro = 0; micro < MICROS; micro++) {
        hz_batch_t batch = HZ_BATCH_INIT;
        batch.rows = N;
        batch.tokens = round->tokens + micro * N;
        batch.targets = round->targets + micro * N;
        batch.starts = round->starts + micro * N;
        round->batches[micro] = batch;
    }
}

/* Advantages relative to the group; 0 if all rewards of the group are equal. */
static void set_advantages(round_t *round, size_t number) {
    for (size_t group = 0; group < SAMPLES; group += GROUP_SIZE) {
        double mean = 0.0, variance = 0.0;
        for (size_t i = group; i < group + GROUP_SIZE; i++) {
            mean += DATA[number][i].reward / GROUP_SIZE;
        }
        for (size_t i = group; i < group + GROUP_SIZE; i++) {
            variance += (DATA[number][i].reward - mean) * (DATA[number][i].reward - mean) / GROUP_SIZE;
        }
        for (size_t i = group; i < group + GROUP_SIZE; i++) {
            double above = DATA[number][i].reward - mean;
            round->samples[i].advantage = variance > 0.0 ? above / sqrt(variance) : 0.0;
        }
    }
}

static void take_round(round_t *round, size_t number, hz_trainer_t *policy, hz_trainer_t *reference) {
    pack(round, number);
    set_advantages(round, number);
    OK(hz_trainer_logprobs(policy, round->batches, MICROS, round->old, ROWS));
    OK(hz_trainer_logprobs(reference, round->batches, MICROS, round->reference, ROWS));
}

static int32_t grpo_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    round_t *round = user;
    double loss = 0.0;
    CHECK(count == ROWS);
    round->moved = round->clipped = 0;
    round->kl = 0.0;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t first = round->samples[i].first, tokens = round->samples[i].count;
        double advantage = round->samples[i].advantage, share = 1.0 / (double)(SAMPLES * tokens);
        for (size_t row = first; row < first + tokens; row++) {
            double ratio = exp((double)logprobs[row] - (double)round->old[row]);
            double log_ratio = (double)round->reference[row] - (double)logprobs[row]; /* log(ref/p) */
            double kl = exp(log_ratio) - log_ratio - 1.0;
            int clipped = advantage >= 0.0 ? ratio > 1.0 + EPSILON : ratio < 1.0 - EPSILON;
            double bounded = !clipped ? ratio : advantage >= 0.0 ? 1.0 + EPSILON : 1.0 - EPSILON;
            loss -= share * (bounded * advantage - BETA * kl);
            dlogprobs[row] = (float)(-share * ((clipped ? 0.0 : ratio * advantage) - BETA * (1.0 - exp(log_ratio))));
            round->moved += ratio != 1.0;
            round->clipped += clipped;
            round->kl += share * kl;
        }
    }
    *out_loss = loss;
    return 0;
}

static hz_trainer_t *open_model(const char *folder, const hz_trainer_options_t *options) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_t *trainer = NULL;
    OK(hz_model_config_from_hf(folder, &model));
    OK(hz_trainer_open(&model, options, &trainer));
    OK(hz_trainer_load_hf(trainer, folder));
    return trainer;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL TRAINED\n", argv[0]);
        return 2;
    }
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    options.grad_dtype = HZ_DTYPE_F32; /* for the comparison; bf16 is enough for training */
    options.beta1 = BETA1;
    options.beta2 = BETA2;
    options.eps = EPS;
    options.weight_decay = DECAY;
    options.clip = CLIP;
    hz_trainer_t *policy = open_model(argv[1], &options);
    options.mode = HZ_MODE_COMPACT; /* never trained: the mode with the least memory */
    options.grad_dtype = HZ_DTYPE_BF16;
    hz_trainer_t *reference = open_model(argv[1], &options);

    static round_t round;
    int clipped = 0;
    for (size_t number = 0; number < ROUNDS; number++) {
        take_round(&round, number, policy, reference);
        for (size_t inner = 0; inner < INNER_STEPS; inner++) {
            size_t step = number * INNER_STEPS + inner;
            hz_step_report_t report = HZ_STEP_REPORT_INIT;
            OK(hz_trainer_step_with_loss(policy, round.batches, MICROS, LR, grpo_loss, &round, &report));
            step_agrees(&report, LOSS[step], GRAD_NORM[step]);
            /* In the first step of a round the policy equals the old policy bit for bit, because a step computes the
             * same log-probabilities as hz_trainer_logprobs; in the very first it equals the reference, too. */
            CHECK((round.moved == 0) == (inner == 0));
            CHECK((round.kl == 0.0) == (step == 0));
            clipped += round.clipped;
            printf("step %d: loss %.4f, %d tokens clipped, KL %.4f\n", (int)report.step, report.loss, round.clipped,
                   round.kl);
        }
    }
    CHECK(clipped > 0);
    weights_agree(policy, argv[2], LR);
    OK(hz_trainer_close(policy));
    OK(hz_trainer_close(reference));
    return 0;
}
