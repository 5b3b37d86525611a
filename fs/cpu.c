/* Where the loop thread runs decides what a request costs: 4 µs where the client itself runs, as
 * the two then take turns, more than ten times that where a sleeping CPU must be woken. So a
 * sampler looks every millisecond on which CPU the client of most of the recent requests runs, and
 * keeps the loop thread there. With several busy clients on different CPUs there is no such place,
 * and the scheduler decides.
 *
 * Being there is not enough: a client that the loop thread wakes is moved to an idle CPU by the
 * scheduler, because its own is busy with the loop thread, and the two hunt each other. Not if the
 * loop thread has the policy SCHED_IDLE: its CPU then counts as idle, and the client stays. The
 * price is that anything else on that CPU goes first, so the sampler looks how long the loop thread
 * waited for its CPU, and gives the ordinary policy back at once where somebody computes there, or
 * where requests become few. Needs the right to come back from SCHED_IDLE (CAP_SYS_NICE or
 * RLIMIT_NICE); without it the policy stays what it is.
 *
 * The scheduler still moves the client now and then, when it balances the load. So in a guest whose
 * CPUs halt when they are idle they are kept awake while clients are busy with us: a request across
 * CPUs then costs 6 µs instead of 60.
 *
 * Only this thread reads /proc, never a loop thread: should that ever block, no request waits for
 * it. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define JOINED_MAX    64
#define RECENT        32 /* requests remembered; a power of two */
#define SAMPLE_NS     1000000
#define HURRY_NS      250000   /* a sample's length while the right place is being looked for ... */
#define HURRY_SAMPLES 16       /* ... for so many samples after a start or a move */
#define IDLE_SAMPLES  50       /* without requests, then the sampler sleeps until there are some */
#define CALM_NS       3000000  /* with fewer requests for so long, no client is busy with us */
#define REST_NS       20000000 /* and after so long CPUs may halt again */
#define BUSY_RATE     8000     /* requests a second: fewer are no reason to move */
#define WAIT_PERCENT                                                                               \
    75 /* of a sample in which the loop thread waited: somebody else computes there */
#define CROWD_NS     3000000
#define AVOID_MIN_MS 100 /* how long SCHED_IDLE is left alone then; doubled each time */
#define AVOID_MAX_MS 5000

struct follower {
    bool automatic;
    int fixed_cpu; /* -1: none */
    cpu_set_t all;
    pid_t loop_tid;
    bool can_wake; /* may keep CPUs from halting, and that helps */
    int awake_fd;  /* -1: they may halt */
    bool can_idle; /* may go to SCHED_IDLE, and back */
    bool is_idle;  /* the loop thread has it */
    int64_t avoid_until, avoid_ms;
    int64_t calm_ns;              /* how long requests have been few */
    int64_t waited_ns, looked_ns; /* of the last look at its waiting */
    atomic_int recent[RECENT];
    atomic_uint noted;
    atomic_int joined_tids[JOINED_MAX]; /* threads that go where the loop thread goes */
    atomic_uint joined;
    atomic_bool asleep;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stopping;
    pthread_t thread;
    bool running;
};

static void set_cpus(pid_t tid, const cpu_set_t *set)
{
    /* ESRCH at the end of the mount; a cpuset that shrank meanwhile leaves the choice to the
     * scheduler. */
    if (sched_setaffinity(tid, sizeof *set, set) != 0 && errno != ESRCH && errno != EINVAL)
        bh_log(BH_LOG_DEBUG, "a thread cannot be placed: %s", strerror(errno));
}

/* cpu -1: wherever it may run */
static void place(struct follower *f, int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    if (cpu >= 0)
        CPU_SET(cpu, &one);
    const cpu_set_t *set = cpu >= 0 ? &one : &f->all;
    set_cpus(f->loop_tid, set);
    if (!f->automatic)
        return;
    /* The sampler goes along: when it goes to sleep on another CPU, that one looks for work and
     * takes the client. The workers do, too: an fsync would wake a sleeping CPU otherwise. */
    set_cpus(0, set);
    unsigned joined = atomic_load(&f->joined);
    for (unsigned i = 0; i < joined && i < JOINED_MAX; i++)
        set_cpus(atomic_load(&f->joined_tids[i]), set);
}

/* --- sleep of the CPUs --- */

/* A guest with the haltpoll driver: its CPUs halt when idle, and to wake one costs ten requests. */
static bool halts(void)
{
    char driver[32] = "";
    BH_FD int fd = open("/sys/devices/system/cpu/cpuidle/current_driver", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, driver, sizeof driver - 1);
    return n > 0 && !strncmp(driver, "haltpoll", 8);
}

/* Idle CPUs poll instead of halting while the file is open (Linux,
 * Documentation/power/pm_qos_interface.rst). */
static void set_awake(struct follower *f, bool awake)
{
    const int32_t microseconds = 0;
    if (!f->can_wake || awake == (f->awake_fd >= 0))
        return;
    if (!awake) {
        close(f->awake_fd);
        f->awake_fd = -1;
        return;
    }
    f->awake_fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
    if (f->awake_fd < 0 || write(f->awake_fd, &microseconds, sizeof microseconds) < 0)
        f->can_wake = false; /* not for this user */
}

/* --- the policy --- */

static void *probe_idle(void *arg)
{
    struct sched_param none = {0};
    *(bool *)arg = sched_setscheduler(0, SCHED_IDLE, &none) == 0 &&
                   sched_setscheduler(0, SCHED_OTHER, &none) == 0;
    return NULL;
}

/* A thread that cannot come back ends with the question. */
static bool may_idle(void)
{
    pthread_t thread;
    bool may = false;
    if (pthread_create(&thread, NULL, probe_idle, &may) == 0)
        pthread_join(thread, NULL);
    return may;
}

static void set_idle(struct follower *f, bool idle)
{
    struct sched_param none = {0};
    if (idle == f->is_idle)
        return;
    if (sched_setscheduler(f->loop_tid, idle ? SCHED_IDLE : SCHED_OTHER, &none) == 0)
        f->is_idle = idle;
    else if (errno != ESRCH)
        bh_log(BH_LOG_DEBUG, "the loop thread's policy cannot be changed: %s", strerror(errno));
}

/* Nanoseconds that the loop thread was ready to run and did not: second field of its schedstat. */
static int64_t waited(struct follower *f)
{
    char path[64], text[128];
    long long ran, ns;
    snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", (int)f->loop_tid);
    BH_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    return sscanf(text, "%lld %lld", &ran, &ns) == 2 ? ns : 0;
}

/* Whether somebody else computed on the loop thread's CPU since the last look, a few samples ago:
 * in a shorter time the client alone may have kept it waiting. */
static bool is_crowded(struct follower *f)
{
    int64_t now = bh_mono_ns();
    if (f->is_idle && now - f->looked_ns < CROWD_NS)
        return false;
    int64_t ns = waited(f);
    bool crowded = f->is_idle && (ns - f->waited_ns) * 100 > (now - f->looked_ns) * WAIT_PERCENT;
    f->waited_ns = ns;
    f->looked_ns = now;
    return crowded;
}

/* Decides the policy until the next sample, when a busy client is followed or (wanted false) none
 * is. */
static void choose_policy(struct follower *f, bool wanted)
{
    int64_t now = bh_mono_ms();
    if (is_crowded(f)) {
        f->avoid_ms = f->avoid_ms ? f->avoid_ms * 2 : AVOID_MIN_MS;
        f->avoid_ms = f->avoid_ms < AVOID_MAX_MS ? f->avoid_ms : AVOID_MAX_MS;
        f->avoid_until = now + f->avoid_ms;
    } else if (now > f->avoid_until + AVOID_MAX_MS) {
        f->avoid_ms = 0;
    }
    set_idle(f, wanted && f->can_idle && now >= f->avoid_until);
}

/* --- the place --- */

/* The client of most of the recent requests, 0 if none has three quarters of them. */
static pid_t busiest(struct follower *f)
{
    pid_t tids[RECENT];
    for (int i = 0; i < RECENT; i++)
        tids[i] = atomic_load_explicit(&f->recent[i], memory_order_relaxed);
    pid_t candidate = 0;
    int votes = 0; /* Boyer and Moore's majority vote */
    for (int i = 0; i < RECENT; i++) {
        if (votes == 0)
            candidate = tids[i];
        votes += tids[i] == candidate ? 1 : -1;
    }
    int count_ = 0;
    for (int i = 0; i < RECENT; i++)
        count_ += tids[i] == candidate;
    return count_ * 4 >= RECENT * 3 ? candidate : 0;
}

/* Field 39 of /proc/TID/stat, the CPU it ran on last; -1 if it is gone. */
static int cpu_of(pid_t tid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)tid);
    BH_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    char *p = strrchr(text, ')'); /* the program's name may hold anything */
    for (int field = 2; p && field < 39; field++)
        p = strchr(p + 1, ' ');
    return p ? atoi(p + 1) : -1;
}

static bool sleep_sample(struct follower *f, bool idle, int64_t ns)
{
    int64_t end = bh_mono_ns() + ns;
    struct timespec until = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    BH_LOCK_SCOPE(&f->mutex);
    if (idle) {
        atomic_store(&f->asleep, true);
        while (atomic_load(&f->asleep) && !f->stopping)
            pthread_cond_wait(&f->wake, &f->mutex);
        return !f->stopping;
    }
    if (!f->stopping)
        pthread_cond_timedwait(&f->wake, &f->mutex, &until);
    return !f->stopping;
}

/* One look. fresh: requests since the last; now: the CPU followed, -1 for none. Returns the new
 * one. */
static int look(struct follower *f, unsigned fresh, int64_t ns, int now)
{
    f->calm_ns = (int64_t)fresh * 1000000000 < BUSY_RATE * ns ? f->calm_ns + ns : 0;
    if (f->calm_ns >= CALM_NS) /* whatever it does, it is not us that it waits for */
        set_idle(f, false);
    if (f->calm_ns >= REST_NS)
        set_awake(f, false);
    if (f->calm_ns > 0)
        return now;
    set_awake(f, true);
    pid_t tid = busiest(f);
    int cpu = tid ? cpu_of(tid) : -1;
    if (cpu >= 0 && !CPU_ISSET(cpu, &f->all))
        cpu = -1;
    choose_policy(f, cpu >= 0);
    if (cpu != now)
        place(f, cpu);
    return cpu;
}

static void *sampler(void *arg)
{
    struct follower *f = arg;
    unsigned last = 0, idle = 0, hurry = HURRY_SAMPLES;
    int now = -1;
    pthread_setname_np(pthread_self(), "bhfs-cpu");
    for (;;) {
        int64_t ns = hurry ? HURRY_NS : SAMPLE_NS;
        bool was_idle = idle >= IDLE_SAMPLES;
        if (was_idle) {
            set_idle(f, false);
            set_awake(f, false);
            place(f, now = -1);
        }
        if (!sleep_sample(f, was_idle, ns))
            return NULL;
        unsigned noted = atomic_load_explicit(&f->noted, memory_order_relaxed),
                 fresh = noted - last;
        last = noted;
        idle = fresh ? 0 : idle + 1;
        hurry = was_idle ? HURRY_SAMPLES : hurry ? hurry - 1 : 0;
        int before = now;
        now = was_idle ? now : look(f, fresh, ns, now);
        if (now != before)
            hurry = HURRY_SAMPLES;
    }
}

int follower_new(struct follower **out, const char *setting, struct bh_error *err)
{
    struct follower *f = calloc(1, sizeof *f);
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory while mounting");
    f->awake_fd = -1;
    f->automatic = !strcmp(setting, "auto");
    f->fixed_cpu = f->automatic || !strcmp(setting, "off") ? -1 : atoi(setting);
    pthread_mutex_init(&f->mutex, NULL);
    bh_cond_init(&f->wake);
    int rc = sched_getaffinity(0, sizeof f->all, &f->all) == 0 ? 0 : errno;
    if (rc == 0 && f->fixed_cpu >= 0 &&
        (f->fixed_cpu >= CPU_SETSIZE || !CPU_ISSET(f->fixed_cpu, &f->all)))
        rc = EINVAL;
    if (rc) {
        bh_fail(
            err, rc,
            "mount.cpu = %s: this process may not run on that CPU; use auto, off or another number",
            setting);
        follower_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void follower_free(struct follower *f)
{
    if (!f)
        return;
    if (f->running) {
        pthread_mutex_lock(&f->mutex);
        f->stopping = true;
        pthread_cond_signal(&f->wake);
        pthread_mutex_unlock(&f->mutex);
        pthread_join(f->thread, NULL);
    }
    set_awake(f, false);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->mutex);
    free(f);
}

void follower_attach(struct follower *f)
{
    f->loop_tid = (pid_t)syscall(SYS_gettid);
    if (f->fixed_cpu >= 0)
        place(f, f->fixed_cpu);
    f->can_idle = f->automatic && may_idle();
    f->can_wake = f->automatic && halts();
    if (f->automatic && CPU_COUNT(&f->all) > 1)
        f->running = pthread_create(&f->thread, NULL, sampler, f) == 0;
}

void follower_join(struct follower *f)
{
    unsigned i = atomic_fetch_add(&f->joined, 1);
    if (i < JOINED_MAX)
        atomic_store(&f->joined_tids[i], (int)syscall(SYS_gettid));
}

void follower_leave(void)
{
    const struct sched_param none = {0};
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    if (sched_setscheduler(0, SCHED_OTHER, &none) != 0 ||
        sched_setaffinity(0, sizeof all, &all) != 0)
        bh_log(BH_LOG_DEBUG, "a thread stays where the loop thread is: %s", strerror(errno));
}

void follower_note(struct follower *f, pid_t tid)
{
    if (!f->automatic)
        return;
    unsigned i = atomic_fetch_add_explicit(&f->noted, 1, memory_order_relaxed);
    atomic_store_explicit(&f->recent[i % RECENT], tid, memory_order_relaxed);
    if (atomic_load_explicit(&f->asleep, memory_order_relaxed)) {
        BH_LOCK_SCOPE(&f->mutex);
        atomic_store(&f->asleep, false);
        pthread_cond_signal(&f->wake);
    }
}
