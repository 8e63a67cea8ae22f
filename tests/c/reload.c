/*
 * A plug-in: the library loaded at run time, used, closed, and loaded again. Usage: reload LIBRARY
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "horizon.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: false: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* The function of this name. A cast from `void *` is no ISO C, hence the copy. */
#define FUNCTION(library, name) \
    __typeof__(&name) name##_loaded; \
    { \
        void *symbol = dlsym(library, #name); \
        CHECK(symbol != NULL); \
        memcpy(&name##_loaded, &symbol, sizeof symbol); \
    }

/* Trains a step. Returns the address of a string in the library. */
static void *use(void *library) {
    FUNCTION(library, hz_abi_version)
    FUNCTION(library, hz_version)
    FUNCTION(library, hz_model_config_from_preset)
    FUNCTION(library, hz_trainer_open)
    FUNCTION(library, hz_trainer_init_weights)
    FUNCTION(library, hz_trainer_step)
    FUNCTION(library, hz_trainer_close)
    CHECK(hz_abi_version_loaded() == HZ_ABI_VERSION);

    static int32_t tokens[16], targets[16];
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    hz_batch_t batch = HZ_BATCH_INIT;
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_t *trainer = NULL;
    options.sequences = 1;
    options.sequence_length = 16;
    batch.rows = 16;
    batch.tokens = tokens;
    batch.targets = targets;
    CHECK(hz_model_config_from_preset_loaded("tiny", &model) == HZ_STATUS_OK);
    CHECK(hz_trainer_open_loaded(&model, &options, &trainer) == HZ_STATUS_OK);
    CHECK(hz_trainer_init_weights_loaded(trainer, 1) == HZ_STATUS_OK);
    CHECK(hz_trainer_step_loaded(trainer, &batch, 1, 1e-3, &report) == HZ_STATUS_OK && report.loss > 0);
    CHECK(hz_trainer_close_loaded(trainer) == HZ_STATUS_OK);
    return (void *)(uintptr_t)hz_version_loaded();
}

/* Loads the library, uses it on a thread that ends (thread-local data would keep it loaded), and closes it. */
static const char *load_and_use(const char *file) {
    pthread_t thread;
    void *version = NULL, *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    CHECK(pthread_create(&thread, NULL, use, library) == 0 && pthread_join(thread, &version) == 0);
    CHECK(dlclose(library) == 0);
    return version;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const char *version = load_and_use(argv[1]);
    CHECK(strcmp(version, HZ_VERSION) == 0); /* still loaded */
    CHECK(load_and_use(argv[1]) == version);
    return 0;
}
