#!/bin/sh
# Runs the programs of faults.cu and prints, for each build, on how many of eight seeds it detects the fault. Every
# fault must be detected on at least one seed by one of the builds; correct programs (ok...) by none. BUILD is as in
# the Makefile, by default target/emulator.
cd "$(dirname "$0")/../.." || exit 1
: "${BUILD:=${CARGO_TARGET_DIR:-target}/emulator}"
export ASAN_OPTIONS=detect_leaks=0
status=0
printf '%-22s %6s %6s\n' fault asan race
for fault in $("$BUILD"/faults_race); do
    total=0
    line=$(printf '%-22s' "$fault")
    for build in asan race; do
        detected=0
        for seed in 0 1 2 3 4 5 6 7; do
            "$BUILD/faults_$build" "$fault" $seed >/dev/null 2>&1 || detected=$((detected + 1))
        done
        total=$((total + detected))
        line="$line $(printf '%6d' $detected)"
    done
    case $fault in
        ok*) [ $total -eq 0 ] || { line="$line   FALSE POSITIVE"; status=1; } ;;
        *) [ $total -gt 0 ] || { line="$line   MISSED"; status=1; } ;;
    esac
    echo "$line"
done
exit $status
