/*
 * AdamW on arrays of the program, as with DeepSpeed's CPU Adam: compared with a reference in double, and between
 * modes bit for bit; state kept by the library and by the caller; several threads; errors.
 */
#include <math.h>
#include <pthread.h>

#include "small.h"

enum { COUNT = 100003, STEPS = 20 };

static const double LR = 1e-3, SCALE = 0.5;

/* COUNT parameters in every format, and the reference in double. */
static float params[COUNT], grads[COUNT], m[COUNT], v[COUNT], joined[COUNT];
static uint16_t weights[COUNT], bf16_grads[COUNT], bf16_out[COUNT], bf16_m[COUNT], bf16_v[COUNT];
static int16_t residual[COUNT];
static double ref_p[COUNT], ref_m[COUNT], ref_v[COUNT];

/* Between -1 and 1, and exact in bf16, so that both gradient dtypes have the same value. */
static float gradient_of(uint64_t element, uint64_t step) {
    uint32_t mixed = (uint32_t)((element * 2654435761u + step * 40503u) >> 5) % 509;
    return ((float)mixed - 254.0f) / 256.0f;
}

static float start_of(uint64_t element) {
    return (float)((element * 48271u) % 100019) / 30000.0f - 1.5f;
}

static uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    CHECK((bits & 0xffff) == 0);
    return (uint16_t)(bits >> 16);
}

static void set_gradients(uint64_t step) {
    for (uint64_t i = 0; i < COUNT; i++) {
        grads[i] = gradient_of(i, step);
        bf16_grads[i] = bf16_of(grads[i]);
    }
}

static void restart(void) {
    for (uint64_t i = 0; i < COUNT; i++) params[i] = start_of(i);
    memset(m, 0, sizeof m);
    memset(v, 0, sizeof v);
    memset(bf16_m, 0, sizeof bf16_m);
    memset(bf16_v, 0, sizeof bf16_v);
    OK(hz_master_split(params, COUNT, weights, residual));
}

static hz_adam_t *open_mode(hz_adam_mode_t mode, uint64_t threads, uint64_t state_count) {
    hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
    hz_adam_t *adam = NULL;
    options.mode = mode;
    options.threads = threads;
    options.state_count = state_count;
    options.seed = 5;
    OK(hz_adam_open(&options, &adam));
    return adam;
}

static hz_adam_arrays_t whole_arrays(void) {
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    arrays.gradient_dtype = HZ_DTYPE_F32;
    arrays.count = COUNT;
    arrays.weights = params;
    arrays.gradient = grads;
    arrays.m = m;
    arrays.v = v;
    arrays.bf16_out = bf16_out;
    return arrays;
}

static hz_adam_arrays_t split_arrays(void) {
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    arrays.gradient_dtype = HZ_DTYPE_BF16;
    arrays.count = COUNT;
    arrays.weights = weights;
    arrays.residual = residual;
    arrays.gradient = bf16_grads;
    arrays.m = m;
    arrays.v = v;
    return arrays;
}

/* ---- f32 masters against double ---- */

static void test_reference(void) {
    hz_adam_t *adam = open_mode(HZ_ADAM_MODE_F32, 2, 0);
    hz_adam_arrays_t arrays = whole_arrays();
    restart();
    for (size_t i = 0; i < COUNT; i++) {
        ref_p[i] = params[i];
        ref_m[i] = ref_v[i] = 0.0;
    }
    for (uint64_t step = 1; step <= STEPS; step++) {
        double bias1 = 1.0 - pow(0.9, (double)step), bias2 = 1.0 - pow(0.999, (double)step);
        double decay = step % 4 == 0 ? 0.0 : step % 4 == 1 ? 2.0 : 1.0;
        set_gradients(step);
        OK(hz_adam_step(adam, &arrays, LR, step, SCALE, decay));
        for (size_t i = 0; i < COUNT; i++) {
            double g = grads[i] * SCALE;
            ref_m[i] += 0.1 * (g - ref_m[i]);
            ref_v[i] += 0.001 * (g * g - ref_v[i]);
            ref_p[i] -= LR * 0.01 * decay * ref_p[i] + LR / bias1 * ref_m[i] / (sqrt(ref_v[i] / bias2) + 1e-8);
            /* The relative rounding error of f32 is 2^-24; each step rounds the master once. */
            double bound = (double)step * 1.3e-7;
            CHECK(fabs(params[i] - ref_p[i]) <= bound * (1.0 + fabs(ref_p[i])));
            CHECK(fabs(m[i] - ref_m[i]) <= bound && fabs(v[i] - ref_v[i]) <= bound);
        }
    }
    hz_adam_close(adam);
}

/* ---- mode against mode ---- */

static void test_exact_is_f32(void) {
    static uint16_t f32_copy[COUNT];
    static float f32_params[COUNT], f32_v[COUNT];
    hz_adam_t *adam = open_mode(HZ_ADAM_MODE_F32, 1, 0);
    hz_adam_arrays_t arrays = whole_arrays();
    restart();
    for (uint64_t step = 1; step <= STEPS; step++) {
        set_gradients(step);
        OK(hz_adam_step(adam, &arrays, LR, step, SCALE, 1.0));
    }
    hz_adam_close(adam);
    memcpy(f32_params, params, sizeof params);
    memcpy(f32_copy, bf16_out, sizeof bf16_out);
    memcpy(f32_v, v, sizeof v);

    /* bf16 gradients, split masters, three threads; the state kept by the caller, then by the library. */
    for (int keeps = 0; keeps < 2; keeps++) {
        hz_adam_arrays_t state = HZ_ADAM_ARRAYS_INIT;
        adam = open_mode(HZ_ADAM_MODE_EXACT, 3, keeps ? COUNT : 0);
        arrays = split_arrays();
        restart();
        if (keeps) {
            OK(hz_adam_state(adam, 0, COUNT, &state));
            CHECK(state.count == COUNT && state.first == 0 && state.weights == NULL && state.gradient == NULL);
            OK(hz_master_split(params, COUNT, weights, state.residual));
            arrays.residual = NULL;
            arrays.m = arrays.v = NULL;
        }
        for (uint64_t step = 1; step <= STEPS; step++) {
            set_gradients(step);
            OK(hz_adam_step(adam, &arrays, LR, step, SCALE, 1.0));
        }
        OK(hz_master_join(weights, keeps ? state.residual : residual, COUNT, joined));
        CHECK(memcmp(joined, f32_params, sizeof joined) == 0);
        CHECK(memcmp(weights, f32_copy, sizeof weights) == 0);
        CHECK(memcmp(keeps ? state.v : v, f32_v, sizeof v) == 0);
        hz_adam_close(adam);
    }
}

/* ---- threads ---- */

typedef struct {
    const hz_adam_t *adam;
    uint64_t first, end;
} share_t;

/* Steps its own elements, 1000 per call. Counts failures, because CHECK is for the main thread only. */
static void *step_share(void *user) {
    const share_t *share = user;
    size_t failed = 0;
    for (uint64_t step = 1; step <= STEPS; step++) {
        for (uint64_t at = share->first; at < share->end; at += 1000) {
            hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
            arrays.gradient_dtype = HZ_DTYPE_BF16;
            arrays.first = at;
            arrays.count = share->end - at < 1000 ? share->end - at : 1000;
            arrays.weights = weights + at;
            arrays.gradient = bf16_grads + at;
            failed += hz_adam_step(share->adam, &arrays, LR, step, SCALE, 1.0) != HZ_STATUS_OK;
        }
    }
    return failed == 0 ? user : NULL;
}

static void test_threads(void) {
    static uint16_t once[COUNT], once_m[COUNT], once_v[COUNT];
    hz_adam_arrays_t arrays = split_arrays(), state = HZ_ADAM_ARRAYS_INIT;
    hz_adam_t *adam = open_mode(HZ_ADAM_MODE_COMPACT, 1, 0);
    restart();
    set_gradients(1);
    arrays.m = bf16_m;
    arrays.v = bf16_v;
    for (uint64_t step = 1; step <= STEPS; step++) OK(hz_adam_step(adam, &arrays, LR, step, SCALE, 1.0));
    hz_adam_close(adam);
    memcpy(once, weights, sizeof weights);
    memcpy(once_m, bf16_m, sizeof bf16_m);
    memcpy(once_v, bf16_v, sizeof bf16_v);

    /* With a constant gradient, each step moves a parameter by about the learning rate, without weight decay. */
    OK(hz_master_join(weights, residual, COUNT, joined));
    double moved = 0.0;
    for (uint64_t i = 0; i < COUNT; i++) moved += fabs((double)joined[i] - (double)start_of(i));
    CHECK(moved / COUNT > 0.5 * LR * STEPS && moved / COUNT < 1.5 * LR * STEPS);

    /* Three threads with one handle, each on a third of the elements, in small calls. */
    restart();
    adam = open_mode(HZ_ADAM_MODE_COMPACT, 2, COUNT);
    OK(hz_adam_state(adam, 0, COUNT, &state));
    OK(hz_master_split(params, COUNT, weights, state.residual));
    pthread_t threads[3];
    share_t shares[3];
    for (uint64_t t = 0; t < 3; t++) {
        shares[t] = (share_t){adam, COUNT * t / 3, COUNT * (t + 1) / 3};
        CHECK(pthread_create(&threads[t], NULL, step_share, &shares[t]) == 0);
    }
    for (int t = 0; t < 3; t++) {
        void *passed = NULL;
        CHECK(pthread_join(threads[t], &passed) == 0 && passed != NULL);
    }
    CHECK(memcmp(weights, once, sizeof weights) == 0);
    OK(hz_master_join(weights, state.residual, COUNT, params));
    CHECK(memcmp(params, joined, sizeof params) == 0);
    CHECK(memcmp(state.m, once_m, sizeof once_m) == 0 && memcmp(state.v, once_v, sizeof once_v) == 0);
    hz_adam_close(adam);
}

/* ---- errors ---- */

static void test_refused_options(void) {
    hz_adam_t *adam = NULL;
    const struct {
        const char *word;
        hz_adam_mode_t mode;
        uint64_t threads, state_count;
        double beta1, beta2, eps, weight_decay;
    } cases[] = {
        {"mode is 0", 0, 1, 0, 0.9, 0.999, 1e-8, 0.0},
        {"mode is 4", 4, 1, 0, 0.9, 0.999, 1e-8, 0.0},
        {"threads is 5000", 1, 5000, 0, 0.9, 0.999, 1e-8, 0.0},
        {"state_count is 18446744073709551615", 1, 1, UINT64_MAX, 0.9, 0.999, 1e-8, 0.0},
        {"beta1 is 1", 1, 1, 0, 1.0, 0.999, 1e-8, 0.0},
        {"beta2 is -0.5", 1, 1, 0, 0.9, -0.5, 1e-8, 0.0},
        {"eps is 0", 1, 1, 0, 0.9, 0.999, 0.0, 0.0},
        {"weight_decay is -1", 1, 1, 0, 0.9, 0.999, 1e-8, -1.0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
        options.mode = cases[i].mode;
        options.threads = cases[i].threads;
        options.state_count = cases[i].state_count;
        options.beta1 = cases[i].beta1;
        options.beta2 = cases[i].beta2;
        options.eps = cases[i].eps;
        options.weight_decay = cases[i].weight_decay;
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, cases[i].word, hz_adam_open(&options, &adam));
    }
    hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
    options.state_count = 1 << 20;
    options.host_mem = 1 << 20;
    REFUSED(HZ_STATUS_OUT_OF_HOST_MEMORY, "AdamW's state needs 10.0 MiB", hz_adam_open(&options, &adam));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_adam is NULL", hz_adam_open(NULL, NULL));
    CHECK(adam == NULL);
    OK(hz_adam_open(NULL, &adam));
    hz_adam_close(adam);
    hz_adam_close(NULL);
}

static void test_refused_steps(void) {
    hz_adam_t *adam = open_mode(HZ_ADAM_MODE_EXACT, 1, 0), *keeps = open_mode(HZ_ADAM_MODE_EXACT, 1, 10);
    hz_adam_t *f32 = open_mode(HZ_ADAM_MODE_F32, 1, 0);
    hz_adam_arrays_t good = split_arrays(), arrays;
    restart();
    set_gradients(1);
    memcpy(bf16_out, weights, sizeof weights);

#define STEP_REFUSED(word, adam, change, lr, step, scale, decay) \
    do { \
        arrays = good; \
        change; \
        REFUSED(HZ_STATUS_INVALID_ARGUMENT, word, hz_adam_step(adam, &arrays, lr, step, scale, decay)); \
    } while (0)

    STEP_REFUSED("adam is NULL", NULL, (void)0, LR, 1, 1.0, 1.0);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "arrays is NULL", hz_adam_step(adam, NULL, LR, 1, 1.0, 1.0));
    STEP_REFUSED("lr is -1", adam, (void)0, -1.0, 1, 1.0, 1.0);
    STEP_REFUSED("lr is NaN", adam, (void)0, NAN, 1, 1.0, 1.0);
    STEP_REFUSED("step is 0", adam, (void)0, LR, 0, 1.0, 1.0);
    STEP_REFUSED("gradient_scale is inf", adam, (void)0, LR, 1, INFINITY, 1.0);
    STEP_REFUSED("decay is -1", adam, (void)0, LR, 1, 1.0, -1.0);
    STEP_REFUSED("arrays->gradient_dtype is 0", adam, arrays.gradient_dtype = 0, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->weights cannot have", adam, arrays.count = UINT64_MAX / 2, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->first is", adam, arrays.first = UINT64_MAX, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->weights is NULL", adam, arrays.weights = NULL, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->residual is NULL", adam, arrays.residual = NULL, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->gradient is NULL", adam, arrays.gradient = NULL, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->m is NULL", adam, arrays.m = NULL, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->v is not aligned", adam, arrays.v = (char *)v + 2, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->m and arrays->v overlap", adam, arrays.v = m + COUNT - 1; arrays.count = COUNT, LR, 1, 1.0,
                 1.0);
    STEP_REFUSED("arrays->bf16_out must be NULL", adam, arrays.bf16_out = bf16_out, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->residual must be NULL", f32, arrays.weights = params, LR, 1, 1.0, 1.0);
    STEP_REFUSED("arrays->residual must be NULL", keeps, arrays.count = 10, LR, 1, 1.0, 1.0);
    good.residual = NULL;
    good.m = good.v = NULL;
    STEP_REFUSED("first is 8 and count is 3; the state has 10 elements", keeps, arrays.count = 3; arrays.first = 8, LR,
                 1, 1.0, 1.0);
    CHECK(memcmp(weights, bf16_out, sizeof weights) == 0);

    hz_adam_arrays_t state = HZ_ADAM_ARRAYS_INIT;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "the state has 10 elements", hz_adam_state(keeps, 9, 2, &state));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "without state_count", hz_adam_state(adam, 0, 1, &state));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_arrays is NULL", hz_adam_state(keeps, 0, 1, NULL));
    CHECK(state.m == NULL);

    hz_adam_arrays_t none = HZ_ADAM_ARRAYS_INIT;
    none.gradient_dtype = HZ_DTYPE_F32;
    OK(hz_adam_step(adam, &none, LR, 1, 1.0, 1.0));

    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_master_split(NULL, 1, weights, residual));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "residual is NULL", hz_master_split(params, 1, weights, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "weights is NULL", hz_master_join(NULL, residual, 1, params));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "values is NULL", hz_master_join(weights, residual, 1, NULL));
    OK(hz_master_split(NULL, 0, NULL, NULL));
    OK(hz_master_join(NULL, NULL, 0, NULL));
    hz_adam_close(adam);
    hz_adam_close(keeps);
    hz_adam_close(f32);
}

int main(void) {
    test_reference();
    test_exact_is_f32();
    test_threads();
    test_refused_options();
    test_refused_steps();
    printf("%d checks\n", checks);
    return 0;
}
