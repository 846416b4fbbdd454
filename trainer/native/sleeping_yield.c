/* sched_yield that sleeps, for LD_PRELOAD.
 *
 * A rank of Open MPI that waits for other ranks calls sched_yield in a loop and so takes half of a core from a rank that
 * computes on the same core. With this library it sleeps between two polls. */
#include <time.h>

int sched_yield(void) {
    const struct timespec pause = {0, 50000};
    nanosleep(&pause, 0);
    return 0;
}
