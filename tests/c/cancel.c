/*
 * Cancels steps from another thread, watches and cancels loading, exporting, saving and resuming, and passes batches
 * that are smaller than the trainer's. Usage: cancel FOLDER (an empty one, for files).
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "small.h"

/* ---- cancelling ---- */

typedef struct {
    hz_trainer_t *trainer;
    atomic_int stop;
} canceller_t;

static void *cancel_once(void *user) {
    OK(hz_trainer_cancel(user));
    return NULL;
}

static void *cancel_always(void *user) {
    canceller_t *canceller = user;
    while (!atomic_load(&canceller->stop)) {
        (void)!hz_trainer_cancel(canceller->trainer);
    }
    return NULL;
}

/* A loss function during which another thread cancels the step. */
static int32_t cancelled_loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancel_once, user) == 0 && pthread_join(thread, NULL) == 0);
    *out_loss = -logprobs[0];
    dlogprobs[count - 1] = 1.0f;
    return 0;
}

static void test_cancelling(void) {
    hz_trainer_t *trainer = open_small(), *alone = open_small();
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t report = HZ_STEP_REPORT_INIT, want = HZ_STEP_REPORT_INIT;
    report.loss = -1.0;

    REFUSED(HZ_STATUS_CANCELLED, "cancelled",
            hz_trainer_step_with_loss(trainer, &batch, 1, 1e-3, cancelled_loss, trainer, &report));
    CHECK(report.loss == -1.0);
    OK(hz_trainer_cancel(trainer)); /* nothing runs: without effect */
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "trainer is NULL", hz_trainer_cancel(NULL));

    /* Another thread cancels all the time: at some point during a step. */
    canceller_t canceller = {trainer, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancel_always, &canceller) == 0);
    hz_status_t status = HZ_STATUS_OK;
    for (int i = 0; i < 10000 && status == HZ_STATUS_OK; i++) {
        status = hz_trainer_step(trainer, &batch, 1, 1e-3, &report);
        if (status == HZ_STATUS_OK) {
            OK(hz_trainer_step(alone, &batch, 1, 1e-3, &want));
        }
    }
    CHECK(status == HZ_STATUS_CANCELLED);
    atomic_store(&canceller.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);

    for (int i = 0; i < 2; i++) {
        OK(hz_trainer_step(trainer, &batch, 1, 1e-3, &report));
        OK(hz_trainer_step(alone, &batch, 1, 1e-3, &want));
        CHECK(memcmp(&report, &want, sizeof report) == 0);
    }
    OK(hz_trainer_close(trainer));
    OK(hz_trainer_close(alone));
}

/* ---- progress ---- */

typedef struct {
    hz_progress_t work;
    int calls, cancel_at;
    uint64_t done, total;
    atomic_int inside;
} watch_t;

static int32_t on_progress(hz_progress_t work, uint64_t done, uint64_t total, void *user) {
    watch_t *watch = user;
    CHECK(atomic_fetch_add(&watch->inside, 1) == 0); /* one call at a time */
    CHECK(work == watch->work && done > watch->done && done <= total);
    CHECK(watch->total == 0 || watch->total == total);
    watch->done = done;
    watch->total = total;
    watch->calls++;
    atomic_fetch_sub(&watch->inside, 1);
    return watch->calls == watch->cancel_at ? 7 : 0;
}

static watch_t watch;

/* Expects calls for `work`, and returns 7 in number `cancel_at`. */
static void expect(hz_progress_t work, int cancel_at) {
    memset(&watch, 0, sizeof watch);
    watch.work = work;
    watch.cancel_at = cancel_at;
}

#define WATCHED(call) \
    do { \
        OK(call); \
        CHECK(watch.calls > 2 && watch.done == watch.total); \
    } while (0)

#define STOPPED(word, call) \
    do { \
        REFUSED(HZ_STATUS_CANCELLED, word, call); \
        CHECK(watch.calls == watch.cancel_at && strstr(hz_last_error(), "returned 7") != NULL); \
    } while (0)

static const char *in(const char *folder, const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int exists(const char *path) {
    FILE *file = fopen(path, "r");
    return file != NULL && fclose(file) == 0;
}

static hz_status_t save(hz_trainer_t *trainer, const char *folder) {
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    return hz_trainer_save_wait(trainer);
}

static void test_progress(const char *folder) {
    hz_trainer_t *trainer = open_small();
    OK(hz_trainer_set_progress(trainer, on_progress, &watch));
    double loss = small_step(trainer);
    CHECK(isfinite(loss));

    expect(HZ_PROGRESS_EXPORT, 3);
    STOPPED("export was cancelled", hz_trainer_export_hf(trainer, in(folder, "hf"), HZ_DTYPE_F32));
    CHECK(!exists(in(folder, "hf")));
    expect(HZ_PROGRESS_EXPORT, 0);
    WATCHED(hz_trainer_export_hf(trainer, in(folder, "hf"), HZ_DTYPE_F32));

    expect(HZ_PROGRESS_SAVE, 2);
    STOPPED("no checkpoint was written", save(trainer, in(folder, "run")));
    hz_trainer_t *other = open_small();
    OK(hz_trainer_set_progress(other, on_progress, &watch));
    expect(HZ_PROGRESS_SAVE, 2);
    OK(hz_trainer_save_to(other, in(folder, "other"), 0, NULL));
    STOPPED("no checkpoint was written", hz_trainer_close(other)); /* nothing fetched the result before */
    CHECK(!exists(in(folder, "run/step-00000001")));
    expect(HZ_PROGRESS_SAVE, 0);
    WATCHED(save(trainer, in(folder, "run")));
    CHECK(exists(in(folder, "run/step-00000001")));

    expect(HZ_PROGRESS_LOAD, 4);
    STOPPED("partly loaded", hz_trainer_load_hf(trainer, in(folder, "hf")));
    expect(HZ_PROGRESS_LOAD, 0);
    WATCHED(hz_trainer_load_hf(trainer, in(folder, "hf")));
    CHECK(isfinite(small_step(trainer)));

    expect(HZ_PROGRESS_RESUME, 0);
    WATCHED(hz_trainer_resume(trainer, in(folder, "run"), NULL, NULL));
    OK(hz_trainer_set_progress(trainer, NULL, NULL));
    expect(HZ_PROGRESS_RESUME, 0);
    OK(hz_trainer_resume(trainer, in(folder, "run"), NULL, NULL));
    CHECK(watch.calls == 0);
    OK(hz_trainer_set_progress(trainer, on_progress, &watch));
    expect(HZ_PROGRESS_RESUME, 1);
    STOPPED("has failed", hz_trainer_resume(trainer, in(folder, "run"), NULL, NULL));
    REFUSED(HZ_STATUS_CANCELLED, "has failed", hz_trainer_sync(trainer));
    REFUSED(HZ_STATUS_CANCELLED, "has failed", hz_trainer_close(trainer));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "trainer is NULL", hz_trainer_set_progress(NULL, NULL, NULL));
}

/* ---- smaller batches ---- */

enum { SHORT_B = B - 1, SHORT_T = LESS(20, 10), SHORT = SHORT_B * SHORT_T };

/* Sees the caller's rows only. */
static int32_t count_rows(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    CHECK(count == SHORT + N);
    CHECK(memcmp(logprobs, user, count * sizeof *logprobs) == 0);
    (void)dlogprobs;
    *out_loss = 0.0;
    return 0;
}

static void test_smaller_batches(void) {
    hz_trainer_t *trainer = open_small(), *alone = open_small();
    static rows_t full, padded;
    static int32_t tokens[SHORT], targets[SHORT];
    fill(&full);
    fill(&padded);
    for (size_t n = 0; n < N; n++) {
        size_t b = n / T, t = n % T;
        if (b < SHORT_B && t < SHORT_T) {
            tokens[b * SHORT_T + t] = padded.tokens[n];
            targets[b * SHORT_T + t] = padded.targets[n];
        } else {
            padded.targets[n] = -100;
        }
    }
    hz_batch_t small = HZ_BATCH_INIT;
    small.rows = SHORT;
    small.sequence_length = SHORT_T;
    small.tokens = tokens;
    small.targets = targets;
    hz_batch_t ours[2] = {small, batch_of(&full)}, theirs[2] = {batch_of(&padded), batch_of(&full)};
    hz_step_report_t report = HZ_STEP_REPORT_INIT, want = HZ_STEP_REPORT_INIT;
    for (int i = 0; i < 2; i++) {
        OK(hz_trainer_step(trainer, ours, 2, 1e-3, &report));
        OK(hz_trainer_step(alone, theirs, 2, 1e-3, &want));
        CHECK(report.loss == want.loss && report.grad_norm == want.grad_norm && report.targets == want.targets);
        CHECK(report.micros == 2 && report.tokens == SHORT + N && want.tokens == 2 * N);
    }

    static float logprobs[SHORT + N], other[2 * N];
    OK(hz_trainer_logprobs(trainer, ours, 2, logprobs, SHORT + N));
    OK(hz_trainer_logprobs(alone, theirs, 2, other, 2 * N));
    for (size_t row = 0; row < SHORT; row++) {
        CHECK(logprobs[row] == other[row / SHORT_T * T + row % SHORT_T]);
    }
    CHECK(memcmp(logprobs + SHORT, other + N, N * sizeof *other) == 0);
    OK(hz_trainer_step_with_loss(trainer, ours, 2, 0.0, count_rows, logprobs, &report));

    ours[0].sequence_length = 0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("%d sequences of 1", B), hz_trainer_accumulate(trainer, &ours[0]));
    ours[0].sequence_length = T + 1;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("rows is %d and batch->sequence_length is %d", SHORT, T + 1),
            hz_trainer_accumulate(trainer, &ours[0]));
    ours[0].sequence_length = 7;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, words("%d sequences of 1", B), hz_trainer_accumulate(trainer, &ours[0]));
    ours[0].rows = 0;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "rows is 0", hz_trainer_accumulate(trainer, &ours[0]));
    OK(hz_trainer_close(trainer));
    OK(hz_trainer_close(alone));
}

/* ---- values that are not finite ---- */

static void test_not_finite(const char *folder) {
    hz_trainer_t *trainer = open_small();
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    const char *name = "model.norm.weight";
    static float norm[64], logits[V], logprobs[N];
    OK(hz_trainer_read_tensor(trainer, name, norm, 64));
    norm[3] = INFINITY;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "element 3 of model.norm.weight is inf",
            hz_trainer_write_tensor(trainer, name, norm, 64));
    norm[3] = 3.4e38f; /* as bf16 infinite */
    OK(hz_trainer_write_tensor(trainer, name, norm, 64));
    hz_eval_report_t report = HZ_EVAL_REPORT_INIT;
    REFUSED(HZ_STATUS_NON_FINITE, "the loss is", hz_trainer_eval(trainer, &batch, 1, &report));
    REFUSED(HZ_STATUS_NON_FINITE, "log-probability", hz_trainer_logprobs(trainer, &batch, 1, logprobs, N));
    REFUSED(HZ_STATUS_NON_FINITE, "logit", hz_trainer_logits(trainer, rows.tokens, 5, logits, V));
    REFUSED(HZ_STATUS_NON_FINITE, "element 3 of model.norm.weight is inf",
            hz_trainer_export_hf(trainer, in(folder, "not-finite"), HZ_DTYPE_BF16));
    CHECK(!exists(in(folder, "not-finite")));
    OK(hz_trainer_export_hf(trainer, in(folder, "not-finite"), HZ_DTYPE_F32)); /* the masters are finite */
    OK(hz_trainer_close(trainer));
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    test_cancelling();
    test_progress(argv[1]);
    test_smaller_batches();
    test_not_finite(argv[1]);
    printf("%d checks\n", checks);
    return 0;
}
