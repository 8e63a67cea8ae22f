/*
 * Trains a small byte-level model through the C ABI until its loss has clearly fallen, then walks every call
 * and every error a caller can meet. Usage: train FOLDER (an empty one, for files).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "horizon.h"

enum { B = 4, T = 48, N = B * T, V = 256, MICROS = 2, STEPS = 60 };

static const char TEXT[] =
    "The store is in host memory and the device is a place that layers pass through. A layer comes up, every "
    "micro-batch of the step goes through it, and it is gone. On the way back it comes up again, its gradient "
    "leaves, and the optimizer does its work where the weights live. Nothing waits for what it does not need. ";

static int checks = 0;

#define CHECK(condition) \
    do { \
        checks++; \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, hz_last_error()); \
            exit(1); \
        } \
    } while (0)

#define OK(call) CHECK((call) == HZ_STATUS_OK)

/* The call gives this status, and a message that mentions `word`. */
#define REFUSED(status, word, call) \
    do { \
        hz_status_t got = (call); \
        checks++; \
        if (got != (status) || strstr(hz_last_error(), (word)) == NULL) { \
            fprintf(stderr, "%s:%d: %s\n  wanted %s and \"%s\"\n  got    %s: %s\n", __FILE__, __LINE__, #call, \
                    hz_status_name(status), (word), hz_status_name(got), hz_last_error()); \
            exit(1); \
        } \
    } while (0)

/* ---- data ---- */

typedef struct {
    int32_t tokens[N], targets[N], starts[N];
    float weights[N];
} rows_t;

static uint32_t lcg = 12345;

static void fill(rows_t *rows) {
    const size_t length = sizeof TEXT - 1;
    for (size_t b = 0; b < B; b++) {
        lcg = lcg * 1664525u + 1013904223u;
        size_t from = (lcg >> 8) % length;
        for (size_t t = 0; t < T; t++) {
            size_t n = b * T + t;
            rows->tokens[n] = (unsigned char)TEXT[(from + t) % length];
            rows->targets[n] = (unsigned char)TEXT[(from + t + 1) % length];
            rows->weights[n] = 1.0f;
            rows->starts[n] = 0;
        }
    }
}

static hz_batch_t batch_of(const rows_t *rows) {
    hz_batch_t batch = HZ_BATCH_INIT;
    batch.rows = N;
    batch.tokens = rows->tokens;
    batch.targets = rows->targets;
    return batch;
}

static hz_model_config_t small_model(void) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    model.vocab_size = V;
    model.hidden_size = 64;
    model.intermediate_size = 160;
    model.num_hidden_layers = 2;
    model.num_attention_heads = 4;
    model.num_key_value_heads = 2;
    model.max_position_embeddings = 256;
    return model;
}

static hz_trainer_options_t small_options(void) {
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    options.threads = 2;
    return options;
}

static hz_trainer_t *open_small(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    options.tracing = 1;
    hz_trainer_t *trainer = NULL;
    OK(hz_trainer_open(&model, &options, &trainer));
    CHECK(trainer != NULL);
    OK(hz_trainer_init(trainer, 7));
    return trainer;
}

/* ---- log ---- */

typedef struct {
    int messages, infos;
    hz_status_t inner;
} heard_t;

static void hear(int32_t level, const char *message, void *user) {
    heard_t *heard = user;
    heard->messages++;
    heard->infos += level == HZ_LOG_INFO && strstr(message, "parameters") != NULL;
    heard->inner = hz_set_log_callback(NULL, NULL);
}

static void test_names_and_log(void) {
    CHECK(strcmp(hz_version(), HZ_VERSION) == 0);
    CHECK(hz_abi_version() == HZ_ABI_VERSION);
    CHECK(strcmp(hz_status_name(HZ_STATUS_STEP_PARTIAL), "HZ_STATUS_STEP_PARTIAL") == 0);
    CHECK(strcmp(hz_status_name(12), "HZ_STATUS_UNKNOWN") == 0);
    CHECK(strcmp(hz_last_error(), "") == 0);

    heard_t heard = {0, 0, HZ_STATUS_OK};
    OK(hz_set_log_callback(hear, &heard));
    OK(hz_trainer_close(open_small()));
    OK(hz_set_log_callback(NULL, NULL));
    CHECK(heard.infos == 1 && heard.inner == HZ_STATUS_INVALID_STATE);
    int before = heard.messages;
    OK(hz_trainer_close(open_small()));
    CHECK(heard.messages == before);
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
    /* Embedding and head, two norms and seven matrices a layer, the final norm. */
    uint64_t layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160 + 2 * 64;
    CHECK(summary.parameters == 2 * 256 * 64 + 2 * layer + 64);
    CHECK(summary.host_bytes == summary.host_wire_bytes + summary.host_state_bytes);
    CHECK(summary.host_bytes >= 14 * summary.parameters);
    CHECK(summary.ram_bytes == summary.host_bytes + summary.device_bytes);
    CHECK(summary.adam_when == HZ_ADAM_AFTER_NORM && summary.logits_chunk > 0);

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
    hz_plan_close(plan);
    hz_plan_close(NULL);

    /* A plan for more than this machine has can be made, and is not admitted. */
    options.device_mem = 1000;
    OK(hz_plan_open(&model, &options, &plan));
    REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "1000 bytes", hz_plan_admit(plan));
    hz_plan_close(plan);

    hz_plan_t *untouched = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_plan is NULL", hz_plan_open(&model, NULL, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model is NULL", hz_plan_open(NULL, NULL, &untouched));
    CHECK(untouched == NULL);
}

/* ---- structs of other ages ---- */

static void test_struct_sizes(void) {
    hz_plan_t *plan = NULL;
    hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
    hz_model_config_t model = small_model();

    /* An older program: its struct ends behind slabs, and clip is what the library says. */
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

    /* A newer program: a field the library does not know may be there, but not set. */
    struct {
        hz_trainer_options_t known;
        uint64_t unknown;
    } newer = {HZ_TRAINER_OPTIONS_INIT, 0};
    newer.known.struct_size = sizeof newer;
    OK(hz_plan_open(&model, &newer.known, &plan));
    hz_plan_close(plan);
    newer.unknown = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "newer", hz_plan_open(&model, &newer.known, &plan));

    /* Sizes that no version has. */
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

/* ---- what cannot be opened ---- */

static void test_refusals(void) {
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
    CHECK(model.hidden_size == 64); /* outputs stay as they were */

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_trainer is NULL", hz_trainer_open(&model, &options, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "model is NULL", hz_trainer_open(NULL, &options, &trainer));

    struct {
        hz_status_t status;
        const char *word;
        hz_model_config_t model;
        hz_trainer_options_t options;
    } cases[16];
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
    CASE(HZ_STATUS_INVALID_ARGUMENT, "0 micro-batches", options.micros_max = 0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "257", options.sequence_length = 257);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "mode", options.mode = 3);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "grad_dtype", options.grad_dtype = 0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "device", options.device = 9);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "clip", options.clip = -1.0);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "clip", options.mode = HZ_MODE_STREAMED);
    CASE(HZ_STATUS_INVALID_ARGUMENT, "beta1", options.beta1 = 1.5);
    CASE(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "1000 bytes", options.device_mem = 1000);
    CASE(HZ_STATUS_OUT_OF_HOST_MEMORY, "host memory", options.host_mem = 1000);
#undef CASE
    for (size_t i = 0; i < count; i++) {
        REFUSED(cases[i].status, cases[i].word, hz_trainer_open(&cases[i].model, &cases[i].options, &trainer));
        CHECK(trainer == NULL);
    }
}

/* ---- training ---- */

static float *read_all(hz_trainer_t *trainer, size_t *out_count) {
    size_t tensors = 0, total = 0;
    OK(hz_trainer_tensor_count(trainer, &tensors));
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_t tensor = HZ_TENSOR_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        total += (size_t)tensor.elements;
    }
    float *values = malloc(total * sizeof *values);
    CHECK(values != NULL);
    size_t at = 0;
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_t tensor = HZ_TENSOR_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        OK(hz_trainer_read_tensor(trainer, tensor.name, values + at, (size_t)tensor.elements));
        at += (size_t)tensor.elements;
    }
    *out_count = total;
    return values;
}

static void test_training(void) {
    hz_trainer_t *whole = open_small(), *parts = open_small();
    hz_step_report_t a = HZ_STEP_REPORT_INIT, b = HZ_STEP_REPORT_INIT;
    hz_eval_report_t before = HZ_EVAL_REPORT_INIT, after = HZ_EVAL_REPORT_INIT;
    static rows_t rows[MICROS], held_out;
    fill(&held_out);
    hz_batch_t probe = batch_of(&held_out);
    OK(hz_trainer_eval(whole, &probe, 1, &before));
    CHECK(before.targets == N && before.micros == 1);
    CHECK(fabs(before.loss - log(V)) < 0.5); /* fresh weights know nothing */

    for (int step = 1; step <= STEPS; step++) {
        hz_batch_t batches[MICROS];
        for (int micro = 0; micro < MICROS; micro++) {
            fill(&rows[micro]);
            batches[micro] = batch_of(&rows[micro]);
        }
        double lr = 3e-3;
        OK(hz_trainer_step(whole, batches, MICROS, lr, &a));
        CHECK(a.step == (uint64_t)step && a.tokens == MICROS * N && a.targets == MICROS * N && a.micros == MICROS);
        CHECK(isfinite(a.loss) && a.grad_norm > 0.0);
        if (step <= 5) { /* the same by hand, bit for bit */
            OK(hz_trainer_accumulate(parts, &batches[0]));
            OK(hz_trainer_accumulate(parts, &batches[1]));
            OK(hz_trainer_update(parts, lr, &b));
            CHECK(memcmp(&a, &b, sizeof a) == 0);
        }
        if (step == 5) {
            size_t ours = 0, theirs = 0;
            float *one = read_all(whole, &ours), *other = read_all(parts, &theirs);
            CHECK(ours == theirs && memcmp(one, other, ours * sizeof *one) == 0);
            free(one);
            free(other);
        }
    }
    OK(hz_trainer_eval(whole, &probe, 1, &after));
    printf("loss %.3f -> %.3f in %d steps\n", before.loss, after.loss, STEPS);
    CHECK(after.loss < 0.6 * before.loss);

    hz_stats_t stats = HZ_STATS_INIT;
    OK(hz_trainer_stats(whole, &stats));
    CHECK(stats.steps == STEPS && stats.tokens == (uint64_t)STEPS * MICROS * N && stats.threads == 2);
    CHECK(stats.device_bytes > 0 && stats.host_bytes > 0);

    /* The model has learnt that "Th" wants an "e". */
    float logits[V];
    const int32_t prompt[] = {'.', ' ', 'T', 'h'};
    OK(hz_trainer_logits(whole, prompt, 4, logits, V));
    int best = 0;
    for (int id = 0; id < V; id++) {
        best = logits[id] > logits[best] ? id : best;
    }
    printf("after \". Th\" comes '%c'\n", best);
    OK(hz_trainer_sync(whole));
    OK(hz_trainer_close(whole));
    OK(hz_trainer_close(parts));
    OK(hz_trainer_close(NULL));
}

/* Weights of 0 and ignored targets count the same; a document bound changes what is seen. */
static void test_batches(void) {
    hz_trainer_t *trainer = open_small();
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_eval_report_t plain = HZ_EVAL_REPORT_INIT, ignored = HZ_EVAL_REPORT_INIT, weighed = HZ_EVAL_REPORT_INIT;
    hz_eval_report_t bound = HZ_EVAL_REPORT_INIT;
    OK(hz_trainer_eval(trainer, &batch, 1, &plain));

    batch.starts = rows.starts;
    for (size_t n = 0; n < N; n++) {
        rows.starts[n] = n % T < T / 2 ? 0 : T / 2;
    }
    OK(hz_trainer_eval(trainer, &batch, 1, &bound));
    CHECK(bound.loss != plain.loss && bound.targets == N);
    batch.starts = NULL;

    batch.weights = rows.weights;
    for (size_t n = 0; n < N; n += 2) {
        rows.weights[n] = 0.0f;
    }
    OK(hz_trainer_eval(trainer, &batch, 1, &weighed));
    batch.weights = NULL;
    for (size_t n = 0; n < N; n += 2) {
        rows.targets[n] = -100;
    }
    OK(hz_trainer_eval(trainer, &batch, 1, &ignored));
    CHECK(ignored.targets == N / 2 && ignored.loss == weighed.loss && ignored.loss != plain.loss);
    OK(hz_trainer_close(trainer));
}

/* ---- tensors ---- */

static void test_tensors(void) {
    hz_trainer_t *trainer = open_small();
    const char *name = "model.layers.1.self_attn.k_proj.weight";
    enum { ELEMENTS = 32 * 64 };
    static float out[ELEMENTS + 1], in[ELEMENTS];

    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    OK(hz_trainer_model(trainer, &model));
    CHECK(model.head_dim == 16 && model.num_key_value_heads == 2);

    size_t count = 0, found = 0;
    OK(hz_trainer_tensor_count(trainer, &count));
    CHECK(count == 3 + 2 * 9);
    const char *first = NULL;
    for (size_t i = 0; i < count; i++) {
        hz_tensor_t tensor = HZ_TENSOR_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        first = i == 0 ? tensor.name : first;
        if (strcmp(tensor.name, name) == 0) {
            found++;
            CHECK(tensor.rank == 2 && tensor.shape[0] == 32 && tensor.shape[1] == 64 && tensor.shape[2] == 0);
            CHECK(tensor.elements == ELEMENTS);
        }
    }
    CHECK(found == 1 && strcmp(first, "model.embed_tokens.weight") == 0);

    /* Every f32 survives, bit for bit. */
    for (size_t i = 0; i < ELEMENTS; i++) {
        in[i] = (float)((double)i * 1e-7 - 3.0 / (double)(i + 1));
    }
    out[ELEMENTS] = 99.0f;
    OK(hz_trainer_write_tensor(trainer, name, in, ELEMENTS));
    OK(hz_trainer_read_tensor(trainer, name, out, ELEMENTS));
    CHECK(memcmp(in, out, sizeof in) == 0 && out[ELEMENTS] == 99.0f);

    OK(hz_trainer_read_gradient(trainer, name, out, ELEMENTS));
    CHECK(out[0] == 0.0f && out[ELEMENTS - 1] == 0.0f);
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    OK(hz_trainer_step(trainer, &batch, 1, 0.0, &report));
    OK(hz_trainer_read_gradient(trainer, name, out, ELEMENTS));
    double squares = 0.0;
    for (size_t i = 0; i < ELEMENTS; i++) {
        squares += (double)out[i] * (double)out[i];
    }
    CHECK(squares > 0.0 && sqrt(squares) <= report.grad_norm);
    OK(hz_trainer_read_tensor(trainer, name, out, ELEMENTS)); /* a learning rate of 0 moves nothing */
    CHECK(memcmp(in, out, sizeof in) == 0);

    out[0] = 1234.5f;
    REFUSED(HZ_STATUS_NOT_FOUND, "k_prog", hz_trainer_read_tensor(trainer, "model.k_prog", out, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "2049", hz_trainer_read_tensor(trainer, name, out, ELEMENTS + 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "2047", hz_trainer_write_tensor(trainer, name, in, ELEMENTS - 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "0 were given", hz_trainer_read_gradient(trainer, name, out, 0));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "no memory holds them", hz_trainer_read_tensor(trainer, name, out, SIZE_MAX));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "not aligned",
            hz_trainer_write_tensor(trainer, name, (const float *)(const void *)((const char *)in + 1), 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_read_tensor(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_write_tensor(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_read_gradient(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "name is NULL", hz_trainer_read_tensor(trainer, NULL, out, ELEMENTS));
    CHECK(out[0] == 1234.5f);

    hz_tensor_t tensor = HZ_TENSOR_INIT;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "21 tensors", hz_trainer_tensor(trainer, count, &tensor));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_tensor is NULL", hz_trainer_tensor(trainer, 0, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_count is NULL", hz_trainer_tensor_count(trainer, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_config is NULL", hz_trainer_model(trainer, NULL));
    CHECK(tensor.name == NULL);
    OK(hz_trainer_close(trainer));
}

/* ---- files ---- */

static void path_in(const char *folder, const char *name, char *out, size_t size) {
    int length = snprintf(out, size, "%s/%s", folder, name);
    CHECK(length > 0 && (size_t)length < size);
}

static void test_files(const char *folder) {
    hz_trainer_t *trainer = open_small();
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));

    char path[1024];
    path_in(folder, "trace.json", path, sizeof path);
    OK(hz_trainer_trace(trainer, path));
    OK(hz_trainer_trace(trainer, path)); /* replaces */
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    static char trace[1 << 20];
    size_t length = fread(trace, 1, sizeof trace - 1, file);
    CHECK(fclose(file) == 0);
    trace[length] = '\0';
    CHECK(strstr(trace, "\"ph\"") != NULL && strstr(trace, "compute") != NULL && strstr(trace, "h2d") != NULL);
    path_in(folder, "no/such/trace.json", path, sizeof path);
    REFUSED(HZ_STATUS_NOT_FOUND, "trace.json", hz_trainer_trace(trainer, path));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "path is NULL", hz_trainer_trace(trainer, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "empty", hz_trainer_trace(trainer, ""));

    path_in(folder, "exported", path, sizeof path);
    OK(hz_trainer_export_hf(trainer, path, HZ_DTYPE_F32));
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    OK(hz_model_config_from_hf(path, &model));
    CHECK(model.hidden_size == 64 && model.num_key_value_heads == 2 && model.tie_word_embeddings == 0);
    hz_trainer_t *loaded = NULL;
    OK(hz_trainer_open(&model, NULL, &loaded));
    OK(hz_trainer_load_hf(loaded, path));
    size_t ours = 0, theirs = 0;
    float *one = read_all(trainer, &ours), *other = read_all(loaded, &theirs);
    CHECK(ours == theirs && memcmp(one, other, ours * sizeof *one) == 0);
    free(one);
    free(other);
    REFUSED(HZ_STATUS_INVALID_STATE, "tracing", hz_trainer_trace(loaded, path)); /* it was opened without */
    OK(hz_trainer_close(loaded));

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "dtype", hz_trainer_export_hf(trainer, path, 77));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder is NULL", hz_trainer_export_hf(trainer, NULL, HZ_DTYPE_F32));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder is NULL", hz_trainer_load_hf(trainer, NULL));
    REFUSED(HZ_STATUS_NOT_FOUND, "config.json", hz_trainer_load_hf(trainer, folder));

    hz_trainer_t *tiny = NULL;
    OK(hz_model_config_from_preset("tiny", &model));
    OK(hz_trainer_open(&model, NULL, &tiny));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "another model", hz_trainer_load_hf(tiny, path));
    OK(hz_trainer_close(tiny));
    OK(hz_trainer_close(trainer));
}

/* ---- what cannot be done with an open trainer ---- */

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
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "191", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.rows = UINT64_MAX;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.tokens = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens is NULL", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.targets = NULL;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "targets is NULL", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.reserved = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "reserved", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.struct_size = 9;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size is 9", hz_trainer_accumulate(trainer, &bad));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batch is NULL", hz_trainer_accumulate(trainer, NULL));

    int32_t token = rows.tokens[50], target = rows.targets[50];
    rows.tokens[50] = V;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "sequence 1, position 2", hz_trainer_accumulate(trainer, &good));
    rows.tokens[50] = token;
    rows.targets[50] = -1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "target -1", hz_trainer_accumulate(trainer, &good));
    rows.targets[50] = target;
    bad = good;
    bad.weights = rows.weights;
    rows.weights[3] = -1.0f;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "weight -1", hz_trainer_accumulate(trainer, &bad));
    bad = good;
    bad.starts = rows.starts;
    rows.starts[5] = 3;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "start 3", hz_trainer_accumulate(trainer, &bad));

    REFUSED(HZ_STATUS_INVALID_STATE, "accumulate", hz_trainer_update(trainer, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "at least one", hz_trainer_step(trainer, &good, 0, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches is NULL", hz_trainer_step(trainer, NULL, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_step(trainer, &good, 1, 1e-3, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "at least one", hz_trainer_eval(trainer, &good, 0, &eval));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_eval(trainer, &good, 1, NULL));
    hz_batch_t unlike[2] = {good, good};
    unlike[1].struct_size = 4;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "batches[1]", hz_trainer_step(trainer, unlike, 2, 1e-3, &report));
    hz_batch_t three[3] = {good, good, good};
    REFUSED(HZ_STATUS_INVALID_STATE, "2 micro-batches", hz_trainer_step(trainer, three, 3, 1e-3, &report));

    /* A step without a target; what was accumulated is gone then. */
    static rows_t none;
    fill(&none);
    for (size_t n = 0; n < N; n++) {
        none.targets[n] = -100;
    }
    bad = batch_of(&none);
    REFUSED(HZ_STATUS_NO_TARGET, "-100", hz_trainer_step(trainer, &bad, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_NO_TARGET, "-100", hz_trainer_eval(trainer, &bad, 1, &eval));

    /* A refused learning rate or report keeps what was accumulated; then other work is refused. */
    OK(hz_trainer_accumulate(trainer, &good));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "learning rate", hz_trainer_update(trainer, NAN, &report));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_report is NULL", hz_trainer_update(trainer, 1e-3, NULL));
    hz_step_report_t unset = HZ_STEP_REPORT_INIT;
    unset.struct_size = 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size is 1", hz_trainer_update(trainer, 1e-3, &unset));
    REFUSED(HZ_STATUS_INVALID_STATE, "update first", hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    REFUSED(HZ_STATUS_INVALID_STATE, "update first", hz_trainer_eval(trainer, &good, 1, &eval));
    OK(hz_trainer_accumulate(trainer, &good));
    REFUSED(HZ_STATUS_INVALID_STATE, "update first", hz_trainer_accumulate(trainer, &good));
    CHECK(report.loss == -1.0);
    OK(hz_trainer_update(trainer, 1e-3, &report));
    CHECK(report.step == 1 && report.micros == 2 && report.loss > 0.0);

    float logits[V];
    int32_t prompt[T + 1] = {0};
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "0 tokens", hz_trainer_logits(trainer, prompt, 0, logits, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "49 tokens", hz_trainer_logits(trainer, prompt, T + 1, logits, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "logits_count is 255", hz_trainer_logits(trainer, prompt, 1, logits, V - 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "logits is NULL", hz_trainer_logits(trainer, prompt, 1, NULL, V));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "tokens is NULL", hz_trainer_logits(trainer, NULL, 1, logits, V));
    prompt[0] = -7;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "-7", hz_trainer_logits(trainer, prompt, 1, logits, V));
    prompt[0] = 7;
    OK(hz_trainer_logits(trainer, prompt, T, logits, V));

    /* A weight that is not a number: the step says so and commits nothing. */
    static float norm[64], poisoned[64], now[64];
    const char *name = "model.norm.weight";
    OK(hz_trainer_read_tensor(trainer, name, norm, 64));
    memcpy(poisoned, norm, sizeof norm);
    poisoned[0] = NAN;
    OK(hz_trainer_write_tensor(trainer, name, poisoned, 64));
    REFUSED(HZ_STATUS_NON_FINITE, "finite", hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    OK(hz_trainer_read_tensor(trainer, name, now, 64));
    CHECK(memcmp(now, poisoned, sizeof now) == 0);
    OK(hz_trainer_write_tensor(trainer, name, norm, 64));
    OK(hz_trainer_step(trainer, &good, 1, 1e-3, &report));
    CHECK(report.step == 2);

    hz_stats_t stats = HZ_STATS_INIT;
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_tensor_t tensor = HZ_TENSOR_INIT;
    size_t count = 0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_stats is NULL", hz_trainer_stats(trainer, NULL));
    OK(hz_trainer_close(trainer));

    const char *word = "trainer is NULL";
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_init(NULL, 1));
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
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_stats(NULL, &stats));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_trace(NULL, "x"));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_model(NULL, &model));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_tensor_count(NULL, &count));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_trainer_tensor(NULL, 0, &tensor));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_names_and_log();
    test_plan();
    test_struct_sizes();
    test_refusals();
    test_training();
    test_batches();
    test_tensors();
    test_files(argv[1]);
    test_misuse();
    printf("%d checks\n", checks);
    return 0;
}
