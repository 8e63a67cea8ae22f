/*
 * Checks that print their location on failure.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "horizon.h"

#ifdef __cplusplus
static thread_local int checks = 0;
#else
static _Thread_local int checks = 0;
#endif

#define CHECK(condition) \
    do { \
        checks++; \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: false: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, hz_last_error()); \
            exit(1); \
        } \
    } while (0)

#define OK(call) CHECK((call) == HZ_STATUS_OK)

/* The call fails with this status and a message that contains `word`. Prints the message; tests/capi/main.rs checks its
 * names. */
#define REFUSED(status, word, call) \
    do { \
        hz_status_t got = (call); \
        checks++; \
        if (got != (status) || strstr(hz_last_error(), (word)) == NULL) { \
            fprintf(stderr, "%s:%d: %s\n  expected %s and \"%s\"\n  found    %s: %s\n", __FILE__, __LINE__, #call, \
                    hz_status_name(status), (word), hz_status_name(got), hz_last_error()); \
            exit(1); \
        } \
        printf("message: %s\n", hz_last_error()); \
    } while (0)

#endif
