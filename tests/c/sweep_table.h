/*
 * The table of sweep.c: functions, their arguments, and the wrong values of each.
 *
 * A row of FUNCTIONS is a function with good arguments. The kind of an argument says which values are wrong for it;
 * lists of faults say which values of the memory it points to are. A new function needs a CALL and a ROW.
 */
#ifndef SWEEP_TABLE_H
#define SWEEP_TABLE_H
#include <math.h>

#include "check.h"

enum { B = 2, T = 8, N = B * T, V = 24, C = 16, MICROS = 2, COUNT = 64 };

/* ---- the memory that calls read and write ---- */

/* A struct, and what follows it if struct_size says that it is 8 bytes longer. */
#define STRUCT(type, name) \
    type name; \
    uint64_t after_##name

typedef struct {
    STRUCT(hz_model_config_t, model);
    STRUCT(hz_trainer_options_t, options);
    STRUCT(hz_layer_placement_t, layer);
    STRUCT(hz_batch_t, batch);
    STRUCT(hz_tensor_options_t, tuned);
    STRUCT(hz_adam_options_t, adam);
    STRUCT(hz_adam_arrays_t, own);
    STRUCT(hz_adam_arrays_t, lent);
    STRUCT(hz_arena_options_t, arena);
    int32_t tokens[N], targets[N], starts[N];
    float weights[N];
    uint16_t w[COUNT], g[COUNT], copy[COUNT];
    int16_t r[COUNT];
    float m[COUNT], v[COUNT];
    /* outputs */
    STRUCT(hz_device_info_t, out_device);
    STRUCT(hz_model_config_t, out_config);
    STRUCT(hz_plan_summary_t, out_summary);
    STRUCT(hz_tensor_info_t, out_tensor);
    STRUCT(hz_tensor_options_t, out_options);
    STRUCT(hz_step_report_t, out_step);
    STRUCT(hz_eval_report_t, out_eval);
    STRUCT(hz_trainer_stats_t, out_stats);
    STRUCT(hz_adam_arrays_t, out_arrays);
    STRUCT(hz_arena_info_t, out_info);
    void *out_pointer;
    double out_seconds;
    size_t out_count;
    uint32_t out_node;
    float out_floats[N * MICROS];
} world_t;

static world_t world = {
    .model = HZ_MODEL_CONFIG_INIT, .after_model = 1,
    .options = HZ_TRAINER_OPTIONS_INIT, .after_options = 1,
    .layer = HZ_LAYER_PLACEMENT_INIT, .after_layer = 1,
    .batch = HZ_BATCH_INIT, .after_batch = 1,
    .tuned = HZ_TENSOR_OPTIONS_INIT, .after_tuned = 1,
    .adam = HZ_ADAM_OPTIONS_INIT, .after_adam = 1,
    .own = HZ_ADAM_ARRAYS_INIT, .after_own = 1,
    .lent = HZ_ADAM_ARRAYS_INIT, .after_lent = 1,
    .arena = HZ_ARENA_OPTIONS_INIT, .after_arena = 1,
    .out_device = HZ_DEVICE_INFO_INIT,
    .out_config = HZ_MODEL_CONFIG_INIT,
    .out_summary = HZ_PLAN_SUMMARY_INIT,
    .out_tensor = HZ_TENSOR_INFO_INIT,
    .out_options = HZ_TENSOR_OPTIONS_INIT,
    .out_step = HZ_STEP_REPORT_INIT,
    .out_eval = HZ_EVAL_REPORT_INIT,
    .out_stats = HZ_TRAINER_STATS_INIT,
    .out_arrays = HZ_ADAM_ARRAYS_INIT,
    .out_info = HZ_ARENA_INFO_INIT,
};

#define AT(member) offsetof(world_t, member)

/* ---- handles ---- */

enum { TRAINER, PLAN, ADAM, KEPT, ARENA, HANDLES };

static void *handle[HANDLES], *closed[HANDLES];

/* ---- arguments and faults ---- */

typedef union {
    uint64_t u;
    double d;
    float f;
    int32_t i;
    const void *at;
    void *to;
    hz_loss_callback_t loss;
    hz_save_callback_t save;
} value_t;

typedef enum {
    END,
    HANDLE,          /* value.u: TRAINER .. ARENA */
    CLOSED,          /* as HANDLE, NULL is right */
    IN,              /* a struct; value.u: its place in the world */
    IN_OR_NULL,
    OUT,             /* a struct that is written */
    POINTER,         /* to a number, a pointer or an array; value.u as for IN */
    POINTER_OR_NULL,
    TEXT,            /* value.at: a string; wrong: the wrong ones */
    TEXT_OR_NULL,
    LARGE,           /* a number; 2^63 and 2^64 - 1 are wrong */
    COUNT_,          /* as LARGE, 0 is wrong */
    EXACT,           /* as COUNT_, the numbers next to the right one are wrong */
    ORDINAL,         /* a number; 0 is wrong */
    RATE,            /* a double that must be finite and not negative */
    FACTOR,          /* a double that must be finite */
    ENUM,
    CALLBACK,        /* NULL is wrong */
    ANY              /* no value is wrong */
} kind_t;

typedef struct {
    kind_t kind;
    const char *word; /* in the messages; words separated by | are alternatives */
    value_t value;
    const char *const *wrong;
} argument_t;

/* Bytes of the world that are set to a wrong value. */
typedef struct {
    const char *word;
    size_t at, bytes;
    value_t value;
} fault_t;

#define FAULT(word, place, ...) {word, AT(place), sizeof ((world_t *)0)->place, {__VA_ARGS__}}
#define NOT_A_FLAG(of, field) FAULT(#field, of.field, .u = 2)
#define NOT_AN_ENUM(of, field) FAULT(#field, of.field, .u = 77), FAULT(#field, of.field, .u = 0x7fffffff)
#define NOT_FINITE(of, field) FAULT(#field, of.field, .d = NAN), FAULT(#field, of.field, .d = INFINITY)
#define NEGATIVE(of, field) NOT_FINITE(of, field), FAULT(#field, of.field, .d = -1.5)
#define VAST(of, field) VAST_AS(#field, of, field)
#define VAST_AS(words, of, field) \
    FAULT(words, of.field, .u = (uint64_t)1 << 63), FAULT(words, of.field, .u = UINT64_MAX)
#define SIZES(of, field) VAST(of, field), FAULT(#field, of.field, .u = 0)
#define NOT_A_TOKEN \
    FAULT("token", tokens[5], .i = -1), FAULT("token", tokens[5], .i = V), FAULT("token", tokens[5], .i = INT32_MIN)
#define NOT_A_POINTER(of, field) NOT_A_POINTER_AS(#field, of, field)
#define NOT_A_POINTER_AS(words, of, field) \
    FAULT(words, of.field, .at = NULL), FAULT(words, of.field, .at = (const char *)world.tokens + 1)

#define NO_FAULT {NULL, 0, 0, {0}}

static const fault_t MODEL[] = {
    NOT_A_FLAG(model, tie_word_embeddings),
    SIZES(model, vocab_size),
    SIZES(model, hidden_size),
    SIZES(model, intermediate_size),
    SIZES(model, num_hidden_layers),
    SIZES(model, num_attention_heads),
    FAULT("num_key_value_heads", model.num_key_value_heads, .u = 3),
    VAST(model, num_key_value_heads),
    FAULT("head_dim", model.head_dim, .u = 3),
    VAST(model, head_dim),
    FAULT("max_position_embeddings", model.max_position_embeddings, .u = 0),
    NEGATIVE(model, rms_norm_eps),
    NEGATIVE(model, rope_theta),
    FAULT("rope_theta", model.rope_theta, .d = 0.0),
    NOT_A_FLAG(model, qkv_bias),
    NOT_A_FLAG(model, o_bias),
    NOT_A_FLAG(model, mlp_bias),
    FAULT("qk_norm", model.qk_norm, .u = 3),
    NOT_AN_ENUM(model, rope_scaling),
    FAULT("rope_original_positions", model.rope_original_positions, .u = 0),
    NEGATIVE(model, rope_factor),
    FAULT("rope_factor", model.rope_factor, .d = 0.5),
    NEGATIVE(model, rope_low_freq_factor),
    NOT_FINITE(model, rope_high_freq_factor),
    FAULT("rope_high_freq_factor", model.rope_high_freq_factor, .d = 0.5),
    NOT_AN_ENUM(model, norms),
    NOT_A_FLAG(model, norms_plus_one),
    NOT_AN_ENUM(model, activation),
    NOT_A_FLAG(model, rope_interleaved),
    FAULT("head", model.rotary_dim, .u = 3),
    NEGATIVE(model, sliding_rope_theta),
    NOT_FINITE(model, query_scaling_beta),
    NEGATIVE(model, embedding_multiplier),
    FAULT("embedding_multiplier", model.embedding_multiplier, .d = 0.0),
    NEGATIVE(model, residual_multiplier),
    NEGATIVE(model, attention_multiplier),
    NEGATIVE(model, logits_multiplier),
    FAULT("reserved", model.reserved, .u = 1),
    NO_FAULT,
};

static const fault_t OPTIONS[] = {
    NOT_AN_ENUM(options, device),
    NOT_AN_ENUM(options, mode),
    FAULT("mode", options.mode, .u = 0),
    NOT_AN_ENUM(options, grad_dtype),
    FAULT("grad_dtype", options.grad_dtype, .u = 0),
    NOT_AN_ENUM(options, adam_when),
    NOT_A_FLAG(options, tracing),
    NOT_AN_ENUM(options, pinning),
    SIZES(options, sequences),
    SIZES(options, sequence_length),
    FAULT("sequence_length", options.sequence_length, .u = 65),
    SIZES(options, micros_max),
    FAULT("weight_slots", options.weight_slots, .u = 1),
    VAST(options, weight_slots),
    FAULT("slabs", options.slabs, .u = 1),
    VAST(options, slabs),
    VAST(options, threads),
    NEGATIVE(options, beta1),
    FAULT("beta1", options.beta1, .d = 1.0),
    NEGATIVE(options, beta2),
    FAULT("beta2", options.beta2, .d = 1.0),
    NEGATIVE(options, eps),
    FAULT("eps", options.eps, .d = 0.0),
    NEGATIVE(options, weight_decay),
    NEGATIVE(options, clip),
    NOT_AN_ENUM(options, grad_place),
    NOT_A_POINTER(options, layers),
    VAST_AS("layers", options, layers_count),
    FAULT("gemm_table", options.gemm_table, .at = ""),
    NOT_A_FLAG(options, measuring),
    FAULT("reserved", options.reserved, .u = 1),
    FAULT("layers", layer.struct_size, .u = 5),
    NOT_AN_ENUM(layer, recompute),
    FAULT("recompute", layer.recompute, .u = 0),
    NOT_AN_ENUM(layer, boundary),
    NOT_A_FLAG(layer, resident),
    NOT_AN_ENUM(layer, accumulator),
    FAULT("reserved", layer.reserved, .u = 1),
    FAULT("layers[0]", layer.first, .u = 2),
    VAST_AS("layers[0]", layer, first),
    FAULT("layers[0]", layer.count, .u = 3),
    VAST_AS("layers[0]", layer, count),
    NO_FAULT,
};

static const fault_t BATCH[] = {
    FAULT("reserved", batch.reserved, .u = 1),
    FAULT("rows", batch.rows, .u = 0),
    VAST_AS("rows|tokens", batch, rows),
    FAULT("rows", batch.rows, .u = N - 1),
    FAULT("rows", batch.rows, .u = N + 1),
    FAULT("rows", batch.rows, .u = N + T),
    FAULT("sequence_length", batch.sequence_length, .u = T + 1),
    FAULT("sequence_length", batch.sequence_length, .u = 5),
    VAST(batch, sequence_length),
    NOT_A_POINTER(batch, tokens),
    NOT_A_POINTER(batch, targets),
    FAULT("weights", batch.weights, .at = (const char *)world.weights + 1),
    FAULT("starts", batch.starts, .at = (const char *)world.starts + 1),
    NOT_A_TOKEN,
    FAULT("target", targets[6], .i = -1),
    FAULT("target", targets[6], .i = V),
    FAULT("target", targets[6], .i = INT32_MAX),
    FAULT("weight", weights[0], .f = NAN),
    FAULT("weight", weights[0], .f = INFINITY),
    FAULT("weight", weights[0], .f = -1.0f),
    FAULT("start", starts[0], .i = 1),
    FAULT("start", starts[3], .i = 2),
    FAULT("start", starts[3], .i = -1),
    FAULT("start", starts[T], .i = T),
    FAULT("start", starts[N - 1], .i = N),
    NO_FAULT,
};

static const fault_t ANNOUNCED[] = {NOT_A_TOKEN, NO_FAULT};

static const fault_t NOT_NUMBERS[] = {
    FAULT("element", weights[3], .f = NAN),
    FAULT("element", weights[3], .f = INFINITY),
    NO_FAULT,
};

static const fault_t TUNED[] = {
    NOT_A_FLAG(tuned, frozen),
    NEGATIVE(tuned, lr_scale),
    NEGATIVE(tuned, weight_decay),
    NO_FAULT,
};

static const fault_t ADAM_OPTIONS[] = {
    NOT_AN_ENUM(adam, mode),
    FAULT("mode", adam.mode, .u = 0),
    VAST(adam, threads),
    VAST(adam, state_count),
    FAULT("memory", adam.host_mem, .u = 1),
    NEGATIVE(adam, beta1),
    FAULT("beta1", adam.beta1, .d = 1.0),
    NEGATIVE(adam, beta2),
    FAULT("beta2", adam.beta2, .d = 1.0),
    NEGATIVE(adam, eps),
    FAULT("eps", adam.eps, .d = 0.0),
    NEGATIVE(adam, weight_decay),
    NO_FAULT,
};

static const fault_t OWN[] = {
    NOT_AN_ENUM(own, gradient_dtype),
    FAULT("gradient_dtype", own.gradient_dtype, .u = 0),
    VAST_AS("weights", own, count),
    FAULT("first", own.first, .u = UINT64_MAX),
    NOT_A_POINTER(own, weights),
    NOT_A_POINTER(own, residual),
    NOT_A_POINTER(own, gradient),
    NOT_A_POINTER_AS("arrays->m", own, m),
    NOT_A_POINTER_AS("arrays->v", own, v),
    FAULT("bf16_out", own.bf16_out, .at = world.copy),
    FAULT("overlap", own.v, .at = world.m),
    FAULT("overlap", own.gradient, .at = world.w + COUNT / 2),
    NO_FAULT,
};

static const fault_t LENT[] = {
    FAULT("residual", lent.residual, .at = world.r),
    FAULT("arrays->m", lent.m, .at = world.m),
    FAULT("arrays->v", lent.v, .at = world.v),
    FAULT("first", lent.first, .u = COUNT),
    FAULT("count", lent.count, .u = COUNT + 1),
    NO_FAULT,
};

static const fault_t ARENA_OPTIONS[] = {
    NOT_AN_ENUM(arena, kind),
    FAULT("kind", arena.kind, .u = 0),
    FAULT("node", arena.node, .u = 1),
    NOT_AN_ENUM(arena, pages),
    FAULT("memory", arena.host_mem, .u = 1),
    NO_FAULT,
};

/* ---- functions ---- */

typedef struct {
    const char *name;
    hz_status_t (*call)(const value_t *a);
    argument_t arguments[8];
    const fault_t *faults[3];
} function_t;

/* Functions that return nothing report errors in hz_last_error alone. */
#define CALL(name, ...) \
    static hz_status_t call_##name(const value_t *a) { return name(__VA_ARGS__); }
#define CALL_VOID(name, ...) \
    static hz_status_t call_##name(const value_t *a) { \
        name(__VA_ARGS__); \
        return HZ_STATUS_INVALID_ARGUMENT; \
    }

CALL(hz_set_log_level, (hz_log_level_t)a[0].u)
CALL(hz_device_count, (hz_device_t)a[0].u, a[1].to)
CALL(hz_device_info, (hz_device_t)a[0].u, (uint32_t)a[1].u, a[2].to)
CALL(hz_model_config_from_preset, a[0].at, a[1].to)
CALL(hz_model_config_from_hf, a[0].at, a[1].to)
CALL(hz_plan_open, a[0].at, a[1].at, a[2].to)
CALL(hz_plan_search, a[0].at, a[1].at, a[2].at, a[3].to)
CALL(hz_plan_admit, a[0].at)
CALL(hz_plan_summary, a[0].at, a[1].to)
CALL(hz_plan_busy_seconds, a[0].at, (hz_lane_t)a[1].u, a[2].to)
CALL(hz_plan_json, a[0].at, a[1].to)
CALL(hz_plan_trace, a[0].at, a[1].at)
CALL_VOID(hz_plan_close, a[0].to)
CALL(hz_trainer_open, a[0].at, a[1].at, a[2].to)
CALL(hz_trainer_open_planned, a[0].at, a[1].to)
CALL(hz_trainer_close, a[0].to)
CALL(hz_trainer_device, a[0].at, a[1].to)
CALL(hz_trainer_model, a[0].at, a[1].to)
CALL(hz_trainer_tensor_count, a[0].at, a[1].to)
CALL(hz_trainer_tensor, a[0].at, (size_t)a[1].u, a[2].to)
CALL(hz_trainer_init_weights, a[0].to, a[1].u)
CALL(hz_trainer_load_hf, a[0].to, a[1].at)
CALL(hz_trainer_export_hf, a[0].to, a[1].at, (hz_dtype_t)a[2].u)
CALL(hz_trainer_read_tensor, a[0].to, a[1].at, a[2].to, (size_t)a[3].u)
CALL(hz_trainer_write_tensor, a[0].to, a[1].at, a[2].at, (size_t)a[3].u)
CALL(hz_trainer_set_tensor_options, a[0].to, a[1].at, a[2].at)
CALL(hz_trainer_tensor_options, a[0].to, a[1].at, a[2].to)
CALL(hz_trainer_read_gradient, a[0].to, a[1].at, a[2].to, (size_t)a[3].u)
CALL(hz_trainer_accumulate, a[0].to, a[1].at)
CALL(hz_trainer_announce, a[0].to, a[1].at, (size_t)a[2].u)
CALL(hz_trainer_update, a[0].to, a[1].d, a[2].to)
CALL(hz_trainer_discard, a[0].to)
CALL(hz_trainer_step, a[0].to, a[1].at, (size_t)a[2].u, a[3].d, a[4].to)
CALL(hz_trainer_eval, a[0].to, a[1].at, (size_t)a[2].u, a[3].to)
CALL(hz_trainer_logits, a[0].to, a[1].at, (size_t)a[2].u, a[3].to, (size_t)a[4].u)
CALL(hz_trainer_logprobs, a[0].to, a[1].at, (size_t)a[2].u, a[3].to, (size_t)a[4].u)
CALL(hz_trainer_step_with_loss, a[0].to, a[1].at, (size_t)a[2].u, a[3].d, a[4].loss, a[5].to, a[6].to)
CALL(hz_trainer_cancel, a[0].to)
CALL(hz_trainer_set_progress, a[0].to, NULL, a[1].to)
CALL(hz_trainer_save, a[0].to, a[1].save, a[2].to)
CALL(hz_trainer_save_wait, a[0].to)
CALL(hz_trainer_save_to, a[0].to, a[1].at, a[2].u, a[3].at)
CALL(hz_trainer_resume, a[0].to, a[1].at, a[2].at, a[3].to)
CALL(hz_trainer_sync, a[0].to)
CALL(hz_trainer_stats, a[0].to, a[1].to)
CALL(hz_trainer_busy_seconds, a[0].to, (hz_lane_t)a[1].u, a[2].to)
CALL(hz_trainer_trace, a[0].to, a[1].at)
CALL(hz_adam_open, a[0].at, a[1].to)
CALL(hz_adam_step, a[0].at, a[1].at, a[2].d, a[3].u, a[4].d, a[5].d)
CALL(hz_adam_state, a[0].at, a[1].u, a[2].u, a[3].to)
CALL_VOID(hz_adam_close, a[0].to)
CALL(hz_master_split, a[0].at, (size_t)a[1].u, a[2].to, a[3].to)
CALL(hz_master_join, a[0].at, a[1].at, (size_t)a[2].u, a[3].to)
CALL(hz_arena_open, a[0].at, a[1].u, a[2].to)
CALL(hz_arena_touch, a[0].at, a[1].u)
CALL(hz_arena_info, a[0].at, a[1].to)
CALL(hz_arena_node_at, a[0].at, a[1].u, a[2].to)
CALL_VOID(hz_arena_close, a[0].to)
CALL(hz_device_info_init, a[0].to, (size_t)a[1].u)
CALL(hz_model_config_init, a[0].to, (size_t)a[1].u)
CALL(hz_layer_placement_init, a[0].to, (size_t)a[1].u)
CALL(hz_trainer_options_init, a[0].to, (size_t)a[1].u)
CALL(hz_plan_summary_init, a[0].to, (size_t)a[1].u)
CALL(hz_tensor_info_init, a[0].to, (size_t)a[1].u)
CALL(hz_tensor_options_init, a[0].to, (size_t)a[1].u)
CALL(hz_batch_init, a[0].to, (size_t)a[1].u)
CALL(hz_step_report_init, a[0].to, (size_t)a[1].u)
CALL(hz_eval_report_init, a[0].to, (size_t)a[1].u)
CALL(hz_trainer_stats_init, a[0].to, (size_t)a[1].u)
CALL(hz_adam_options_init, a[0].to, (size_t)a[1].u)
CALL(hz_adam_arrays_init, a[0].to, (size_t)a[1].u)
CALL(hz_arena_options_init, a[0].to, (size_t)a[1].u)
CALL(hz_arena_info_init, a[0].to, (size_t)a[1].u)

static int32_t no_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    (void)logprobs, (void)dlogprobs, (void)count, (void)out_loss, (void)user;
    CHECK(!"a refused step calls no loss function");
    return 1;
}

static int32_t no_save(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual,
                       const void *m, const void *v, void *user) {
    (void)unit, (void)elements, (void)weights, (void)residual, (void)m, (void)v, (void)user;
    CHECK(!"a refused save calls no function");
    return 1;
}

static const char *const NAMES[] = {"", "\xff", "no.such.name", NULL};
static const char *const FOLDERS[] = {"", "missing", "file", "broken", NULL};
static const char *const MODELS[] = {"", "missing", "file", "broken", "other", NULL};
static const char *const EXPORTS[] = {"", "file", "checkpoints", NULL};
static const char *const SAVES[] = {"", "file", "file/below", "export", NULL};
static const char *const CHECKPOINTS[] = {"", "missing", "file", "broken", "export", NULL};
static const char *const FILES[] = {"", "missing/file", "export", NULL};
static const char *const CHANGES[] = {"\xff", "no.such.name", NULL};
static const char *const NOTES[] = {"\xff", NULL};
static const char *const MACHINES[] = {"", "\xff", "no.such.name", "file", NULL};

#define OF(name, which) {HANDLE, name, {which}, NULL}
#define CLOSING(name, which) {CLOSED, name, {which}, NULL}
#define TRAINER_ OF("trainer", TRAINER)
#define STRUCT_(name, place) {IN, name, {AT(place)}, NULL}
#define DEFAULTED(name, place) {IN_OR_NULL, name, {AT(place)}, NULL}
#define OUT_(name, place) {OUT, name, {AT(place)}, NULL}
#define ARRAY(name, place) {POINTER, name, {AT(place)}, NULL}
#define NUMBER(kind, word, value) {kind, word, {value}, NULL}
#define REAL(kind, name, value) {kind, name, {.d = (value)}, NULL}
#define STRING(kind, name, value, wrong) {kind, name, {.at = (value)}, wrong}
#define BATCHES STRUCT_("batches", batch), NUMBER(COUNT_, "count", 1)
#define TENSOR STRING(TEXT, "name", "model.norm.weight", NAMES)
#define VALUES(place) ARRAY("values", place), NUMBER(EXACT, "count|values", C)

#define FAULTS(...) {__VA_ARGS__}
#define ROW(name, faults, ...) {#name, call_##name, {__VA_ARGS__}, faults}
#define INIT_ROW(name, place) \
    ROW(name, FAULTS(NULL), ARRAY("value", place), NUMBER(COUNT_, "struct_size", sizeof world.place))

static const function_t FUNCTIONS[] = {
    ROW(hz_set_log_level, FAULTS(NULL), NUMBER(ENUM, "level", HZ_LOG_INFO)),
    ROW(hz_device_count, FAULTS(NULL), NUMBER(ENUM, "kind", HZ_DEVICE_CPU), ARRAY("out_count", out_node)),
    ROW(hz_device_info, FAULTS(NULL), NUMBER(ENUM, "kind", HZ_DEVICE_CPU), NUMBER(ANY, "index", 0),
        OUT_("out_info", out_device)),
    ROW(hz_model_config_from_preset, FAULTS(NULL), STRING(TEXT, "name", "tiny", NAMES),
        OUT_("out_config", out_config)),
    ROW(hz_model_config_from_hf, FAULTS(NULL), STRING(TEXT, "folder", "export", FOLDERS),
        OUT_("out_config", out_config)),
    ROW(hz_plan_open, FAULTS(MODEL, OPTIONS), STRUCT_("model", model), DEFAULTED("options", options),
        ARRAY("out_plan", out_pointer)),
    ROW(hz_plan_search, FAULTS(MODEL, OPTIONS), STRUCT_("model", model), DEFAULTED("options", options),
        STRING(TEXT_OR_NULL, "machine", "cpu", MACHINES), ARRAY("out_plan", out_pointer)),
    ROW(hz_plan_admit, FAULTS(NULL), OF("plan", PLAN)),
    ROW(hz_plan_summary, FAULTS(NULL), OF("plan", PLAN), OUT_("out_summary", out_summary)),
    ROW(hz_plan_busy_seconds, FAULTS(NULL), OF("plan", PLAN), NUMBER(ENUM, "lane", 0),
        ARRAY("out_seconds", out_seconds)),
    ROW(hz_plan_json, FAULTS(NULL), OF("plan", PLAN), ARRAY("out_json", out_pointer)),
    ROW(hz_plan_trace, FAULTS(NULL), OF("plan", PLAN), STRING(TEXT, "path", "trace", FILES)),
    ROW(hz_plan_close, FAULTS(NULL), CLOSING("plan", PLAN)),

    ROW(hz_trainer_open, FAULTS(MODEL, OPTIONS), STRUCT_("model", model), DEFAULTED("options", options),
        ARRAY("out_trainer", out_pointer)),
    ROW(hz_trainer_open_planned, FAULTS(NULL), OF("plan", PLAN), ARRAY("out_trainer", out_pointer)),
    ROW(hz_trainer_close, FAULTS(NULL), CLOSING("trainer", TRAINER)),
    ROW(hz_trainer_device, FAULTS(NULL), TRAINER_, OUT_("out_info", out_device)),
    ROW(hz_trainer_model, FAULTS(NULL), TRAINER_, OUT_("out_config", out_config)),
    ROW(hz_trainer_tensor_count, FAULTS(NULL), TRAINER_, ARRAY("out_count", out_count)),
    ROW(hz_trainer_tensor, FAULTS(NULL), TRAINER_, NUMBER(LARGE, "index", 0), OUT_("out_tensor", out_tensor)),
    ROW(hz_trainer_init_weights, FAULTS(NULL), TRAINER_, NUMBER(ANY, "seed", 1)),
    ROW(hz_trainer_load_hf, FAULTS(NULL), TRAINER_, STRING(TEXT, "folder", "export", MODELS)),
    ROW(hz_trainer_export_hf, FAULTS(NULL), TRAINER_, STRING(TEXT, "folder", "again", EXPORTS),
        NUMBER(ENUM, "dtype", HZ_DTYPE_F32)),
    ROW(hz_trainer_read_tensor, FAULTS(NULL), TRAINER_, TENSOR, VALUES(out_floats)),
    ROW(hz_trainer_write_tensor, FAULTS(NOT_NUMBERS), TRAINER_, TENSOR, VALUES(weights)),
    ROW(hz_trainer_set_tensor_options, FAULTS(TUNED), TRAINER_, TENSOR, DEFAULTED("options", tuned)),
    ROW(hz_trainer_tensor_options, FAULTS(NULL), TRAINER_, TENSOR, OUT_("out_options", out_options)),
    ROW(hz_trainer_read_gradient, FAULTS(NULL), TRAINER_, TENSOR, VALUES(out_floats)),

    ROW(hz_trainer_accumulate, FAULTS(BATCH), TRAINER_, STRUCT_("batch", batch)),
    ROW(hz_trainer_announce, FAULTS(ANNOUNCED), TRAINER_, ARRAY("tokens", tokens), NUMBER(LARGE, "tokens", N)),
    ROW(hz_trainer_update, FAULTS(NULL), TRAINER_, REAL(RATE, "lr", 1e-3), OUT_("out_report", out_step)),
    ROW(hz_trainer_discard, FAULTS(NULL), TRAINER_),
    ROW(hz_trainer_step, FAULTS(BATCH), TRAINER_, BATCHES, REAL(RATE, "lr", 1e-3), OUT_("out_report", out_step)),
    ROW(hz_trainer_eval, FAULTS(BATCH), TRAINER_, BATCHES, OUT_("out_report", out_eval)),
    ROW(hz_trainer_logits, FAULTS(NULL), TRAINER_, ARRAY("tokens", tokens), NUMBER(COUNT_, "count|tokens", T),
        ARRAY("logits", out_floats), NUMBER(EXACT, "logits", V)),
    ROW(hz_trainer_logprobs, FAULTS(BATCH), TRAINER_, BATCHES, ARRAY("logprobs", out_floats),
        NUMBER(EXACT, "logprobs", N)),
    ROW(hz_trainer_step_with_loss, FAULTS(BATCH), TRAINER_, BATCHES, REAL(RATE, "lr", 1e-3),
        {CALLBACK, "loss", {.loss = no_loss}, NULL}, NUMBER(ANY, "user", 0), OUT_("out_report", out_step)),

    ROW(hz_trainer_cancel, FAULTS(NULL), TRAINER_),
    ROW(hz_trainer_set_progress, FAULTS(NULL), TRAINER_, NUMBER(ANY, "user", 0)),

    ROW(hz_trainer_save, FAULTS(NULL), TRAINER_, {CALLBACK, "save", {.save = no_save}, NULL}, NUMBER(ANY, "user", 0)),
    ROW(hz_trainer_save_wait, FAULTS(NULL), TRAINER_),
    ROW(hz_trainer_save_to, FAULTS(NULL), TRAINER_, STRING(TEXT, "folder", "checkpoints", SAVES),
        NUMBER(ANY, "keep", 0), STRING(TEXT_OR_NULL, "note", NULL, NOTES)),
    ROW(hz_trainer_resume, FAULTS(NULL), TRAINER_, STRING(TEXT, "folder", "checkpoints", CHECKPOINTS),
        STRING(TEXT_OR_NULL, "changes", NULL, CHANGES), {POINTER_OR_NULL, "out_note", {AT(out_pointer)}, NULL}),
    ROW(hz_trainer_sync, FAULTS(NULL), TRAINER_),
    ROW(hz_trainer_stats, FAULTS(NULL), TRAINER_, OUT_("out_stats", out_stats)),
    ROW(hz_trainer_busy_seconds, FAULTS(NULL), TRAINER_, NUMBER(ENUM, "lane", 0), ARRAY("out_seconds", out_seconds)),
    ROW(hz_trainer_trace, FAULTS(NULL), TRAINER_, STRING(TEXT, "path", "trace", FILES)),

    ROW(hz_adam_open, FAULTS(ADAM_OPTIONS), DEFAULTED("options", adam), ARRAY("out_adam", out_pointer)),
    ROW(hz_adam_step, FAULTS(OWN), OF("adam", ADAM), STRUCT_("arrays", own), REAL(RATE, "lr", 1e-3),
        NUMBER(ORDINAL, "step", 1), REAL(FACTOR, "gradient_scale", 1.0), REAL(RATE, "decay", 1.0)),
    ROW(hz_adam_step, FAULTS(LENT), OF("adam", KEPT), STRUCT_("arrays", lent), REAL(ANY, "lr", 1e-3),
        NUMBER(ANY, "step", 1), REAL(ANY, "gradient_scale", 1.0), REAL(ANY, "decay", 1.0)),
    ROW(hz_adam_state, FAULTS(NULL), OF("adam", KEPT), NUMBER(LARGE, "first", 0), NUMBER(LARGE, "count", COUNT),
        OUT_("out_arrays", out_arrays)),
    ROW(hz_adam_close, FAULTS(NULL), CLOSING("adam", ADAM)),
    ROW(hz_master_split, FAULTS(NULL), ARRAY("values", m), NUMBER(LARGE, "values", COUNT), ARRAY("weights", w),
        ARRAY("residual", r)),
    ROW(hz_master_join, FAULTS(NULL), ARRAY("weights", w), ARRAY("residual", r), NUMBER(LARGE, "weights", COUNT),
        ARRAY("values", m)),

    ROW(hz_arena_open, FAULTS(ARENA_OPTIONS), STRUCT_("options", arena), NUMBER(COUNT_, "bytes|memory", 4096),
        ARRAY("out_arena", out_pointer)),
    ROW(hz_arena_touch, FAULTS(NULL), OF("arena", ARENA), NUMBER(LARGE, "threads", 1)),
    ROW(hz_arena_info, FAULTS(NULL), OF("arena", ARENA), OUT_("out_info", out_info)),
    ROW(hz_arena_node_at, FAULTS(NULL), OF("arena", ARENA), NUMBER(LARGE, "offset", 0), ARRAY("out_node", out_node)),
    ROW(hz_arena_close, FAULTS(NULL), CLOSING("arena", ARENA)),

    INIT_ROW(hz_device_info_init, out_device),
    INIT_ROW(hz_model_config_init, out_config),
    INIT_ROW(hz_layer_placement_init, layer),
    INIT_ROW(hz_trainer_options_init, options),
    INIT_ROW(hz_plan_summary_init, out_summary),
    INIT_ROW(hz_tensor_info_init, out_tensor),
    INIT_ROW(hz_tensor_options_init, tuned),
    INIT_ROW(hz_batch_init, batch),
    INIT_ROW(hz_step_report_init, out_step),
    INIT_ROW(hz_eval_report_init, out_eval),
    INIT_ROW(hz_trainer_stats_init, out_stats),
    INIT_ROW(hz_adam_options_init, adam),
    INIT_ROW(hz_adam_arrays_init, own),
    INIT_ROW(hz_arena_options_init, arena),
    INIT_ROW(hz_arena_info_init, out_info),
};

#endif
