/* Fault injection, loaded with LD_PRELOAD: makes an I/O call that concerns a folder fail, makes it short, or kills the
 * process at it. Calls of all threads are counted together, from 1.
 *
 *   FAULT_FOLDER   absolute path; calls on it and on paths below it are counted, all others pass
 *   FAULT_CALLS    kinds of calls, separated by commas: the names below. Only these count for FAULT_AT
 *   FAULT_ACTION   an errno as a number; `short`: transfers half the bytes; `before`, `after`: SIGKILL before or after the
 *                  call; `torn`: half the bytes, then SIGKILL; `skip`: reports success and does nothing
 *   FAULT_AT       the call's number; with `+` this call and all later ones. Without it calls are only counted
 *   FAULT_REPORT   a file outside of the folder to which lines are appended: `hit KIND PATH` at a fault, and at the end of
 *                  the process `count KIND CALLS`
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    OPEN, CREATE, READ, WRITE, SYNC, RENAME, EXCHANGE, MAP, RESIZE, ALLOCATE, REMOVE, MKDIR, LOCK, STAT, LIST, CLOSE, KINDS
};
static const char *const names[KINDS] = {
    "open", "create", "read", "write", "sync", "rename", "exchange", "map",
    "resize", "allocate", "remove", "mkdir", "lock", "stat", "list", "close",
};

enum effect { NONE, FAIL, SHORT, BEFORE, AFTER, TORN, SKIP };

static char folder[PATH_MAX], report[PATH_MAX];
static unsigned kinds;
static enum effect action;
static int error;
static long at;
static bool onwards;
static atomic_long counts[KINDS], matching;

static void append(const char *word, enum kind kind, const char *text) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s %s\n", word, names[kind], text);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, (size_t)length);
        syscall(SYS_close, fd);
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *text;
    if ((text = getenv("FAULT_REPORT"))) snprintf(report, sizeof report, "%s", text);
    if ((text = getenv("FAULT_AT"))) {
        at = atol(text);
        onwards = strchr(text, '+') != NULL;
    }
    if ((text = getenv("FAULT_CALLS")))
        for (int kind = 0; kind < KINDS; kind++) {
            const char *found = strstr(text, names[kind]);
            if (found) kinds |= 1u << kind;
        }
    if ((text = getenv("FAULT_ACTION"))) {
        error = atoi(text);
        action = error                     ? FAIL
                 : !strcmp(text, "short")  ? SHORT
                 : !strcmp(text, "before") ? BEFORE
                 : !strcmp(text, "after")  ? AFTER
                 : !strcmp(text, "torn")   ? TORN
                                           : SKIP;
    }
    /* Last: without a folder nothing is counted. */
    if ((text = getenv("FAULT_FOLDER"))) snprintf(folder, sizeof folder, "%s", text);
}

__attribute__((destructor)) static void end(void) {
    for (int kind = 0; folder[0] && kind < KINDS; kind++) {
        char number[32];
        snprintf(number, sizeof number, "%ld", counts[kind]);
        append("count", kind, number);
    }
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* The path of a descriptor. */
static const char *of(int fd) {
    static __thread char path[PATH_MAX];
    char link[64];
    if (!folder[0] || fd < 0) return "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

/* The path of a name, relative to a folder's descriptor. */
static const char *within(int fd, const char *name) {
    static __thread char path[2 * PATH_MAX];
    if (!folder[0] || !name || name[0] == '/') return name ? name : "";
    if (fd == AT_FDCWD) {
        if (syscall(SYS_getcwd, path, PATH_MAX) < 0) return "";
    } else {
        strcpy(path, of(fd));
    }
    if (name[0]) snprintf(path + strlen(path), PATH_MAX, "/%s", name);
    return path;
}

/* Counts a call; returns the fault to make in it. */
static enum effect enter(enum kind kind, const char *path) {
    size_t length = strlen(folder);
    if (!length || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return NONE;
    atomic_fetch_add(&counts[kind], 1);
    if (!at || !(kinds >> kind & 1)) return NONE;
    long number = atomic_fetch_add(&matching, 1) + 1;
    if (number != at && !(onwards && number > at)) return NONE;
    append("hit", kind, path + length);
    if (action == BEFORE) die();
    return action;
}

static void leave(enum effect effect) {
    if (effect == AFTER || effect == TORN) die();
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A call of a kind that concerns the path `where`, and returns `failed` after an error. */
#define CALL(kind, where, failed, type, name, parameters, arguments) \
    type name parameters {                                           \
        enum effect effect = enter(kind, where);                     \
        if (effect == FAIL) return errno = error, failed;            \
        if (effect == SKIP) return (type)0;                          \
        type result = NEXT(name) arguments;                          \
        leave(effect);                                               \
        return result;                                               \
    }

/* A call that transfers `bytes` bytes. */
#define TRANSFER(kind, where, name, parameters, arguments)     \
    ssize_t name parameters {                                  \
        enum effect effect = enter(kind, where);               \
        if (effect == FAIL) return errno = error, -1;          \
        if (effect == SKIP) return (ssize_t)bytes;             \
        if (effect == SHORT || effect == TORN) bytes -= bytes / 2; \
        ssize_t result = NEXT(name) arguments;                 \
        leave(effect);                                         \
        return result;                                         \
    }

#define OPENS(name)                                                                                       \
    int name(const char *path, int flags, ...) {                                                          \
        va_list more;                                                                                     \
        va_start(more, flags);                                                                            \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                                         \
        va_end(more);                                                                                     \
        enum effect effect = enter(flags & O_CREAT ? CREATE : OPEN, within(AT_FDCWD, path));              \
        if (effect == FAIL) return errno = error, -1;                                                     \
        int result = NEXT(name)(path, flags, mode);                                                       \
        leave(effect);                                                                                    \
        return result;                                                                                    \
    }

#define OPENS_AT(name)                                                                                    \
    int name(int fd, const char *path, int flags, ...) {                                                  \
        va_list more;                                                                                     \
        va_start(more, flags);                                                                            \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                                         \
        va_end(more);                                                                                     \
        enum effect effect = enter(flags & O_CREAT ? CREATE : OPEN, within(fd, path));                    \
        if (effect == FAIL) return errno = error, -1;                                                     \
        int result = NEXT(name)(fd, path, flags, mode);                                                   \
        leave(effect);                                                                                    \
        return result;                                                                                    \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
CALL(CREATE, within(AT_FDCWD, path), -1, int, creat, (const char *path, mode_t mode), (path, mode))
CALL(CREATE, within(AT_FDCWD, path), -1, int, creat64, (const char *path, mode_t mode), (path, mode))
CALL(OPEN, within(AT_FDCWD, path), NULL, DIR *, opendir, (const char *path), (path))

TRANSFER(READ, of(fd), read, (int fd, void *buffer, size_t bytes), (fd, buffer, bytes))
TRANSFER(READ, of(fd), pread, (int fd, void *buffer, size_t bytes, off_t from), (fd, buffer, bytes, from))
TRANSFER(READ, of(fd), pread64, (int fd, void *buffer, size_t bytes, off64_t from), (fd, buffer, bytes, from))
TRANSFER(WRITE, of(fd), write, (int fd, const void *buffer, size_t bytes), (fd, buffer, bytes))
TRANSFER(WRITE, of(fd), pwrite, (int fd, const void *buffer, size_t bytes, off_t to), (fd, buffer, bytes, to))
TRANSFER(WRITE, of(fd), pwrite64, (int fd, const void *buffer, size_t bytes, off64_t to), (fd, buffer, bytes, to))
TRANSFER(WRITE, of(to), sendfile, (int to, int from, off_t *offset, size_t bytes), (to, from, offset, bytes))
TRANSFER(WRITE, of(to), sendfile64, (int to, int from, off64_t *offset, size_t bytes), (to, from, offset, bytes))
TRANSFER(WRITE, of(to), copy_file_range,
         (int from, off64_t *start, int to, off64_t *end, size_t bytes, unsigned flags),
         (from, start, to, end, bytes, flags))

/* The first buffer stands for all: a short transfer has half of it. */
#define VECTOR(kind, name, single)                                                              \
    ssize_t name(int fd, const struct iovec *vectors, int number) {                             \
        enum effect effect = enter(kind, of(fd));                                               \
        if (effect == FAIL) return errno = error, -1;                                           \
        ssize_t result = effect == NONE || effect == AFTER                                      \
                             ? NEXT(name)(fd, vectors, number)                                  \
                             : NEXT(single)(fd, vectors->iov_base, vectors->iov_len - vectors->iov_len / 2); \
        leave(effect);                                                                          \
        return result;                                                                          \
    }
VECTOR(READ, readv, read)
VECTOR(WRITE, writev, write)

CALL(SYNC, of(fd), -1, int, fsync, (int fd), (fd))
CALL(SYNC, of(fd), -1, int, fdatasync, (int fd), (fd))
CALL(RENAME, within(AT_FDCWD, to), -1, int, rename, (const char *from, const char *to), (from, to))
CALL(RENAME, within(there, to), -1, int, renameat, (int here, const char *from, int there, const char *to),
     (here, from, there, to))
CALL(flags ? EXCHANGE : RENAME, within(there, to), -1, int, renameat2,
     (int here, const char *from, int there, const char *to, unsigned flags), (here, from, there, to, flags))
#define MAPPED (flags & MAP_ANONYMOUS ? "" : of(fd))
CALL(MAP, MAPPED, MAP_FAILED, void *, mmap, (void *start, size_t bytes, int access, int flags, int fd, off_t from),
     (start, bytes, access, flags, fd, from))
CALL(MAP, MAPPED, MAP_FAILED, void *, mmap64, (void *start, size_t bytes, int access, int flags, int fd, off64_t from),
     (start, bytes, access, flags, fd, from))
CALL(RESIZE, of(fd), -1, int, ftruncate, (int fd, off_t bytes), (fd, bytes))
CALL(RESIZE, of(fd), -1, int, ftruncate64, (int fd, off64_t bytes), (fd, bytes))
CALL(ALLOCATE, of(fd), -1, int, fallocate, (int fd, int mode, off_t from, off_t bytes), (fd, mode, from, bytes))
CALL(ALLOCATE, of(fd), -1, int, fallocate64, (int fd, int mode, off64_t from, off64_t bytes), (fd, mode, from, bytes))
CALL(REMOVE, within(AT_FDCWD, path), -1, int, unlink, (const char *path), (path))
CALL(REMOVE, within(fd, path), -1, int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
CALL(REMOVE, within(AT_FDCWD, path), -1, int, rmdir, (const char *path), (path))
CALL(MKDIR, within(AT_FDCWD, path), -1, int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(LOCK, of(fd), -1, int, flock, (int fd, int operation), (fd, operation))
CALL(STAT, within(fd, path), -1, int, statx,
     (int fd, const char *path, int flags, unsigned mask, struct statx *data), (fd, path, flags, mask, data))
CALL(STAT, of(fd), -1, int, fstat64, (int fd, struct stat64 *data), (fd, data))
CALL(STAT, within(AT_FDCWD, path), -1, int, stat64, (const char *path, struct stat64 *data), (path, data))
CALL(STAT, within(AT_FDCWD, path), -1, int, lstat64, (const char *path, struct stat64 *data), (path, data))
CALL(STAT, within(AT_FDCWD, path), -1, int, statvfs, (const char *path, struct statvfs *data), (path, data))
CALL(STAT, within(AT_FDCWD, path), NULL, char *, realpath, (const char *path, char *real), (path, real))
CALL(STAT, within(AT_FDCWD, path), -1, ssize_t, readlink, (const char *path, char *target, size_t bytes),
     (path, target, bytes))
CALL(LIST, of(dirfd(folder_stream)), NULL, struct dirent64 *, readdir64, (DIR *folder_stream), (folder_stream))

int close(int fd) {
    enum effect effect = enter(CLOSE, of(fd));
    /* An error of close leaves the descriptor closed. */
    int result = NEXT(close)(fd);
    leave(effect);
    return effect == FAIL ? errno = error, -1 : result;
}
