/*
 * Trains a small byte-level model until its loss has fallen; tensors, gradients, logits, files. Usage: train FOLDER (an
 * empty one, for files).
 */
#include <math.h>

#include "small.h"

enum { STEPS = LESS(150, 8) };

/* ---- training ---- */

static float *read_all(hz_trainer_t *trainer, size_t *out_count) {
    size_t tensors = 0, total = 0;
    OK(hz_trainer_tensor_count(trainer, &tensors));
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        total += (size_t)tensor.elements;
    }
    float *values = malloc(total * sizeof *values);
    CHECK(values != NULL);
    size_t at = 0;
    for (size_t i = 0; i < tensors; i++) {
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        OK(hz_trainer_read_tensor(trainer, tensor.name, values + at, (size_t)tensor.elements));
        at += (size_t)tensor.elements;
    }
    *out_count = total;
    return values;
}

static void test_training(void) {
    hz_trainer_t *whole = open_small(), *stepwise = open_small();
    hz_step_report_t a = HZ_STEP_REPORT_INIT, b = HZ_STEP_REPORT_INIT;
    hz_eval_report_t before = HZ_EVAL_REPORT_INIT, after = HZ_EVAL_REPORT_INIT;
    static rows_t rows[2][MICROS], held_out;
    fill(&held_out);
    hz_batch_t probe = batch_of(&held_out);
    OK(hz_trainer_eval(whole, &probe, 1, &before));
    CHECK(before.targets == N && before.micros == 1);
    CHECK(fabs(before.loss - log(V)) < 0.5); /* random weights: a uniform distribution */

    for (int micro = 0; micro < MICROS; micro++) fill(&rows[1][micro]);
    for (int step = 1; step <= STEPS; step++) {
        rows_t *now = rows[step % 2], *next = rows[(step + 1) % 2];
        hz_batch_t batches[MICROS];
        for (int micro = 0; micro < MICROS; micro++) {
            fill(&next[micro]);
            batches[micro] = batch_of(&now[micro]);
        }
        double lr = 3e-3;
        OK(hz_trainer_step(whole, batches, MICROS, lr, &a));
        CHECK(a.step == (uint64_t)step && a.tokens == MICROS * N && a.targets == MICROS * N && a.micros == MICROS);
        CHECK(isfinite(a.loss) && a.grad_norm > 0.0);
        if (step <= 5) { /* bit for bit the same with separate calls, and with the next step announced */
            OK(hz_trainer_announce(stepwise, next[0].tokens, N));
            OK(hz_trainer_announce(stepwise, next[1].tokens, N));
            OK(hz_trainer_accumulate(stepwise, &batches[0]));
            OK(hz_trainer_accumulate(stepwise, &batches[1]));
            OK(hz_trainer_update(stepwise, lr, &b));
            CHECK(memcmp(&a, &b, sizeof a) == 0);
        }
        if (step == 5) {
            size_t ours = 0, theirs = 0;
            float *one = read_all(whole, &ours), *other = read_all(stepwise, &theirs);
            CHECK(ours == theirs && memcmp(one, other, ours * sizeof *one) == 0);
            free(one);
            free(other);
        }
    }
    OK(hz_trainer_eval(whole, &probe, 1, &after));
    printf("loss %.3f -> %.3f in %d steps\n", before.loss, after.loss, STEPS);
    CHECK(after.loss < LESS(0.6, 1.0) * before.loss);

    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    OK(hz_trainer_stats(whole, &stats));
    CHECK(stats.steps == STEPS && stats.tokens == (uint64_t)STEPS * MICROS * N && stats.threads == 2);
    CHECK(stats.device_bytes > 0 && stats.host_bytes > 0);

    /* The loss of a single target is its negative log-likelihood by the logits. */
    enum { SEEN = T - 2 };
    static float logits[V];
    OK(hz_trainer_logits(whole, held_out.tokens, SEEN, logits, V));
    double sum = 0.0;
    for (int id = 0; id < V; id++) {
        sum += exp((double)logits[id]);
    }
    int32_t target = held_out.targets[SEEN - 1];
    double nll = log(sum) - (double)logits[target];
    for (int n = 0; n < N; n++) {
        held_out.targets[n] = n == SEEN - 1 ? target : -100;
    }
    OK(hz_trainer_eval(whole, &probe, 1, &after));
    CHECK(after.targets == 1 && fabs(after.loss - nll) < 1e-4);

    OK(hz_trainer_sync(whole));
    OK(hz_trainer_close(whole));
    OK(hz_trainer_close(stepwise));
    OK(hz_trainer_close(NULL));
}

/* A weight of 0 equals an ignored target; document starts change attention. */
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
        hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
        OK(hz_trainer_tensor(trainer, i, &tensor));
        first = i == 0 ? tensor.name : first;
        if (strcmp(tensor.name, name) == 0) {
            found++;
            CHECK(tensor.rank == 2 && tensor.shape[0] == 32 && tensor.shape[1] == 64 && tensor.shape[2] == 0);
            CHECK(tensor.elements == ELEMENTS);
        }
    }
    CHECK(found == 1 && strcmp(first, "model.embed_tokens.weight") == 0);

    /* Every f32 is read back bit for bit. */
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
    OK(hz_trainer_read_tensor(trainer, name, out, ELEMENTS)); /* a learning rate of 0 changes nothing */
    CHECK(memcmp(in, out, sizeof in) == 0);

    hz_tensor_options_t tuned = HZ_TENSOR_OPTIONS_INIT, found_options = HZ_TENSOR_OPTIONS_INIT;
    tuned.frozen = 1;
    OK(hz_trainer_set_tensor_options(trainer, name, &tuned));
    OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
    OK(hz_trainer_read_tensor(trainer, name, out, ELEMENTS));
    CHECK(memcmp(in, out, sizeof in) == 0);
    tuned.frozen = 0;
    tuned.lr_scale = 0.5;
    tuned.weight_decay = 0.25;
    OK(hz_trainer_set_tensor_options(trainer, name, &tuned));
    OK(hz_trainer_tensor_options(trainer, name, &found_options));
    CHECK(found_options.frozen == 0 && found_options.lr_scale == 0.5 && found_options.weight_decay == 0.25);
    OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
    OK(hz_trainer_read_tensor(trainer, name, out, ELEMENTS));
    CHECK(memcmp(in, out, sizeof in) != 0);
    tuned.lr_scale = -2.0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "lr_scale is -2", hz_trainer_set_tensor_options(trainer, name, &tuned));
    tuned.frozen = 2;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "frozen", hz_trainer_set_tensor_options(trainer, name, &tuned));
    REFUSED(HZ_STATUS_NOT_FOUND, "k_prog", hz_trainer_set_tensor_options(trainer, "model.k_prog", NULL));
    REFUSED(HZ_STATUS_NOT_FOUND, "k_prog", hz_trainer_tensor_options(trainer, "model.k_prog", &found_options));
    OK(hz_trainer_set_tensor_options(trainer, name, NULL));
    OK(hz_trainer_tensor_options(trainer, name, &found_options));
    CHECK(found_options.lr_scale == 1.0 && found_options.weight_decay == -1.0);

    out[0] = 1234.5f;
    REFUSED(HZ_STATUS_NOT_FOUND, "k_prog", hz_trainer_read_tensor(trainer, "model.k_prog", out, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 2049", hz_trainer_read_tensor(trainer, name, out, ELEMENTS + 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 2047", hz_trainer_write_tensor(trainer, name, in, ELEMENTS - 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "count is 0", hz_trainer_read_gradient(trainer, name, out, 0));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "no memory is large enough",
            hz_trainer_read_tensor(trainer, name, out, SIZE_MAX));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "not aligned",
            hz_trainer_write_tensor(trainer, name, (const float *)(const void *)((const char *)in + 1), 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_read_tensor(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_write_tensor(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_trainer_read_gradient(trainer, name, NULL, ELEMENTS));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "name is NULL", hz_trainer_read_tensor(trainer, NULL, out, ELEMENTS));
    CHECK(out[0] == 1234.5f);

    hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
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

/* Counts warnings about a model's folder. */
static void count_notes(hz_log_level_t level, const char *message, void *user) {
    *(int *)user += level == HZ_LOG_WARNING && strstr(message, "adapter_config.json describes an adapter") != NULL;
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
    char adapter[1024];
    path_in(path, "adapter_config.json", adapter, sizeof adapter);
    file = fopen(adapter, "wb");
    CHECK(file != NULL && fclose(file) == 0);
    int notes = 0;
    OK(hz_set_log_callback(count_notes, &notes));
    OK(hz_trainer_load_hf(loaded, path));
    OK(hz_set_log_callback(NULL, NULL));
    CHECK(notes == 1);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "it is a folder", hz_trainer_trace(trainer, path));
    char untraced[1024];
    path_in(folder, "untraced.json", untraced, sizeof untraced);
    REFUSED(HZ_STATUS_INVALID_STATE, "opened without tracing", hz_trainer_trace(loaded, untraced));
    CHECK(fopen(untraced, "rb") == NULL);
    OK(hz_trainer_close(loaded));

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "dtype", hz_trainer_export_hf(trainer, path, 77));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder is NULL", hz_trainer_export_hf(trainer, NULL, HZ_DTYPE_F32));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "folder is NULL", hz_trainer_load_hf(trainer, NULL));
    REFUSED(HZ_STATUS_NOT_FOUND, "config.json", hz_trainer_load_hf(trainer, folder));

    hz_trainer_t *tiny = NULL;
    OK(hz_model_config_from_preset("tiny", &model));
    OK(hz_trainer_open(&model, NULL, &tiny));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "hidden_size is 64, the trainer's is 128", hz_trainer_load_hf(tiny, path));
    OK(hz_trainer_close(tiny));
    OK(hz_trainer_close(trainer));
}

/* Sets the options of a family that are not those of Llama. */
static void make_family(hz_model_config_t *model, const char *family) {
    model->head_dim = 16;
    if (!strcmp(family, "gemma3_text")) {
        model->norms = HZ_NORMS_AROUND;
        model->norms_plus_one = 1;
        model->activation = HZ_ACTIVATION_GELU_TANH;
        model->qk_norm = 1;
        model->embedding_multiplier = 8.0; /* the root of hidden_size */
        model->attention_multiplier = 0.5; /* query_pre_attn_scalar 4 */
        model->sliding_window = 7;
        model->full_attention_layers[0] = 2;
        model->sliding_rope_theta = 100.0;
    } else if (!strcmp(family, "olmo2")) {
        model->norms = HZ_NORMS_AFTER;
        model->qk_norm = 2;
        model->rope_scaling = HZ_ROPE_YARN;
        model->rope_original_positions = 64;
        model->rope_factor = 4.0;
        model->rope_attention_factor = 1.25;
        model->rope_truncate = 0;
    } else if (!strcmp(family, "granite")) {
        model->embedding_multiplier = 12.0;
        model->residual_multiplier = 0.25;
        model->attention_multiplier = 0.125;
        model->logits_multiplier = 0.5;
    } else if (!strcmp(family, "phi3")) {
        model->rotary_dim = 12;
        model->rope_scaling = HZ_ROPE_LONG;
        model->rope_original_positions = 64;
        for (int pair = 0; pair < 6; pair++) {
            model->rope_short_factor[pair] = 1.0 + pair;
            model->rope_long_factor[pair] = 2.0 + pair;
        }
    } else if (!strcmp(family, "glm4")) {
        model->norms = HZ_NORMS_AROUND;
        model->qkv_bias = 1;
        model->rotary_dim = 8;
        model->rope_interleaved = 1;
    } else if (!strcmp(family, "smollm3")) {
        model->no_rope_layers[0] = 1;
    } else {
        model->qkv_bias = !strcmp(family, "qwen2");
        model->qk_norm = !strcmp(family, "qwen3");
        model->rope_scaling = HZ_ROPE_LLAMA3;
        model->rope_original_positions = 64;
        model->rope_factor = 8.0;
        model->rope_low_freq_factor = 1.0;
        model->rope_high_freq_factor = 4.0;
        model->sliding_window = 7;
        model->full_attention_layers[0] = model->qk_norm;
    }
}

/* Options of the model families survive export and import: the model, and every tensor. */
static void test_families(const char *folder) {
    static const char *const names[] = {"mistral", "qwen2", "qwen3",   "gemma3_text", "olmo2",
                                        "granite", "phi3",  "glm4", "smollm3"};
    static rows_t rows;
    for (size_t family = 0; family < sizeof names / sizeof *names; family++) {
        hz_model_config_t model = small_model(), found = HZ_MODEL_CONFIG_INIT;
        hz_trainer_options_t options = small_options();
        hz_trainer_t *trainer = NULL, *loaded = NULL;
        hz_step_report_t report = HZ_STEP_REPORT_INIT;
        make_family(&model, names[family]);
        OK(hz_trainer_open(&model, &options, &trainer));
        OK(hz_trainer_init_weights(trainer, 3));
        fill(&rows);
        hz_batch_t batch = batch_of(&rows);
        OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
        CHECK(isfinite(report.loss) && report.grad_norm > 0.0);

        char path[4096];
        path_in(folder, names[family], path, sizeof path);
        OK(hz_trainer_export_hf(trainer, path, HZ_DTYPE_F32));
        OK(hz_model_config_from_hf(path, &found));
        CHECK((float)found.rms_norm_eps == (float)model.rms_norm_eps); /* used as f32 */
        model.rms_norm_eps = found.rms_norm_eps;
        CHECK(memcmp(&found, &model, sizeof found) == 0);
        OK(hz_trainer_open(&found, &options, &loaded));
        OK(hz_trainer_load_hf(loaded, path));
        size_t ours = 0, theirs = 0;
        float *one = read_all(trainer, &ours), *other = read_all(loaded, &theirs);
        CHECK(ours == theirs && memcmp(one, other, ours * sizeof *one) == 0);
        free(one);
        free(other);
        OK(hz_trainer_close(loaded));
        OK(hz_trainer_close(trainer));
    }
    hz_model_config_t mixed = small_model();
    hz_trainer_t *trainer = NULL;
    mixed.qk_norm = 1;
    mixed.mlp_bias = 1;
    REFUSED(HZ_STATUS_UNSUPPORTED, "qk_norm = 1", hz_trainer_open(&mixed, NULL, &trainer));
    mixed.mlp_bias = 0;
    mixed.rope_scaling = 9;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "rope_scaling is 9", hz_trainer_open(&mixed, NULL, &trainer));
    mixed.rope_scaling = HZ_ROPE_LINEAR;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "rope_factor is 0", hz_trainer_open(&mixed, NULL, &trainer));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_training();
    test_batches();
    test_tensors();
    test_files(argv[1]);
    test_families(argv[1]);
    printf("%d checks\n", checks);
    return 0;
}
