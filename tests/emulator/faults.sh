#!/bin/sh
# Plants one fault at a time (faults.cu) and shows on how many of eight seeds each build notices it. Every fault must be noticed on
# at least one seed by one of them, and no correct program (ok...) by any.
# BUILD is the Makefile's; cargo's target/emulator unless set.
cd "$(dirname "$0")/../.." || exit 1
: "${BUILD:=${CARGO_TARGET_DIR:-target}/emulator}"
export ASAN_OPTIONS=detect_leaks=0
status=0
printf '%-22s %6s %6s\n' fault asan race
for fault in $("$BUILD"/faults_race); do
    total=0
    line=$(printf '%-22s' "$fault")
    for build in asan race; do
        noticed=0
        for seed in 0 1 2 3 4 5 6 7; do
            "$BUILD/faults_$build" "$fault" $seed >/dev/null 2>&1 || noticed=$((noticed + 1))
        done
        total=$((total + noticed))
        line="$line $(printf '%6d' $noticed)"
    done
    case $fault in
        ok*) [ $total -eq 0 ] || { line="$line   WRONGLY ACCUSED"; status=1; } ;;
        *) [ $total -gt 0 ] || { line="$line   MISSED"; status=1; } ;;
    esac
    echo "$line"
done
exit $status
