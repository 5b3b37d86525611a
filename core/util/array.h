/* Arrays that grow. */
#ifndef BH_UTIL_ARRAY_H
#define BH_UTIL_ARRAY_H

#include <stdbool.h>
#include <stdlib.h>

/* Room for one more item of that size behind count of them: *items is reallocated, twice as large,
 * if it is full. False: no memory, and nothing has changed. */
static inline bool bh_grow_(void **items, size_t *room, size_t count, size_t size)
{
    if (count < *room)
        return true;
    size_t wanted = *room ? *room * 2 : 64;
    void *more = realloc(*items, wanted * size);
    if (!more)
        return false;
    *items = more;
    *room = wanted;
    return true;
}

/* The same of a typed pointer. */
#define bh_grow(items, room, count)                                                                \
    __extension__({                                                                                \
        void *bh_grown_ = (items);                                                                 \
        bool bh_could_ = bh_grow_(&bh_grown_, &(room), (count), sizeof *(items));                  \
        (items) = bh_grown_;                                                                       \
        bh_could_;                                                                                 \
    })

#endif
