/*
 * Forks: a child may use the library if its parent has not; otherwise its calls are refused, and its parent trains on,
 * bit for bit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "small.h"

static hz_trainer_t *trainer;
static hz_adam_t *adam;
static hz_plan_t *plan;
static hz_arena_t *arena;
static void *arena_address;

#define CHILD_REFUSED(call) REFUSED(HZ_STATUS_INVALID_STATE, "use the library in the process that opened it", call)

/* LeakSanitizer asks this. A child has the memory of its parent's threads, but not the threads that own it. */
static int is_child;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
    return is_child;
}

/* Refuses everything, and ends by exit, with its handlers. */
static void be_a_child(void) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = small_options();
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
    hz_trainer_t *other = NULL;
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    static float value;
    static uint16_t weight;
    static int16_t residual;
    is_child = 1;
    CHECK(strcmp(hz_version(), HZ_VERSION) == 0 && hz_abi_version() == HZ_ABI_VERSION);
    CHECK(strcmp(hz_status_name(0), "HZ_STATUS_OK") == 0 && strcmp(hz_lane_name(HZ_LANE_COMPUTE), "compute") == 0);

    CHILD_REFUSED(hz_trainer_step(trainer, NULL, 1, 1e-3, &report));
    CHILD_REFUSED(hz_trainer_update(trainer, 1e-3, &report));
    CHILD_REFUSED(hz_trainer_stats(trainer, &stats));
    CHILD_REFUSED(hz_trainer_sync(trainer));
    CHILD_REFUSED(hz_trainer_save_to(trainer, "/nowhere", 0, NULL));
    CHILD_REFUSED(hz_adam_step(adam, &arrays, 1e-3, 1, 1.0, 1));
    CHILD_REFUSED(hz_plan_admit(plan));
    CHILD_REFUSED(hz_arena_touch(arena, 1));
    CHILD_REFUSED(hz_set_log_callback(NULL, NULL));
    CHILD_REFUSED(hz_model_config_from_preset("tiny", &model));
    CHILD_REFUSED(hz_trainer_open(&model, &options, &other));
    CHILD_REFUSED(hz_master_split(&value, 1, &weight, &residual));
    CHILD_REFUSED(hz_trainer_close(trainer));
    hz_adam_close(adam);
    hz_plan_close(plan);
    hz_arena_close(arena);
    CHECK(msync(arena_address, 4096, MS_ASYNC) == -1 && errno == ENOMEM); /* the memory is not inherited */
    exit(0);
}

/* Runs `body` in a child, which ends in success. */
static void in_child(void (*body)(void)) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(100); /* rather than hang */
        body();
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Six steps; from the third on, another thread forks children meanwhile. */
static uint64_t train(void *(*meanwhile)(void *)) {
    pthread_t thread;
    lcg = 1;
    trainer = open_small();
    for (int step = 0; step < 6; step++) {
        if (step == 2 && meanwhile != NULL) {
            in_child(be_a_child); /* AdamW is running */
            CHECK(pthread_create(&thread, NULL, meanwhile, NULL) == 0);
        }
        small_step(trainer);
    }
    CHECK(meanwhile == NULL || pthread_join(thread, NULL) == 0);
    uint64_t bits = small_bits(trainer);
    OK(hz_trainer_close(trainer));
    return bits;
}

static void train_and_exit(void) {
    train(NULL);
    exit(0);
}

static void *fork_children(void *unused) {
    for (int i = 0; i < 8; i++) in_child(be_a_child);
    return unused;
}

/* A child that lives on does not keep the lock of a folder of checkpoints. */
static void test_lock(const char *folder) {
    trainer = open_small();
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    OK(hz_trainer_save_wait(trainer));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(100);
        pause();
        _exit(0);
    }
    OK(hz_trainer_close(trainer));
    trainer = open_small();
    OK(hz_trainer_resume(trainer, folder, NULL, NULL));
    OK(hz_trainer_save_to(trainer, folder, 0, NULL));
    OK(hz_trainer_close(trainer));
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    in_child(train_and_exit); /* the library has not been used in this process */

    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_adam_options_t adam_options = HZ_ADAM_OPTIONS_INIT;
    hz_arena_options_t arena_options = HZ_ARENA_OPTIONS_INIT;
    hz_arena_info_t info = HZ_ARENA_INFO_INIT;
    adam_options.mode = HZ_ADAM_MODE_F32;
    adam_options.threads = 2;
    arena_options.kind = HZ_MEMORY_PLAIN;
    OK(hz_adam_open(&adam_options, &adam));
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_arena_open(&arena_options, 1 << 20, &arena));
    OK(hz_arena_touch(arena, 1));
    OK(hz_arena_info(arena, &info));
    arena_address = info.address;

    uint64_t bits = train(NULL);
    CHECK(train(fork_children) == bits);
    test_lock(argv[1]);
    OK(hz_plan_admit(plan));
    memset(arena_address, 1, 1 << 20);
    hz_adam_close(adam);
    hz_plan_close(plan);
    hz_arena_close(arena);
    printf("%d checks passed\n", checks);
    return 0;
}
