/*
 * Opens and closes every handle again and again, also while a save runs: no thread, descriptor, mapping or memory
 * stays. Usage: leaks FOLDER CYCLES (an empty folder, for files), with
 * GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0, so that malloc keeps nothing for ended threads.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include "small.h"

/* The entries of a folder of /proc. */
static int count_entries(const char *path) {
    DIR *folder = opendir(path);
    CHECK(folder != NULL);
    int count = 0;
    while (readdir(folder) != NULL) count++;
    closedir(folder);
    return count;
}

static int count_mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    int count = 0;
    for (int c; (c = fgetc(maps)) != EOF;) count += c == '\n';
    fclose(maps);
    return count;
}

/* Resident memory in KiB. */
static long resident(void) {
    long pages = 0, all;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%ld %ld", &all, &pages) == 2);
    fclose(statm);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* The kernel removes a thread shortly after it was joined. */
static void wait_until_alone(void) {
    while (count_entries("/proc/self/task") > 2 + 1) sched_yield(); /* with "." and ".." */
}

static int32_t save(uint32_t unit, uint64_t elements, const uint16_t *weights, const int16_t *residual, const void *m,
                    const void *v, void *user) {
    (void)elements, (void)weights, (void)residual, (void)m, (void)v, (void)user;
    return unit == 1; /* cancelled */
}

static int has_checkpoint;

static void cycle(const char *folder, int number) {
    static float weights[1000], gradient[1000];
    hz_model_config_t model = small_model();
    hz_trainer_options_t options = small_options();
    hz_adam_options_t adam_options = HZ_ADAM_OPTIONS_INIT;
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    hz_arena_options_t arena_options = HZ_ARENA_OPTIONS_INIT;
    hz_plan_t *plan = NULL;
    hz_trainer_t *trainer = NULL;
    hz_adam_t *adam = NULL;
    hz_arena_t *arena = NULL;
    const char *text = NULL;

    model.num_hidden_layers = 1;
    OK(hz_plan_open(&model, &options, &plan));
    OK(hz_plan_json(plan, &text));
    OK(hz_trainer_open_planned(plan, &trainer));
    hz_plan_close(plan);
    OK(hz_trainer_init_weights(trainer, 1));
    switch (number % 4) {
    case 0: small_step(trainer); break;
    case 1:
        if (has_checkpoint) OK(hz_trainer_resume(trainer, folder, NULL, NULL));
        OK(hz_trainer_save_to(trainer, folder, 1, "note"));
        has_checkpoint = 1;
        break;
    case 2: OK(hz_trainer_save(trainer, save, NULL)); break;
    default: OK(hz_trainer_resume(trainer, folder, NULL, NULL));
    }
    /* AdamW or a save is still running. */
    CHECK(hz_trainer_close(trainer) == (number % 4 == 2 ? HZ_STATUS_CANCELLED : HZ_STATUS_OK));

    options.device_mem = 4096;
    REFUSED(HZ_STATUS_OUT_OF_DEVICE_MEMORY, "device", hz_trainer_open(&model, &options, &trainer));

    adam_options.mode = HZ_ADAM_MODE_F32;
    adam_options.threads = 2;
    adam_options.state_count = 1000;
    arrays.gradient_dtype = HZ_DTYPE_F32;
    arrays.count = 1000;
    arrays.weights = weights;
    arrays.gradient = gradient;
    OK(hz_adam_open(&adam_options, &adam));
    OK(hz_adam_step(adam, &arrays, 1e-3, 1, 1.0, 1));
    hz_adam_close(adam);

    arena_options.kind = HZ_MEMORY_PLAIN;
    OK(hz_arena_open(&arena_options, 100000, &arena));
    OK(hz_arena_touch(arena, 2));
    hz_arena_close(arena);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    for (int number = 0; number < 8; number++) cycle(argv[1], number); /* caches are filled */
    wait_until_alone();
    int descriptors = count_entries("/proc/self/fd"), mappings = count_mappings();
    size_t allocated = mallinfo2().uordblks;
    long kib = resident();
    for (int number = 0; number < atoi(argv[2]); number++) {
        cycle(argv[1], number);
        wait_until_alone();
    }
    size_t allocated_after = mallinfo2().uordblks;
    long kib_after = resident();
    printf("allocated: %zu bytes, then %zu; resident: %ld KiB, then %ld\n", allocated, allocated_after, kib, kib_after);
    CHECK(count_entries("/proc/self/fd") == descriptors && count_mappings() <= mappings + 2);
    CHECK(allocated_after <= allocated + 256 && kib_after <= kib + 4096);
    return 0;
}
