#include <errno.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"
#include "util/cleanup.h"
#include "util/log.h"

struct task {
    struct task *next;
    void (*fn)(void *);
    void *arg;
};

struct workers {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct task *head, **tail;
    bool stopping;
    struct follower *follower;
    unsigned count, idle, queued, max;
    pthread_t threads[];
};

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    pthread_setname_np(pthread_self(), "bhfs-worker");
    if (w->follower)
        follower_join(w->follower);
    else
        follower_leave();
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        w->idle++;
        while (!w->head && !w->stopping)
            pthread_cond_wait(&w->wake, &w->mutex);
        w->idle--;
        struct task *t = w->head;
        if (!t)
            break;
        w->head = t->next;
        if (!w->head)
            w->tail = &w->head;
        w->queued--;
        pthread_mutex_unlock(&w->mutex);
        t->fn(t->arg);
        free(t);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

int workers_new(struct workers **out, unsigned threads, struct follower *f)
{
    struct workers *w = calloc(1, sizeof *w + threads * sizeof *w->threads);
    if (!w)
        return ENOMEM;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    w->tail = &w->head;
    w->follower = f;
    w->max = threads;
    for (; f && w->count < threads; w->count++) {
        int rc = pthread_create(&w->threads[w->count], NULL, worker_main, w);
        if (rc) {
            workers_free(w);
            return rc;
        }
    }
    *out = w;
    return 0;
}

void workers_free(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    for (unsigned i = 0; i < w->count; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

int workers_run(struct workers *w, void (*fn)(void *arg), void *arg)
{
    struct task *t = malloc(sizeof *t);
    if (!t)
        return ENOMEM;
    *t = (struct task){.fn = fn, .arg = arg};
    BH_LOCK_SCOPE(&w->mutex);
    /* One more is made where all are busy; where that fails the others do it, unless there is none.
     */
    if (w->queued >= w->idle && w->count < w->max) {
        if (pthread_create(&w->threads[w->count], NULL, worker_main, w) == 0) {
            w->count++;
        } else if (w->count == 0) {
            free(t);
            return ENOMEM;
        }
    }
    *w->tail = t;
    w->tail = &t->next;
    w->queued++;
    pthread_cond_signal(&w->wake);
    return 0;
}

/* --- tasks of files --- */

struct kept_task {
    struct file_task task;
    alignas(max_align_t) char data[];
};

static void run_kept(void *arg)
{
    struct kept_task *k = arg;
    k->task.run(&k->task);
    bh_file_unref(k->task.file);
    free(k);
}

bool file_task_start(struct workers *w, const struct file_task *t)
{
    struct kept_task *k = malloc(sizeof *k + (t->data ? t->size : 0));
    if (!k)
        return false;
    k->task = *t;
    if (t->data)
        k->task.data = memcpy(k->data, t->data, t->size);
    if (t->file)
        bh_file_ref(t->file);
    if (workers_run(w, run_kept, k) == 0)
        return true;
    bh_file_unref(t->file);
    free(k);
    return false;
}
