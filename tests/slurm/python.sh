#!/usr/bin/env bash
# Stands in for `python` in the jobs of a test: notes what ran where, and does to a job, once, what the test says.
#
# $FAULTS/ran      a line for every call: node, GPUs and arguments
# $FAULTS/*.fault  the first line is a part of the arguments, the rest what happens to the first call that has it
set -euo pipefail

printf '%s\t%s\t%s\n' "${SLURMD_NODENAME:-local}" "${CUDA_VISIBLE_DEVICES:-none}" "$*" >>"$FAULTS/ran"
for fault in "$FAULTS"/*.fault; do
    if [[ -e $fault && "$*" == *"$(head -1 "$fault" 2>/dev/null)"* ]] && mv "$fault" "$fault.$$" 2>/dev/null; then
        # shellcheck disable=SC1090
        source <(tail -n +2 "$fault.$$")
    fi
done
exec "$PYTHON_OF_TESTS" "$@"
