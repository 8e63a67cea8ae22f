/*
 * Errors that a caller of the C interface can cause, and calls that need no training: names, log, plans, structs of
 * other versions. After each error the outputs are unchanged and the trainer is usable.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>

#include "small.h"

/* ---- log ---- */

typedef struct {
    int messages, infos, warnings;
    hz_status_t inner;
} log_t;

static void on_message(hz_log_level_t level, const char *message, void *user) {
    log_t *log = user;
    log->messages++;
    log->infos += level == HZ_LOG_INFO && strstr(message, "parameters") != NULL;
    log->warnings += level == HZ_LOG_WARNING && strstr(message, "(host_mem; the machine reports") != NULL;
    printf("message: %s\n", message);
    log->inner = hz_set_log_callback(NULL, NULL);
}

static void test_names_and_log(void) {
    CHECK(strcmp(hz_version(), HZ_VERSION) == 0);
    CHECK(hz_abi_version() == HZ_ABI_VERSION);
    CHECK(strcmp(hz_status_name(HZ_STATUS_STEP_PARTIAL), "HZ_STATUS_STEP_PARTIAL") == 0);
    CHECK(strcmp(hz_status_name(12), "HZ_STATUS_UNKNOWN") == 0);
    CHECK(strcmp(hz_last_error(), "") == 0);

    log_t seen = {0, 0, 0, HZ_STATUS_OK};
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_trainer_t *trainer = NULL;
    options.host_mem = UINT64_C(1) << 50;
    OK(hz_set_log_callback(on_message, &seen));
    OK(hz_trainer_open(&model, &options, &trainer));
    OK(hz_trainer_close(trainer));
    OK(hz_set_log_callback(NULL, NULL));
    CHECK(seen.infos == 1 && seen.warnings == 1 && seen.inner == HZ_STATUS_INVALID_STATE);
    int before = seen.messages;
    OK(hz_trainer_close(open_small()));
    CHECK(seen.messages == before);
}

/* ---- plan ---- */

static void test_plan(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_plan_t *plan = NULL;
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_plan_admit(plan));
    OK(hz_plan_summary(plan, &summary));
    /* Embedding and LM head; two norms and seven matrices per layer; the final norm. */
    uint64_t layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160 + 2 * 64;
    CHECK(summary.parameters == 2 * 256 * 64 + 2 * layer + 64);
    CHECK(summary.host_bytes == summary.host_wire_bytes + summary.host_state_bytes);
    CHECK(summary.host_bytes >= 14 * summary.parameters);
    CHECK(summary.ram_bytes == summary.host_bytes + summary.device_bytes);
    CHECK(summary.adam_when == HZ_ADAM_WHEN_AFTER_NORM && summary.logits_chunk > 0);

    const char *json = NULL;
    OK(hz_plan_json(plan, &json));
    char figure[64];
    snprintf(figure, sizeof figure, "\"device_bytes\":%" PRIu64, summary.device_bytes);
    CHECK(strstr(json, figure) != NULL && strstr(json, "\"device_regions\":[") != NULL);

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", hz_plan_admit(NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", hz_plan_summary(NULL, &summary));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_summary is NULL", hz_plan_summary(plan, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", hz_plan_json(NULL, &json));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_json is NULL", hz_plan_json(plan, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", hz_plan_trace(NULL, "x"));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "path is NULL", hz_plan_trace(plan, NULL));
    REFUSED(HZ_STATUS_INVALID_STATE, "hz_plan_search", hz_plan_trace(plan, "x"));
    hz_plan_close(plan);
    hz_plan_close(NULL);

    /* A plan that does not fit can be opened, but is not admitted. */
    options.device_mem = 1000;
    OK(hz_plan_open(&model, &options, &plan));
    REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "1000 bytes", hz_plan_admit(plan));
    hz_plan_close(plan);

    hz_plan_t *untouched = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_plan is NULL", hz_plan_open(&model, NULL, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model is NULL", hz_plan_open(NULL, NULL, &untouched));
    CHECK(untouched == NULL);
}

/* ---- structs of other versions ---- */

static void test_struct_sizes(void) {
    hz_plan_t *plan = NULL;
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_model_config_t model = small_model();

    /* An older program: its struct ends after slabs, so the default of clip is used. */
    hz_trainer_options_t old = small_options();
    old.struct_size = offsetof(hz_trainer_options_t, device_mem);
    old.device_mem = 1;
    old.clip = -5.0;
    OK(hz_plan_open(&model, &old, &plan));
    OK(hz_plan_admit(plan));
    summary.struct_size = offsetof(hz_plan_summary_t, host_bytes);
    summary.host_bytes = 4242;
    OK(hz_plan_summary(plan, &summary));
    CHECK(summary.device_bytes > 0 && summary.host_bytes == 4242);
    CHECK(summary.struct_size == offsetof(hz_plan_summary_t, host_bytes));
    hz_plan_close(plan);

    /* A newer program: an unknown field must be zero. */
    struct {
        hz_trainer_options_t known;
        uint64_t unknown;
    } newer = {HZ_TRAINER_OPTIONS_INIT, 0};
    newer.known.struct_size = sizeof newer;
    OK(hz_plan_open(&model, &newer.known, &plan));
    hz_plan_close(plan);
    newer.unknown = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "newer", hz_plan_open(&model, &newer.known, &plan));

    /* Sizes of no version. */
    const uint32_t wrong[] = {0, 3, 5, sizeof(hz_trainer_options_t) - 1, 5000, UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        old = small_options();
        old.struct_size = wrong[i];
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size", hz_plan_open(&model, &old, &plan));
    }
    model.struct_size = 7;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model->struct_size is 7", hz_plan_open(&model, NULL, &plan));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size", hz_model_config_from_preset("tiny", &model));
}

/* ---- errors of opening ---- */

static void test_opening(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_trainer_t *trainer = NULL;

    REFUSED(HZ_STATUS_NOT_FOUND, "tiny", hz_model_config_from_preset("huge", &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "name is NULL", hz_model_config_from_preset(NULL, &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "not UTF-8", hz_model_config_from_preset("\xff\xfe", &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_config is NULL", hz_model_config_from_preset("tiny", NULL));
    REFUSED(HZ_STATUS_NOT_FOUND, "no-such-folder", hz_model_config_from_hf("no-such-folder", &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder is NULL", hz_model_config_from_hf(NULL, &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "empty", hz_model_config_from_hf("", &model));
    CHECK(model.hidden_size == 64); /* outputs are unchanged */

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_trainer is NULL", hz_trainer_open(&model, &options, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model is NULL", hz_trainer_open(NULL, &options, &trainer));

    struct {
        hz_status_t status;
        const char *word;
        hz_model_config_t model;
        hz_trainer_options_t options;
    } cases[20];
    size_t count = 0;
#define CASE(status_, word_, change) \
    do { \
        CHECK(count < sizeof cases / sizeof *cases); \
        model = small_model(); \
        options = small_options(); \
        change; \
        cases[count].status = (status_); \
        cases[count].word = (word_); \
        cases[count].model = model; \
        cases[count].options = options; \
        count++; \
    } while (0)
    CASE(HZ_STATUS_INVALID_ARGUMENT, "num_key_value_heads", model.num_key_value_heads = 3);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "num_attention_heads", model.num_attention_heads = 5);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "vocab_size", model.vocab_size = 0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "num_hidden_layers", model.num_hidden_layers = UINT64_MAX);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "rope_theta", model.rope_theta = NAN);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "tie_word_embeddings", model.tie_word_embeddings = 2);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "micros_max is 0", options.micros_max = 0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "sequence_length is 257", options.sequence_length = 257);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "mode", options.mode = 4);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "grad_dtype", options.grad_dtype = 0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "device", options.device = 9);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "clip is -1", options.clip = -1.0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "clip = 1 needs", options.mode = HZ_MODE_STREAMED);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "beta1", options.beta1 = 1.5);
    CASE(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "1000 bytes", options.device_mem = 1000);
    CASE(HZ_STATUS_OUT_OF_HOST_MEMORY, "(host_mem; the machine", options.host_mem = 1000);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "sequences × sequence_length", options.sequences = UINT64_MAX);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "weight_slots is 1", options.weight_slots = 1);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "adam_when = HZ_ADAM_WHEN_AFTER_NORM",
         options.adam_when = HZ_ADAM_WHEN_UNDER_BACKWARD);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "threads is 1000000", options.threads = 1000000);
#undef CASE
    for (size_t i = 0; i < count; i++) {
        REFUSED(cases[i].status, cases[i].word, hz_trainer_open(&cases[i].model, &cases[i].options, &trainer));
        CHECK(trainer == NULL);
    }
}

/* ---- errors of an open trainer ---- */

static void test_misuse(void) {
    hz_trainer_t *trainer = open_small();
    static rows_t rows;
    fill(&rows);
    hz_batch_t good = batch_of(&rows), bad;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_eval_report_t eval = HZ_EVAL_REPORT_INIT;
    report.loss = -1.0;

    bad = good;
    bad.rows = N - 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT,
            words("batch->rows is %d and batch->sequence_length is %d; a batch of this trainer has 1 … %d sequences",
                  N - 1, T, B),
            hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.rows = UINT64_MAX;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->tokens cannot have", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.tokens = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->tokens is NULL", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.targets = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->targets is NULL", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.reserved = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->reserved is 1", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.struct_size = 9;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->struct_size is 9", hz_trainer_accumulate(trainer, &bad));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch is NULL", hz_trainer_accumulate(trainer, NULL));

    enum { WRONG = T + 2 };
    int32_t token = rows.tokens[WRONG], target = rows.targets[WRONG];
    rows.tokens[WRONG] = V;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("batch->tokens[%d] (sequence 1, position 2) is 256", WRONG),
            hz_trainer_accumulate(trainer, &good));
    rows.tokens[WRONG] = token;
    rows.targets[WRONG] = -1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("batch->targets[%d] (sequence 1, position 2) is -1", WRONG),
            hz_trainer_accumulate(trainer, &good));
    rows.targets[WRONG] = target;
    bad = good;
    bad.weights = rows.weights;
    rows.weights[3] = -1.0f;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->weights[3] (sequence 0, position 3) is -1",
            hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.starts = rows.starts;
    rows.starts[5] = 3;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->starts[5] (sequence 0, position 5) is 3; it must be 5 or 0",
            hz_trainer_accumulate(trainer, &bad));

    static const int32_t announced[] = {1, -100};
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens[1] is -100", hz_trainer_announce(trainer, announced, 2));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens is NULL", hz_trainer_announce(trainer, NULL, 2));
    OK(hz_trainer_announce(trainer, NULL, 0));
    bad = good;
    bad.rows = 0;
    bad.tokens = bad.targets = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch->rows is 0", hz_trainer_accumulate(trainer, &bad));

    REFUSED(HZ_STATUS_INVALID_STATE, "call hz_trainer_accumulate", hz_trainer_update(trainer, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 0", hz_trainer_step(trainer, &good, 0, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches is NULL", hz_trainer_step(trainer, NULL, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_step(trainer, &good, 1, 1e-3, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 0", hz_trainer_eval(trainer, &good, 0, &eval));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_eval(trainer, &good, 1, NULL));
    hz_batch_t mixed[2] = {good, good};
    mixed[1].struct_size = 4;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches[1].struct_size is 4",
            hz_trainer_step(trainer, mixed, 2, 1e-3, &report));
    rows_t other = rows;
    other.targets[7] = 300;
    hz_batch_t second[2] = {good, batch_of(&other)};
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches[1].targets[7] (sequence 0, position 7) is 300; it must be 0 … 255",
            hz_trainer_step(trainer, second, 2, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches[1].targets[7]", hz_trainer_eval(trainer, second, 2, &eval));
    second[1].tokens = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches[1].tokens is NULL", hz_trainer_eval(trainer, second, 2, &eval));
    hz_batch_t three[3] = {good, good, good};
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 3; it must be 1 … micros_max, 2",
            hz_trainer_step(trainer, three, 3, 1e-3, &report));

    /* The sum of the weights divides the loss in f32. */
    rows_t light = rows;
    for (size_t n = 0; n < N; n++) {
        light.weights[n] = 0.0f;
    }
    bad = batch_of(&light);
    bad.weights = light.weights;
    REFUSED(HZ_STATUS_NO_TARGET, "has weight 0", hz_trainer_step(trainer, &bad, 1, 1e-3, &report));
    const float sums[] = {1e-39f, 1e38f};
    for (size_t i = 0; i < 2; i++) {
        light.weights[0] = sums[i];
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, "it must be at least 3e-39 and at most 8e37",
                hz_trainer_step(trainer, &bad, 1, 1e-3, &report));
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, "the weights of the targets sum to ",
                hz_trainer_eval(trainer, &bad, 1, &eval));
    }
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lr is 1e39; it must be finite, at least 0 and at most 3.4e38 (f32)",
            hz_trainer_step(trainer, &good, 1, 1e39, &report));

    /* A step without targets accumulates nothing; an update keeps what is accumulated, until it is dropped. */
    static rows_t none;
    fill(&none);
    for (size_t n = 0; n < N; n++) {
        none.targets[n] = -100;
    }
    bad = batch_of(&none);
    REFUSED(HZ_STATUS_NO_TARGET, "ignored", hz_trainer_step(trainer, &bad, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_NO_TARGET, "evaluation is ignored (-100) or has weight 0: there is nothing to evaluate",
            hz_trainer_eval(trainer, &bad, 1, &eval));
    OK(hz_trainer_accumulate(trainer, &bad));
    REFUSED(HZ_STATUS_NO_TARGET, "ignored", hz_trainer_update(trainer, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_STATE, "discard", hz_trainer_eval(trainer, &good, 1, &eval));
    OK(hz_trainer_discard(trainer));
    OK(hz_trainer_eval(trainer, &good, 1, &eval));

    /* After an invalid learning rate or report, micro-batches stay accumulated; then other calls fail. */
    OK(hz_trainer_accumulate(trainer, &good));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lr is NaN", hz_trainer_update(trainer, NAN, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_update(trainer, 1e-3, NULL));
    hz_step_report_t unset = HZ_STEP_REPORT_INIT;
    unset.struct_size = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size is 1", hz_trainer_update(trainer, 1e-3, &unset));
    REFUSED(HZ_STATUS_INVALID_STATE, "1 micro-batch is accumulated", hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_STATE, "call hz_trainer_update or hz_trainer_discard first",
            hz_trainer_eval(trainer, &good, 1, &eval));
    OK(hz_trainer_accumulate(trainer, &good));
    REFUSED(HZ_STATUS_INVALID_STATE, "2 micro-batches are accumulated, the most that micros_max allows",
            hz_trainer_accumulate(trainer, &good));
    CHECK(report.loss == -1.0);
    OK(hz_trainer_update(trainer, 1e-3, &report));
    CHECK(report.step == 1 && report.micros == 2 && report.loss > 0.0);

    float logits[V];
    int32_t prompt[T + 1] = {0};
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 0", hz_trainer_logits(trainer, NULL, 0, logits, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("count is %d", T + 1),
            hz_trainer_logits(trainer, prompt, T + 1, logits, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "logits_count is 255", hz_trainer_logits(trainer, prompt, 1, logits, V - 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "logits is NULL", hz_trainer_logits(trainer, prompt, 1, NULL, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens is NULL", hz_trainer_logits(trainer, NULL, 1, logits, V));
    prompt[0] = -7;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens[0] is -7", hz_trainer_logits(trainer, prompt, 1, logits, V));
    prompt[0] = 7;
    OK(hz_trainer_logits(trainer, prompt, T, logits, V));

    /* A weight whose bf16 is infinite: the step fails and changes nothing. */
    static float norm[64], poisoned[64], now[64];
    const char *name = "model.norm.weight";
    OK(hz_trainer_read_tensor(trainer, name, norm, 64));
    memcpy(poisoned, norm, sizeof norm);
    poisoned[0] = NAN;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "element 0", hz_trainer_write_tensor(trainer, name, poisoned, 64));
    poisoned[0] = FLT_MAX;
    OK(hz_trainer_write_tensor(trainer, name, poisoned, 64));
    REFUSED(HZ_STATUS_NON_FINITE, "finite", hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    OK(hz_trainer_read_tensor(trainer, name, now, 64));
    CHECK(memcmp(now, poisoned, sizeof now) == 0);
    OK(hz_trainer_write_tensor(trainer, name, norm, 64));
    OK(hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    CHECK(report.step == 2);

    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
    hz_tensor_options_t tuned = HZ_TENSOR_OPTIONS_INIT;
    size_t count = 0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_stats is NULL", hz_trainer_stats(trainer, NULL));
    OK(hz_trainer_close(trainer));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "it was closed", hz_trainer_sync(trainer));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "it was closed", hz_trainer_close(trainer));

    const char *word = "trainer is NULL";
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_init_weights(NULL, 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_load_hf(NULL, "x"));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_export_hf(NULL, "x", HZ_DTYPE_F32));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_accumulate(NULL, &good));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_update(NULL, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_step(NULL, &good, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_eval(NULL, &good, 1, &eval));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_logits(NULL, prompt, 1, logits, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_sync(NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_read_tensor(NULL, name, now, 64));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_write_tensor(NULL, name, now, 64));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_read_gradient(NULL, name, now, 64));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_set_tensor_options(NULL, name, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_tensor_options(NULL, name, &tuned));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_stats(NULL, &stats));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_trace(NULL, "x"));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_model(NULL, &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_tensor_count(NULL, &count));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_tensor(NULL, 0, &tensor));
}

int main(void) {
    test_names_and_log();
    test_plan();
    test_struct_sizes();
    test_opening();
    test_misuse();
    printf("%d checks\n", checks);
    return 0;
}
