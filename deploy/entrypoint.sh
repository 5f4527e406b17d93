#!/bin/sh
# Before a service starts, its log says what is wrong with its container: `tppo doctor --before`. It starts all the same,
# as it waits for what may still come, and refuses by itself what it cannot do without.
case "$1" in
    generation | reward | learner | dashboard) tppo doctor --before "$@" || true ;;
esac
exec tppo "$@"
