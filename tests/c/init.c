/*
 * HZ_..._INIT and hz_..._init set the same bytes, for every struct and for callers of every version.
 */
#include "check.h"

enum { FILL = 0xaa, CAPACITY = 4096 };

static _Alignas(8) unsigned char bytes[CAPACITY], untouched[CAPACITY];

static void fill(void) {
    memset(bytes, FILL, CAPACITY);
    memset(untouched, FILL, CAPACITY);
}

/* `bytes` has a struct of `size` bytes, of which the first `known` are the macro's except for the size. */
static void check_defaults(const void *macro, size_t known, uint32_t size) {
    if (known > size) known = size;
    CHECK(memcmp(bytes, &size, sizeof size) == 0);
    CHECK(memcmp(bytes + sizeof size, (const unsigned char *)macro + sizeof size, known - sizeof size) == 0);
    for (size_t i = known; i < size; i++) CHECK(bytes[i] == 0);
    CHECK(memcmp(bytes + size, untouched, CAPACITY - size) == 0);
}

/* `call` names its arguments `value` and `size`. Older callers' sizes end after a field: those that are accepted. */
#define DEFAULTS(type, macro, call) \
    do { \
        type expected = macro, *value = (type *)(void *)bytes; \
        size_t refused = 0; \
        for (uint32_t size = 0; size <= sizeof(type) + 80; size++) { \
            fill(); \
            if ((call) == HZ_STATUS_OK) { \
                check_defaults(&expected, sizeof(type), size); \
            } else { \
                CHECK(size < sizeof(type) && strstr(hz_last_error(), "struct_size is ") != NULL); \
                CHECK(memcmp(bytes, untouched, CAPACITY) == 0); \
                refused++; \
            } \
        } \
        CHECK(refused > 0 && refused < sizeof(type)); \
    } while (0)

int main(void) {
    DEFAULTS(hz_device_info_t, HZ_DEVICE_INFO_INIT, hz_device_info_init(value, size));
    DEFAULTS(hz_model_config_t, HZ_MODEL_CONFIG_INIT, hz_model_config_init(value, size));
    DEFAULTS(hz_layer_placement_t, HZ_LAYER_PLACEMENT_INIT, hz_layer_placement_init(value, size));
    DEFAULTS(hz_trainer_options_t, HZ_TRAINER_OPTIONS_INIT, hz_trainer_options_init(value, size));
    DEFAULTS(hz_plan_summary_t, HZ_PLAN_SUMMARY_INIT, hz_plan_summary_init(value, size));
    DEFAULTS(hz_tensor_info_t, HZ_TENSOR_INFO_INIT, hz_tensor_info_init(value, size));
    DEFAULTS(hz_tensor_options_t, HZ_TENSOR_OPTIONS_INIT, hz_tensor_options_init(value, size));
    DEFAULTS(hz_batch_t, HZ_BATCH_INIT, hz_batch_init(value, size));
    DEFAULTS(hz_step_report_t, HZ_STEP_REPORT_INIT, hz_step_report_init(value, size));
    DEFAULTS(hz_eval_report_t, HZ_EVAL_REPORT_INIT, hz_eval_report_init(value, size));
    DEFAULTS(hz_trainer_stats_t, HZ_TRAINER_STATS_INIT, hz_trainer_stats_init(value, size));
    DEFAULTS(hz_adam_options_t, HZ_ADAM_OPTIONS_INIT, hz_adam_options_init(value, size));
    DEFAULTS(hz_adam_arrays_t, HZ_ADAM_ARRAYS_INIT, hz_adam_arrays_init(value, size));
    DEFAULTS(hz_arena_options_t, HZ_ARENA_OPTIONS_INIT, hz_arena_options_init(value, size));
    DEFAULTS(hz_arena_info_t, HZ_ARENA_INFO_INIT, hz_arena_info_init(value, size));

    hz_batch_t batch;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "value is NULL", hz_batch_init(NULL, sizeof batch));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "struct_size is 4097", hz_batch_init(&batch, 4097));
    CHECK(hz_version_number() == HZ_VERSION_NUMBER);
    printf("%d checks\n", checks);
    return 0;
}
