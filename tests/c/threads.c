/*
 * Handles and threads: plans, arenas and optimizers closed while other threads use them, and calls on one trainer from
 * several threads.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "small.h"

enum { USERS = 4, ROUNDS = 20, COUNT = 4096 };

/* ---- closing what other threads use ---- */

static hz_plan_t *plan;
static hz_arena_t *arena;
static hz_adam_t *adam;
/* Threads that have used every handle of this round. */
static atomic_int started;

/* The call succeeds, or finds the handle closed. Returns 1 once it is closed. */
static int is_closed(hz_status_t status) {
    CHECK(status == HZ_STATUS_OK ||
          (status == HZ_STATUS_INVALID_ARGUMENT && strstr(hz_last_error(), "it was closed") != NULL));
    return status != HZ_STATUS_OK;
}

static void *use_until_closed(void *unused) {
    static _Thread_local uint16_t weights[COUNT], gradient[COUNT];
    static _Thread_local int16_t residual[COUNT];
    static _Thread_local float m[COUNT], v[COUNT];
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    arrays.gradient_dtype = HZ_DTYPE_BF16;
    arrays.count = COUNT;
    arrays.weights = weights;
    arrays.residual = residual;
    arrays.gradient = gradient;
    arrays.m = m;
    arrays.v = v;
    for (int first = 1, closed = 0; closed < 3; first = 0) {
        hz_plan_summary_t summary = HZ_PLAN_SUMMARY_INIT;
        closed = is_closed(hz_plan_summary(plan, &summary));
        closed += is_closed(hz_arena_touch(arena, 1));
        closed += is_closed(hz_adam_step(adam, &arrays, 1e-3, 1, 1.0, 1.0));
        atomic_fetch_add(&started, first);
    }
    return unused;
}

static void test_closing(void) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_arena_options_t kind = HZ_ARENA_OPTIONS_INIT;
    hz_adam_options_t threads = HZ_ADAM_OPTIONS_INIT;
    threads.threads = 2;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t users[USERS];
        OK(hz_plan_open(&model, &options, &plan));
        OK(hz_arena_open(&kind, 1 << 20, &arena));
        OK(hz_adam_open(&threads, &adam));
        atomic_store(&started, 0);
        for (int i = 0; i < USERS; i++) {
            CHECK(pthread_create(&users[i], NULL, use_until_closed, NULL) == 0);
        }
        while (atomic_load(&started) < USERS) {
            sched_yield();
        }
        hz_adam_close(adam);
        hz_arena_close(arena);
        hz_plan_close(plan);
        for (int i = 0; i < USERS; i++) {
            CHECK(pthread_join(users[i], NULL) == 0);
        }
    }
}

/* ---- calls on a trainer in use ---- */

static void *use_in_use(void *user) {
    hz_trainer_t *trainer = user;
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    REFUSED(HZ_STATUS_INVALID_STATE, "another call", hz_trainer_stats(trainer, &stats));
    REFUSED(HZ_STATUS_INVALID_STATE, "another call", hz_trainer_discard(trainer));
    REFUSED(HZ_STATUS_INVALID_STATE, "another call", hz_trainer_close(trainer));
    OK(hz_trainer_model(trainer, &model));
    CHECK(model.vocab_size == V);
    return NULL;
}

/* A loss function, during which another thread calls the trainer. */
static int32_t loss_with_guest(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    pthread_t guest;
    (void)logprobs;
    CHECK(pthread_create(&guest, NULL, use_in_use, user) == 0 && pthread_join(guest, NULL) == 0);
    for (size_t i = 0; i < count; i++) {
        dlogprobs[i] = -1e-3f;
    }
    *out_loss = 1.0;
    return 0;
}

static void test_in_use(void) {
    static rows_t rows;
    hz_trainer_t *trainer = open_small();
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    OK(hz_trainer_step_with_loss(trainer, &batch, 1, 1e-3, loss_with_guest, trainer, &report));
    CHECK(report.step == 1);
    OK(hz_trainer_close(trainer));
}

/* ---- several threads that close one trainer ---- */

static void *close_trainer(void *user) {
    hz_status_t status;
    do {
        status = hz_trainer_close(user);
    } while (status == HZ_STATUS_INVALID_STATE);
    CHECK(status == HZ_STATUS_OK || status == HZ_STATUS_INVALID_ARGUMENT);
    atomic_fetch_add(&started, status == HZ_STATUS_OK);
    return NULL;
}

static void test_closing_once(void) {
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t closers[USERS];
        hz_trainer_t *trainer = open_small();
        atomic_store(&started, 0);
        for (int i = 0; i < USERS; i++) {
            CHECK(pthread_create(&closers[i], NULL, close_trainer, trainer) == 0);
        }
        for (int i = 0; i < USERS; i++) {
            CHECK(pthread_join(closers[i], NULL) == 0);
        }
        CHECK(atomic_load(&started) == 1);
    }
}

int main(void) {
    test_closing();
    test_in_use();
    test_closing_once();
    return 0;
}
