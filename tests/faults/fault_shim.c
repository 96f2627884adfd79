/* Makes one system call of a program fail: a library for LD_PRELOAD.
 *
 *   FAULT_CALL=write FAULT_AT=7 FAULT_ERRNO=28 LD_PRELOAD=./fault_shim.so ropewalk ...
 *
 * The FAULT_AT-th call of that kind (the first is 1), and every later one if FAULT_STICKY is set, returns an error with that
 * errno. With FAULT_PATH=END, only reads, writes, flushes and closes of files whose path ends so count. Kinds: open read
 * write sync close rename mkdir unlink stat malloc thread. Only calls that the program and the C++
 * library make are seen, and not those within libc (stdio's): for these use strace, as scripts/fault_loop.py does. With
 * FAULT_COUNTS=FILE the number of calls of each kind is written there at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum kind { OPEN, READ, WRITE, SYNC, CLOSE, RENAME, MKDIR, UNLINK, STAT, MALLOC, THREAD, KINDS };
static const char* const names[KINDS] = {"open",  "read",   "write", "sync",   "close", "rename",
                                         "mkdir", "unlink", "stat",  "malloc", "thread"};
static atomic_long calls[KINDS];
static int chosen = -1, error_number, sticky;
static long at;
static int ready;
static const char* only; /* the end of a path */

__attribute__((constructor)) static void start(void) {
  const char *call = getenv("FAULT_CALL"), *n = getenv("FAULT_AT"), *e = getenv("FAULT_ERRNO");
  for (int k = 0; call && k < KINDS; ++k) {
    if (strcmp(call, names[k]) == 0) chosen = k;
  }
  at = n ? atol(n) : 0;
  error_number = e ? atoi(e) : EIO;
  sticky = getenv("FAULT_STICKY") != NULL;
  only = getenv("FAULT_PATH");
  for (int k = 0; k < KINDS; ++k) calls[k] = 0; /* what the loader did does not count */
  ready = 1;
}

__attribute__((destructor)) static void end(void) {
  const char* path = getenv("FAULT_COUNTS");
  ready = 0;
  FILE* f = path ? fopen(path, "w") : NULL;
  if (!f) return;
  for (int k = 0; k < KINDS; ++k) fprintf(f, "%s %ld\n", names[k], (long)calls[k]);
  fclose(f);
}

static int fails(enum kind k) {
  if (!ready) return 0;
  const long n = ++calls[k];
  if ((int)k != chosen || (sticky ? n < at : n != at)) return 0;
  errno = error_number;
  return 1;
}

/* The same for a call on an open file. */
static int fails_on(enum kind k, int fd) {
  if (!ready) return 0;
  if (only) {
    char name[40], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(name, path, sizeof path - 1);
    const size_t end = strlen(only);
    if (n < (ssize_t)end || memcmp(path + n - end, only, end) != 0) return 0;
  }
  return fails(k);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(kind, result, name, parameters, arguments)    \
  result name parameters {                                 \
    static __typeof__(&name) real;                         \
    if (!real) real = REAL(name);                          \
    return fails(kind) ? (result)(-1) : real arguments;    \
  }

#define WRAP_FD(kind, result, name, parameters, arguments)      \
  result name parameters {                                      \
    static __typeof__(&name) real;                              \
    if (!real) real = REAL(name);                               \
    return fails_on(kind, fd) ? (result)(-1) : real arguments;  \
  }

WRAP_FD(READ, ssize_t, read, (int fd, void* p, size_t n), (fd, p, n))
WRAP_FD(READ, ssize_t, pread, (int fd, void* p, size_t n, off_t o), (fd, p, n, o))
WRAP_FD(READ, ssize_t, pread64, (int fd, void* p, size_t n, off64_t o), (fd, p, n, o))
WRAP_FD(WRITE, ssize_t, write, (int fd, const void* p, size_t n), (fd, p, n))
WRAP_FD(WRITE, ssize_t, pwrite, (int fd, const void* p, size_t n, off_t o), (fd, p, n, o))
WRAP_FD(SYNC, int, fsync, (int fd), (fd))
WRAP_FD(SYNC, int, fdatasync, (int fd), (fd))
WRAP_FD(CLOSE, int, close, (int fd), (fd))
WRAP(RENAME, int, rename, (const char* a, const char* b), (a, b))
WRAP(RENAME, int, renameat, (int d, const char* a, int e, const char* b), (d, a, e, b))
WRAP(MKDIR, int, mkdir, (const char* p, mode_t m), (p, m))
WRAP(UNLINK, int, unlink, (const char* p), (p))
WRAP(UNLINK, int, unlinkat, (int d, const char* p, int f), (d, p, f))
WRAP(STAT, int, stat, (const char* p, struct stat* s), (p, s))
WRAP(STAT, int, lstat, (const char* p, struct stat* s), (p, s))
WRAP(STAT, int, fstat, (int fd, struct stat* s), (fd, s))
WRAP(STAT, int, fstatat, (int d, const char* p, struct stat* s, int f), (d, p, s, f))
WRAP(STAT, int, ftruncate, (int fd, off_t n), (fd, n))

static mode_t mode_in(int flags, va_list list) {
  return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(list, int) : 0;
}
#define WRAP_OPEN(name)                                    \
  int name(const char* path, int flags, ...) {             \
    static int (*real)(const char*, int, ...);             \
    va_list list;                                          \
    if (!real) real = REAL(name);                          \
    va_start(list, flags);                                 \
    const mode_t mode = mode_in(flags, list);              \
    va_end(list);                                          \
    return fails(OPEN) ? -1 : real(path, flags, mode);     \
  }
WRAP_OPEN(open)
WRAP_OPEN(open64)
#define WRAP_OPENAT(name)                                  \
  int name(int dir, const char* path, int flags, ...) {    \
    static int (*real)(int, const char*, int, ...);        \
    va_list list;                                          \
    if (!real) real = REAL(name);                          \
    va_start(list, flags);                                 \
    const mode_t mode = mode_in(flags, list);              \
    va_end(list);                                          \
    return fails(OPEN) ? -1 : real(dir, path, flags, mode); \
  }
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)

FILE* fopen(const char* path, const char* mode) {
  static FILE* (*real)(const char*, const char*);
  if (!real) real = REAL(fopen);
  return fails(OPEN) ? NULL : real(path, mode);
}

int fflush(FILE* f) {
  static int (*real)(FILE*);
  if (!real) real = REAL(fflush);
  return f && fails_on(WRITE, fileno(f)) ? EOF : real(f);
}

int pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* x) {
  static int (*real)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!real) real = REAL(pthread_create);
  return fails(THREAD) ? EAGAIN : real(t, a, f, x);
}

/* libc's own names: dlsym() itself allocates. */
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
void* malloc(size_t n) { return fails(MALLOC) ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t m) { return fails(MALLOC) ? NULL : __libc_calloc(n, m); }
void* realloc(void* p, size_t n) { return fails(MALLOC) ? NULL : __libc_realloc(p, n); }
void* aligned_alloc(size_t a, size_t n) { return fails(MALLOC) ? NULL : __libc_memalign(a, n); }
int posix_memalign(void** p, size_t a, size_t n) {
  if (fails(MALLOC)) return ENOMEM;
  *p = __libc_memalign(a, n);
  return *p || n == 0 ? 0 : ENOMEM;
}
