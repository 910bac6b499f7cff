// A clock that can be set at run time, for a program that this is preloaded into: the time of day is that of the kernel plus
// the microseconds in the file CLOCK_OFFSET_FILE (8 bytes, of this machine's order). Monotonic clocks stay as they are.
// libfaketime does the same, but not in a program that allocates with jemalloc, as Debian's redis-server does.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;

__attribute__((constructor)) static void map(void) {
  const char *path = getenv("CLOCK_OFFSET_FILE");
  int fd = path ? open(path, O_RDONLY) : -1;
  if (fd < 0) abort();
  void *p = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) abort();
  close(fd);
  offset = p;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
  int failed = syscall(SYS_clock_gettime, id, ts);
  if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    int64_t us = ts->tv_sec * 1000000LL + ts->tv_nsec / 1000 + *offset;
    ts->tv_sec = us / 1000000;
    ts->tv_nsec = us % 1000000 * 1000 + ts->tv_nsec % 1000;
  }
  return failed;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  (void)tz;
  struct timespec ts;
  int failed = clock_gettime(CLOCK_REALTIME, &ts);
  tv->tv_sec = ts.tv_sec;
  tv->tv_usec = ts.tv_nsec / 1000;
  return failed;
}

time_t time(time_t *t) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (t) *t = ts.tv_sec;
  return ts.tv_sec;
}
