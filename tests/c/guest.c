/*
 * The caller's process: signals, floating-point environment, and no threads left after failures. Usage: guest FOLDER
 * (an empty one, for files).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fenv.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "small.h"

/* ---- signals ---- */

/* Faults, signals that the kernel never blocks, and those that glibc uses. */
static const int UNBLOCKED[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP, SIGKILL, SIGSTOP, 32, 33};

static volatile sig_atomic_t handled;

static void handle(int signal) {
    handled = signal;
}

/* Reads the name and the blocked signals of a thread. Returns 0 if it has ended. */
static int read_thread(const char *id, char name[16], uint64_t *blocked) {
    char path[300], line[200];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", id);
    FILE *status = fopen(path, "r");
    if (status == NULL) return 0;
    while (fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "Name: %15s", name);
        sscanf(line, "SigBlk: %" SCNx64, blocked);
    }
    return fclose(status) == 0;
}

/* The number of threads of the library. They block all signals that can be blocked, except faults. */
static int check_threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    int threads = 0;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char name[16] = "";
        uint64_t blocked = 0;
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid()) continue;
        /* A thread that has just started has no name yet. */
        while (read_thread(task->d_name, name, &blocked) && strncmp(name, "hz-", 3) != 0) sched_yield();
        if (strncmp(name, "hz-", 3) != 0) continue;
        for (size_t i = 0; i < sizeof UNBLOCKED / sizeof *UNBLOCKED; i++) blocked ^= 1ull << (UNBLOCKED[i] - 1);
        CHECK(blocked == UINT64_MAX);
        threads++;
    }
    closedir(tasks);
    return threads;
}

/* A signal to the process that this thread blocks stays pending: no thread of the library takes it. */
static void test_signals(const char *folder) {
    struct sigaction action;
    sigset_t usr1, before, after, pending;
    memset(&action, 0, sizeof action);
    action.sa_handler = handle;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0 && pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);

    hz_trainer_t *trainer = open_small();
    small_step(trainer);
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    CHECK(check_threads() > 2);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    OK(hz_trainer_save_wait(trainer));
    small_step(trainer);
    OK(hz_trainer_close(trainer));
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) && handled == 0);

    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    for (int signal = 1; signal < 32; signal++) CHECK(sigismember(&before, signal) == sigismember(&after, signal));
    CHECK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) == 0 && handled == SIGUSR1);
}

/* ---- floating-point environment ---- */

enum { DEFAULT, RAISED, TRAPS };

/* The environment of this program: rounding upwards and no subnormals, with flags raised or with traps. */
static int environment = DEFAULT;
static fenv_t expected;

static unsigned long control(void) {
#if defined(__SSE__)
    return _mm_getcsr();
#else
    unsigned long fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
#endif
}

static void enter(void) {
    feclearexcept(FE_ALL_EXCEPT);
    if (environment == DEFAULT) return;
    fesetround(FE_UPWARD);
#if defined(__SSE__)
    _mm_setcsr((unsigned)control() | 0x8040);
#else
    __asm__ volatile("msr fpcr, %0" : : "r"(control() | 1ul << 24));
#endif
    if (environment == RAISED) feraiseexcept(FE_DIVBYZERO);
    if (environment == TRAPS) feenableexcept(FE_ALL_EXCEPT);
    CHECK(fegetenv(&expected) == 0);
}

static void check_environment(void) {
    fenv_t now;
    CHECK(fegetenv(&now) == 0);
    CHECK(environment == DEFAULT || memcmp(&now, &expected, sizeof now) == 0);
}

static void leave(void) {
    check_environment();
    fesetenv(FE_DFL_ENV);
}

static void log_line(hz_log_level_t level, const char *message, void *user) {
    (void)level;
    (void)message;
    check_environment();
    ++*(int *)user;
}

/* Runs on the caller's thread, in its environment, and may change it. */
static int32_t loss(const float *logprobs, float *dlogprobs, size_t count, double *out_loss, void *user) {
    (void)user;
    CHECK(logprobs[0] < 0.0f);
    check_environment();
    for (size_t i = 0; i < count; i++) dlogprobs[i] = -0.0078125f;
    *out_loss = 1.0;
    if (environment == RAISED) {
        feraiseexcept(FE_OVERFLOW);
        CHECK(fegetenv(&expected) == 0);
    }
    return 0;
}

/* Runs on a thread of the library, in the default environment. */
static int32_t save(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual, const void *m,
                    const void *v, void *user) {
    (void)unit, (void)elements, (void)weights, (void)residual, (void)m, (void)v;
    CHECK(fegetround() == FE_TONEAREST && control() == *(const unsigned long *)user && fegetexcept() == 0);
    return 0;
}

/* AdamW on arrays of the program, all of it on this thread, with subnormal moments. Returns a hash of the result. */
static uint64_t adam_bits(void) {
    enum { COUNT = 64 };
    static float weights[COUNT], gradient[COUNT], m[COUNT], v[COUNT];
    for (int i = 0; i < COUNT; i++) {
        weights[i] = 0.3f;
        gradient[i] = 1e-21f;
        m[i] = v[i] = 1e-42f;
    }
    hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    hz_adam_t *adam = NULL;
    options.mode = HZ_ADAM_MODE_F32;
    options.threads = 1;
    arrays.gradient_dtype = HZ_DTYPE_F32;
    arrays.count = COUNT;
    arrays.weights = weights;
    arrays.gradient = gradient;
    arrays.m = m;
    arrays.v = v;
    enter();
    OK(hz_adam_open(&options, &adam));
    OK(hz_adam_step(adam, &arrays, 1e-3, 1, 1.0, 1));
    hz_adam_close(adam);
    leave();
    uint32_t bits[3];
    memcpy(&bits[0], weights, 4);
    memcpy(&bits[1], m, 4);
    memcpy(&bits[2], v, 4);
    return ((uint64_t)bits[0] * 31 + bits[1]) * 31 + bits[2];
}

/* Trains in an environment. Returns a hash of the weights. */
static uint64_t train_bits(int in) {
    static rows_t rows;
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    fesetenv(FE_DFL_ENV);
    unsigned long plain = control();
    int lines = 0;
    OK(hz_set_log_callback(log_line, &lines));
    environment = in;
    lcg = 1;
    fill(&rows);

    enter();
    hz_trainer_t *trainer = open_small();
    leave();
    for (int step = 0; step < 3; step++) {
        enter();
        small_step(trainer);
        OK(hz_trainer_save(trainer, save, &plain));
        OK(hz_trainer_step_with_loss(trainer, &batch, 1, 1e-3, loss, NULL, &report));
        OK(hz_trainer_save_wait(trainer));
        leave();
    }
    enter();
    REFUSED(HZ_STATUS_INVALID_STATE, "no micro-batch", hz_trainer_update(trainer, 1e-3, &report));
    leave();
    CHECK(lines == 1);
    OK(hz_set_log_callback(NULL, NULL));
    uint64_t bits = small_bits(trainer) ^ adam_bits();
    enter();
    OK(hz_trainer_close(trainer));
    leave();
    return bits;
}

static void test_environment(void) {
    uint64_t bits = train_bits(DEFAULT);
    CHECK(train_bits(RAISED) == bits && train_bits(TRAPS) == bits);
}

/* ---- failures ---- */

static int threads_left = -1;
static atomic_int running;

/* These take the place of the C library's: threads are refused after some, and those not joined are counted. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (threads_left == 0) return EAGAIN;
    if (threads_left > 0) threads_left--;
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    running++;
    return create(thread, attributes, body, argument);
}

int pthread_join(pthread_t thread, void **result) {
    static int (*join)(pthread_t, void **);
    *(void **)&join = dlsym(RTLD_NEXT, "pthread_join");
    running--;
    return join(thread, result);
}

/* Opening and saving fail at each thread in turn, or in the middle of a file, and no thread is left. */
static void test_failures(const char *folder) {
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_trainer_t *trainer = NULL;
    int refused = 0;
    for (;; refused++) {
        threads_left = refused;
        hz_status_t status = hz_trainer_open(&model, &options, &trainer);
        threads_left = -1;
        if (status == HZ_STATUS_OK) break;
        CHECK(status == HZ_STATUS_IO && trainer == NULL && strstr(hz_last_error(), "the system refused") != NULL);
        CHECK(running == 0);
    }
    CHECK(refused > 3);
    OK(hz_trainer_resume(trainer, folder, NULL, NULL)); /* of the first test */
    threads_left = 0;
    REFUSED(HZ_STATUS_IO, "hz-sync", hz_trainer_save_to(trainer, folder, 0, NULL));
    threads_left = -1;
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 50000;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    REFUSED(HZ_STATUS_IO, "File too large", hz_trainer_save_wait(trainer)); /* SIGXFSZ is blocked */
    limit.rlim_cur = before;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    OK(hz_trainer_close(trainer));
    CHECK(running == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    test_signals(argv[1]);
    test_environment();
    test_failures(argv[1]);
    printf("%d checks passed\n", checks);
    return 0;
}
