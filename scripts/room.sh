# shellcheck shell=bash
# Sourced by the scripts that run tests: a directory for all that one run makes, and the end of it. Needs environment.sh.

# make_room: a TMPDIR of this run's own, and nothing of the caller's that would lead its tests to another platform.
make_room() {
    # Short, because Unix sockets have paths of at most 107 bytes and some lie below.
    TMPDIR=$(mktemp -d /tmp/ct.XXXX)
    export TMPDIR
    chmod 755 "$TMPDIR" # services of a test platform run as users of their own
    unset CLOISTER_API_HOST CLOISTER_API_KEY CLOISTER_CA_FILE CLOISTER_STATE_DIR CLOISTER_PROJECT PGHOST PGPORT PGUSER PGPASSWORD
    unset PYTHONDONTWRITEBYTECODE # or hundreds of short-lived programs, and each run of the tests, compile what they import
}

# make_memory: a part of it in memory, as root. Unit tests make some hundred thousand files and sync them: there that takes
# half the time, and on a disk it works as well.
make_memory() {
    mkdir "$TMPDIR/m"
    mount -t tmpfs -o mode=755 tmpfs "$TMPDIR/m" || say "no tmpfs: the unit tests run on the disk"
}

# clean_up: the end of it, whatever of that fails. Only what belongs to this run: processes, mounts and loop devices that name
# its directory, or the runtime directory of a platform whose state lay in it.
clean_up() {
    set +e
    local -a marks
    local dir mark pid device file
    # A platform's runtime directory is named by a digest of its state directory (base/settings.py).
    mapfile -t marks < <("$venv/bin/python" - "$TMPDIR" <<'PY'
import hashlib, os, sys
print(sys.argv[1] + "/")
for path, directories, _ in os.walk(os.path.realpath(sys.argv[1])):
    run = "/run/cloister/" + hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    if os.path.isdir(run):
        print(run)
        print("cloister-" + os.path.basename(run))  # in the names of volume daemons
    if path.count("/") > 7:
        directories.clear()
PY
    )
    for _ in 1 2 3 4 5; do
        local found=false
        for pid in /proc/[0-9]*; do
            pid=${pid#/proc/}
            [[ $pid -ne $$ && $pid -ne ${BASHPID:-0} ]] || continue
            # A compute's command line names nothing of its platform; its control groups do.
            if grep -qsaF "${marks[@]/#/-e}" "/proc/$pid/cmdline" "/proc/$pid/cgroup"; then
                kill -KILL "$pid" 2>/dev/null && found=true
            fi
        done
        $found || break
        sleep 0.2
    done
    for mark in "${marks[@]}"; do
        awk -v mark="$mark" 'index($5, mark) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r dir; do
            umount -l "$dir" 2>/dev/null
        done
        losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | while read -r device file; do
            [[ $file == "$mark"* ]] && losetup -d "$device" 2>/dev/null
        done
        case $mark in
        /run/cloister/*)
            find /sys/fs/cgroup -depth -type d -path "*cloister-${mark##*/}*" -exec rmdir {} + 2>/dev/null
            rm -rf --one-file-system "$mark"
            ;;
        esac
    done
    rm -rf --one-file-system "$TMPDIR"
}
