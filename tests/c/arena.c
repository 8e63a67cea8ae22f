/*
 * Arenas of every kind, and their errors.
 */
#include "small.h"

enum { BYTES = 5 * 1024 * 1024 + 123 };

static hz_arena_options_t kind(hz_memory_t kind) {
    hz_arena_options_t options = HZ_ARENA_OPTIONS_INIT;
    options.kind = kind;
    return options;
}

/* Opens, fills, touches and closes an arena. */
static void use(const hz_arena_options_t *options) {
    hz_arena_t *arena = NULL;
    hz_arena_info_t info = HZ_ARENA_INFO_INIT;
    OK(hz_arena_open(options, BYTES, &arena));
    OK(hz_arena_touch(arena, 2));
    OK(hz_arena_info(arena, &info));
    CHECK(info.bytes == BYTES && info.address != NULL && (uintptr_t)info.address % 4096 == 0);
    CHECK(info.pages == HZ_PAGES_SMALL || info.pages == HZ_PAGES_TRANSPARENT || info.pages == HZ_PAGES_EXPLICIT);
    CHECK(options->pages == HZ_PAGES_ANY || options->pages == info.pages);

    unsigned char *bytes = info.address;
    for (size_t i = 0; i < BYTES; i++) {
        CHECK(bytes[i] == 0);
        bytes[i] = (unsigned char)(i * 7 + 3);
    }
    OK(hz_arena_touch(arena, 0));
    for (size_t i = 0; i < BYTES; i++) CHECK(bytes[i] == (unsigned char)(i * 7 + 3));

    uint32_t node = 4242;
    hz_status_t status = hz_arena_node_at(arena, BYTES - 1, &node);
    if (status == HZ_STATUS_UNSUPPORTED) {
        printf("skipped: %s\n", hz_last_error());
        CHECK(node == 4242);
    } else {
        CHECK(status == HZ_STATUS_OK);
        CHECK(options->kind == HZ_MEMORY_NODE ? node == options->node : node < 1024);
    }
    hz_arena_close(arena);
}

static void test_kinds(void) {
    hz_arena_options_t plain = kind(HZ_MEMORY_PLAIN), interleaved = kind(HZ_MEMORY_INTERLEAVED);
    use(&plain);
    plain.pages = HZ_PAGES_SMALL;
    use(&plain);
    use(&interleaved);

    /* A node that has memory: the one of a page touched by this thread. */
    hz_arena_t *arena = NULL;
    hz_arena_options_t node = kind(HZ_MEMORY_NODE);
    OK(hz_arena_open(&interleaved, 1, &arena));
    OK(hz_arena_touch(arena, 1));
    if (hz_arena_node_at(arena, 0, &node.node) == HZ_STATUS_OK) use(&node);
    hz_arena_close(arena);
    hz_arena_close(NULL);
}

static void test_errors(void) {
    hz_arena_options_t plain = kind(HZ_MEMORY_PLAIN), options = plain;
    hz_arena_t *arena = NULL;
    hz_arena_info_t info = HZ_ARENA_INFO_INIT;
    uint32_t node = 0;

    options.host_mem = 1 << 20;
    REFUSED(HZ_STATUS_OUT_OF_HOST_MEMORY, "needs 2.0 MiB", hz_arena_open(&options, 2 << 20, &arena));
    REFUSED(HZ_STATUS_OUT_OF_HOST_MEMORY, "needs 1024.0 TiB", hz_arena_open(&plain, UINT64_C(1) << 50, &arena));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "bytes is 0", hz_arena_open(&plain, 0, &arena));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "options is NULL", hz_arena_open(NULL, 1, &arena));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_arena is NULL", hz_arena_open(&plain, 1, NULL));

    options = kind(0);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "kind is 0", hz_arena_open(&options, 1, &arena));
    options = kind(HZ_MEMORY_NODE);
    options.node = 999;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "no memory on node 999", hz_arena_open(&options, 1, &arena));
    options.kind = HZ_MEMORY_PLAIN;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "node is 999", hz_arena_open(&options, 1, &arena));
    options = plain;
    options.pages = 4;
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "pages is 4", hz_arena_open(&options, 1, &arena));
    options.pages = HZ_PAGES_TRANSPARENT;
    REFUSED(HZ_STATUS_UNSUPPORTED, "huge page", hz_arena_open(&options, 1, &arena));

    /* More huge pages than any machine reserves; host_mem does not limit them. */
    options = plain;
    options.pages = HZ_PAGES_EXPLICIT;
    options.host_mem = UINT64_C(1) << 50;
    REFUSED(HZ_STATUS_OUT_OF_HOST_MEMORY, "huge pages of 2 MiB", hz_arena_open(&options, UINT64_C(1) << 46, &arena));
    CHECK(arena == NULL);

    OK(hz_arena_open(&plain, 1000, &arena));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "offset is 1000; the arena has 1000", hz_arena_node_at(arena, 1000, &node));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_node is NULL", hz_arena_node_at(arena, 0, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "out_info is NULL", hz_arena_info(arena, NULL));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "threads is 5000", hz_arena_touch(arena, 5000));
    hz_arena_close(arena);
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "arena is NULL", hz_arena_info(NULL, &info));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "arena is NULL", hz_arena_touch(NULL, 1));
    REFUSED(HZ_STATUS_INVALID_ARGUMENT, "arena is NULL", hz_arena_node_at(NULL, 0, &node));
}

int main(void) {
    test_kinds();
    test_errors();
    printf("%d checks\n", checks);
    return 0;
}
