#!/usr/bin/env bash
# counter-modes with fewer increments, for every day.
# level: quick
# time: 120
# buckets: file ceph
# level@ceph: long
BH_INCREMENTS=${BH_INCREMENTS:-150} BH_MODES=${BH_MODES:-DELETE PERSIST MIXED WAL WALMIX} exec bash "$(dirname "${BASH_SOURCE[0]}")/counter-modes.sh"
