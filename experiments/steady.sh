# Sourced by the run.sh of what is timed on a CPU. A hand-off takes fresh memory for all that it decodes; glibc gives it back each time and
# takes it anew in pages of 4 KiB, so that its runs lie far apart. jemalloc (Debian: libjemalloc2) keeps
# it, in large pages; where it is not installed, glibc is asked for large pages. meta.json says which (`environment`).
if [ -z "${LD_PRELOAD:-}${GLIBC_TUNABLES:-}" ]; then
    steady=$(PATH=$PATH:/sbin ldconfig -p 2>/dev/null | awk '/libjemalloc\.so\.2 / {print $NF; exit}')
    if [ -n "$steady" ]; then
        export LD_PRELOAD=$steady MALLOC_CONF=thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0
    else
        echo "note: times scatter less with jemalloc (apt-get install libjemalloc2)" >&2
        export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
    fi
fi
