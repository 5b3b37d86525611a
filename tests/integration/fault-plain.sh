#!/usr/bin/env bash
# fault-flush.sh without a history: KEY and KEY.prev are all there is.
# level: full
# time: 900
# buckets: file
export BUCKETHEAD_SNAPSHOT__HISTORY=false BH_TRIES="${BH_TRIES:-${BHFS_LONG:+6}}"
BH_TRIES=${BH_TRIES:-4}
. "$(dirname "${BASH_SOURCE[0]}")/fault-flush.sh"
