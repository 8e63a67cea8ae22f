/*
 * Every function with every argument wrong, one at a time, between two good steps of a trainer: each call is refused
 * with a status 1xx or 2xx and a message that names what is wrong, writes no output, and changes nothing: afterwards
 * weights, moments, step number, and the results of the other handles have the bits of a run without these calls.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "sweep_table.h"

/* ---- the sweep ---- */

/* True while a micro-batch is accumulated: then evaluations and other steps are refused for that, too. */
static int accumulated;

static int failures;

static int names(const char *message, const char *words) {
    for (const char *end; *words != '\0'; words = *end == '|' ? end + 1 : end) {
        char word[64];
        end = words + strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int)(end - words), words);
        if (strstr(message, word) != NULL) {
            return 1;
        }
    }
    return 0;
}

/* A function with its arguments. */
typedef struct {
    const function_t *function;
    value_t values[8];
} call_t;

/* The call fails, names one of the words or `text`, and writes nothing. */
static void refused(const call_t *call, const char *words, const char *text) {
    static world_t before;
    memcpy(&before, &world, sizeof world);
    /* Functions without a status must replace this message. */
    CHECK(hz_master_split(NULL, 1, NULL, NULL) == HZ_STATUS_INVALID_ARGUMENT);
    hz_status_t status = call->function->call(call->values);
    const char *message = hz_last_error();
    int named = names(message, words) || (text != NULL && *text != '\0' && strstr(message, text) != NULL) ||
                (accumulated && status == HZ_STATUS_INVALID_STATE);
    checks++;
    if (status < 100 || status > 299 || !named || memcmp(&before, &world, sizeof world) != 0) {
        fprintf(stderr, "%s with a wrong %s: %s%s%s: %s\n", call->function->name, words, text == NULL ? "" : text,
                text == NULL ? "" : ": ", hz_status_name(status), message);
        memcpy(&world, &before, sizeof world);
        failures++;
    }
}

/* One argument is wrong. */
static void wrong(call_t *call, size_t index, value_t value) {
    const argument_t *argument = &call->function->arguments[index];
    const value_t right = call->values[index];
    int text = argument->kind == TEXT || argument->kind == TEXT_OR_NULL;
    call->values[index] = value;
    refused(call, argument->word, text ? value.at : NULL);
    call->values[index] = right;
}

#define WRONG(...) wrong(call, index, (value_t){__VA_ARGS__})

static int is_optimizer(size_t which) {
    return which == ADAM || which == KEPT;
}

static void sweep_handle(call_t *call, size_t index) {
    size_t which = (size_t)call->function->arguments[index].value.u;
    WRONG(.at = closed[which]);
    WRONG(.at = (const char *)handle[which] + 1);
    WRONG(.at = (const char *)handle[which] + 4096);
    WRONG(.at = &world);
    WRONG(.u = 16);
    WRONG(.u = UINT64_MAX);
    for (size_t other = 0; other < HANDLES; other++) {
        if (other != which && !(is_optimizer(other) && is_optimizer(which))) {
            WRONG(.at = handle[other]);
        }
    }
}

/* Wrong sizes of a struct; for an input also a newer version of it with an unknown field. */
static void sweep_struct(call_t *call, size_t index, int input) {
    uint32_t *struct_size = call->values[index].to, right = *struct_size;
    const uint32_t sizes[] = {0, 5, right - 1, 5000, UINT32_MAX, right + 8};
    for (size_t i = 0; i < (input ? 6 : 5); i++) {
        *struct_size = sizes[i];
        refused(call, call->function->arguments[index].word, NULL);
    }
    *struct_size = right;
    WRONG(.at = (const char *)struct_size + 1);
}

static void sweep_argument(call_t *call, size_t index) {
    const argument_t *argument = &call->function->arguments[index];
    const value_t right = call->values[index];
    switch (argument->kind) {
    case HANDLE:
        WRONG(.at = NULL);
        sweep_handle(call, index);
        break;
    case CLOSED:
        sweep_handle(call, index);
        break;
    case IN:
    case OUT:
        WRONG(.at = NULL);
        sweep_struct(call, index, argument->kind == IN);
        break;
    case IN_OR_NULL:
        sweep_struct(call, index, 1);
        break;
    case POINTER:
        WRONG(.at = NULL);
        /* fallthrough */
    case POINTER_OR_NULL:
        WRONG(.at = (const char *)right.at + 1);
        break;
    case TEXT:
        WRONG(.at = NULL);
        /* fallthrough */
    case TEXT_OR_NULL:
        for (const char *const *text = argument->wrong; *text != NULL; text++) {
            WRONG(.at = *text);
        }
        break;
    case EXACT:
        WRONG(.u = right.u - 1);
        WRONG(.u = right.u + 1);
        /* fallthrough */
    case COUNT_:
        WRONG(.u = 0);
        /* fallthrough */
    case LARGE:
        WRONG(.u = (uint64_t)1 << 63);
        WRONG(.u = UINT64_MAX);
        break;
    case ORDINAL:
        WRONG(.u = 0);
        break;
    case ENUM:
        WRONG(.u = 77);
        WRONG(.u = 0x7fffffff);
        break;
    case RATE:
        WRONG(.d = -1.0);
        /* fallthrough */
    case FACTOR:
        WRONG(.d = NAN);
        WRONG(.d = INFINITY);
        WRONG(.d = 1e39); /* not an f32 */
        WRONG(.d = -INFINITY);
        break;
    case CALLBACK:
        WRONG(.at = NULL);
        break;
    case ANY:
    case END:
        break;
    }
}

/* The value of a right argument. */
static value_t right_value(const argument_t *argument) {
    switch (argument->kind) {
    case HANDLE:
    case CLOSED:
        return (value_t){.to = handle[argument->value.u]};
    case IN:
    case IN_OR_NULL:
    case OUT:
    case POINTER:
    case POINTER_OR_NULL:
        return (value_t){.to = (char *)&world + argument->value.u};
    default:
        return argument->value;
    }
}

static void sweep_fault(const call_t *call, const fault_t *fault) {
    char *place = (char *)&world + fault->at, right[sizeof(value_t)];
    memcpy(right, place, fault->bytes);
    memcpy(place, &fault->value, fault->bytes);
    refused(call, fault->word, NULL);
    memcpy(place, right, fault->bytes);
}

static void sweep(void) {
    for (size_t row = 0; row < sizeof FUNCTIONS / sizeof *FUNCTIONS; row++) {
        call_t call = {&FUNCTIONS[row], {{0}}};
        size_t count = 0;
        for (; call.function->arguments[count].kind != END; count++) {
            call.values[count] = right_value(&call.function->arguments[count]);
        }
        for (size_t index = 0; index < count; index++) {
            sweep_argument(&call, index);
        }
        for (const fault_t *const *list = call.function->faults; *list != NULL; list++) {
            for (const fault_t *fault = *list; fault->word != NULL; fault++) {
                sweep_fault(&call, fault);
            }
        }
    }
}

/* Functions that cannot be refused. */
static void sweep_total(void) {
    OK(hz_set_log_callback(NULL, &world));
    CHECK(strcmp(hz_version(), HZ_VERSION) == 0 && hz_abi_version() == HZ_ABI_VERSION && hz_last_error() != NULL);
    CHECK(hz_version_number() == HZ_VERSION_NUMBER && hz_options_json()[0] == '{');
    CHECK(strcmp(hz_status_name(HZ_STATUS_MAX_ENUM), "HZ_STATUS_UNKNOWN") == 0);
    CHECK(strcmp(hz_status_name((hz_status_t)-1), "HZ_STATUS_UNKNOWN") == 0);
    CHECK(hz_lane_name(HZ_LANE_MAX_ENUM) == NULL && hz_lane_name((hz_lane_t)5) == NULL);
}

/* ---- runs ---- */

static void set_up_world(void) {
    world.model.vocab_size = V;
    world.model.hidden_size = C;
    world.model.intermediate_size = 32;
    world.model.num_hidden_layers = 2;
    world.model.num_attention_heads = 2;
    world.model.num_key_value_heads = 1;
    world.model.max_position_embeddings = 64;
    world.model.rope_scaling = HZ_ROPE_LLAMA3;
    world.model.rope_original_positions = 32;
    world.model.rope_factor = 2.0;
    world.model.rope_low_freq_factor = 1.0;
    world.model.rope_high_freq_factor = 4.0;

    world.options.device = HZ_DEVICE_CPU;
    world.options.sequences = B;
    world.options.sequence_length = T;
    world.options.micros_max = MICROS;
    world.options.threads = 2;
    world.options.tracing = 1;
    world.options.layers = &world.layer;
    world.options.layers_count = 1;

    world.batch.rows = N;
    world.batch.tokens = world.tokens;
    world.batch.targets = world.targets;
    world.batch.weights = world.weights;
    world.batch.starts = world.starts;
    for (int n = 0; n < N; n++) {
        world.tokens[n] = n * 5 % V;
        world.targets[n] = (n * 5 + 5) % V;
        world.weights[n] = 1.0f + 0.5f * (float)(n % 3);
        world.starts[n] = 0;
    }

    world.adam.state_count = COUNT;
    world.own.gradient_dtype = world.lent.gradient_dtype = HZ_DTYPE_BF16;
    world.own.count = world.lent.count = COUNT;
    world.own.weights = world.lent.weights = world.w;
    world.own.gradient = world.lent.gradient = world.g;
    world.own.residual = world.r;
    world.own.m = world.m;
    world.own.v = world.v;
}

static void open_handles(void *handles[HANDLES]) {
    hz_adam_options_t own = world.adam;
    own.state_count = 0;
    OK(hz_trainer_open(&world.model, &world.options, (hz_trainer_t **)&handles[TRAINER]));
    OK(hz_plan_search(&world.model, &world.options, "cpu", (hz_plan_t **)&handles[PLAN]));
    OK(hz_adam_open(&own, (hz_adam_t **)&handles[ADAM]));
    OK(hz_adam_open(&world.adam, (hz_adam_t **)&handles[KEPT]));
    OK(hz_arena_open(&world.arena, 4096, (hz_arena_t **)&handles[ARENA]));
}

static void close_handles(void *handles[HANDLES]) {
    OK(hz_trainer_close(handles[TRAINER]));
    hz_plan_close(handles[PLAN]);
    hz_adam_close(handles[ADAM]);
    hz_adam_close(handles[KEPT]);
    hz_arena_close(handles[ARENA]);
}

static uint64_t hash;

/* FNV-1a. */
static void add(const void *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    }
}

static int32_t add_unit(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual,
                        const void *m, const void *v, void *user) {
    (void)user;
    add(&unit, sizeof unit);
    add(weights, elements * 2);
    add(residual, elements * 2);
    add(m, elements * 4);
    add(v, elements * 4);
    return 0;
}

/* Two steps, with calls between them if `sweeps`. Returns a hash of all results. */
static uint64_t run(int sweeps) {
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    hz_arena_info_t info = HZ_ARENA_INFO_INIT;
    hz_adam_arrays_t state = HZ_ADAM_ARRAYS_INIT;
    const char *json = NULL;
    hash = 0xcbf29ce484222325u;
    for (int i = 0; i < COUNT; i++) {
        world.w[i] = (uint16_t)(0x3f80 + i);
        world.g[i] = (uint16_t)(0x3c00 + 3 * i);
        world.r[i] = (int16_t)(7 * i);
        world.m[i] = world.v[i] = 0.0f;
    }
    open_handles(handle);
    hz_trainer_t *trainer = handle[TRAINER];
    OK(hz_trainer_init_weights(trainer, 3));
    OK(hz_trainer_step(trainer, &world.batch, 1, 1e-2, &report));
    OK(hz_trainer_announce(trainer, world.tokens, N / 2));
    if (accumulated) {
        OK(hz_trainer_accumulate(trainer, &world.batch));
    }
    if (sweeps) {
        sweep();
        sweep_total();
    }
    OK(hz_trainer_accumulate(trainer, &world.batch));
    OK(hz_trainer_update(trainer, 1e-2, &report));
    CHECK(report.step == 2 && report.micros == (accumulated ? 2 : 1));
    add(&report, sizeof report);
    OK(hz_trainer_save(trainer, add_unit, NULL));
    OK(hz_trainer_save_wait(trainer));
    OK(hz_trainer_stats(trainer, &stats));
    add(&stats, sizeof stats);

    OK(hz_adam_step(handle[ADAM], &world.own, 1e-2, 1, 1.0, 1.0));
    OK(hz_adam_step(handle[KEPT], &world.lent, 1e-2, 1, 1.0, 1.0));
    OK(hz_adam_state(handle[KEPT], 0, COUNT, &state));
    add(world.w, sizeof world.w);
    add(world.r, sizeof world.r);
    add(world.m, sizeof world.m);
    add(world.v, sizeof world.v);
    add(state.m, sizeof world.m);
    OK(hz_plan_json(handle[PLAN], &json));
    add(json, strlen(json));
    OK(hz_arena_info(handle[ARENA], &info));
    add(info.address, info.bytes);
    close_handles(handle);
    return hash;
}

/* Folders and files that are right for some functions and wrong for others. */
static void make_files(void) {
    void *other = NULL, *second = NULL;
    hz_trainer_t *trainer = closed[TRAINER];
    OK(hz_trainer_init_weights(trainer, 1));
    OK(hz_trainer_export_hf(trainer, "export", HZ_DTYPE_F32));
    OK(hz_trainer_save_to(trainer, "checkpoints", 1, NULL));
    OK(hz_trainer_save_wait(trainer));
    world.model.intermediate_size = 48;
    OK(hz_trainer_open(&world.model, &world.options, (hz_trainer_t **)&other));
    OK(hz_trainer_init_weights(other, 1));
    OK(hz_trainer_export_hf(other, "other", HZ_DTYPE_BF16));
    OK(hz_trainer_close(other));
    world.model.intermediate_size = 32;
    CHECK(mkdir("broken", 0700) == 0);
    FILE *file = fopen("file", "w"), *broken = fopen("broken/config.json", "w");
    CHECK(file != NULL && broken != NULL && fputs("text", file) >= 0 && fputs("{", broken) >= 0);
    CHECK(fclose(file) == 0 && fclose(broken) == 0);

    /* A refused save keeps the lock of the trainer's folder. */
    OK(hz_trainer_open(&world.model, &world.options, (hz_trainer_t **)&second));
    OK(hz_trainer_init_weights(second, 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "export", hz_trainer_save_to(trainer, "export", 1, NULL));
    REFUSED(HZ_STATUS_INVALID_STATE, "checkpoints", hz_trainer_save_to(second, "checkpoints", 1, NULL));
    OK(hz_trainer_close(second));
}

int main(int count, char **arguments) {
    CHECK(count == 2 && chdir(arguments[1]) == 0);
    set_up_world();
    open_handles(closed);
    make_files();
    close_handles(closed);
    for (accumulated = 0; accumulated <= 1; accumulated++) {
        CHECK(run(1) == run(0));
    }
    CHECK(failures == 0);
    printf("%d checks\n", checks);
    return 0;
}
