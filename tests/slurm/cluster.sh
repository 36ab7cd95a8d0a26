#!/usr/bin/env bash
# A SLURM cluster of pretended nodes and GPUs on one Linux machine: the real slurmctld, slurmd, sbatch, squeue and sacct.
#
#   cluster.sh install          the Debian packages (as root)
#   cluster.sh start            write the configuration, start the daemons
#   cluster.sh stop             end exactly the daemons that start recorded, by their process ids
#   cluster.sh status           nodes, jobs and daemons
#   cluster.sh stop-ctld        end slurmctld alone; running jobs go on
#   cluster.sh start-ctld       start it again
#   cluster.sh kill-node NAME   end one slurmd, so that its node goes DOWN
#   cluster.sh start-node NAME  start it again
#   cluster.sh env              print the line that points a shell at the cluster, for eval
#
# Settings, from the environment; start remembers them in the state folder:
#   CLUSTER_DIR   state folder                                              /tmp/slurm-cluster
#   ACCOUNTING    none (sacct knows nothing) or dbd (slurmdbd and MariaDB)  none
#   MIN_JOB_AGE   seconds that a finished job stays in squeue               300
#   BASE_PORT     first of the ports, all on 127.0.0.1                      16817
#
# Two nodes are in the default partition `cpu`, one with two GPUs in the partition `gpu`. Nothing outside the state folder
# is touched, and no root is needed but for install: a shell reaches the cluster by wrappers in its bin/, first on the PATH.
set -euo pipefail

DIR=${CLUSTER_DIR:-/tmp/slurm-cluster}
# shellcheck source=/dev/null
if [[ -f $DIR/settings && ${1:-} != start ]]; then source "$DIR/settings"; fi
ACCOUNTING=${ACCOUNTING:-none}
MIN_JOB_AGE=${MIN_JOB_AGE:-300}
BASE_PORT=${BASE_PORT:-16817}

CPU_NODES=(cpu1 cpu2)
GPU_NODES=(gpu1)
GPUS=(/dev/null /dev/zero) # slurmd sets CUDA_VISIBLE_DEVICES only for character devices; any do
CPUS=4                     # of a node, whatever the machine has
MEM_MB=6000
COMMANDS=(sbatch squeue sacct sacctmgr scancel scontrol sinfo srun sshare)

HOST=$(hostname -s)
ME=$(id -un)
CLUSTER=local$BASE_PORT
export SLURM_CONF=$DIR/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin # where Debian has the daemons

die() {
    echo "cluster.sh: $*" >&2
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: poll until the command succeeds
wait_for() {
    local what=$2 deadline=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || die "$what did not come up; see $DIR/log"
        sleep 0.2
    done
}

# ---- daemons, each known by the process id in run/NAME.pid ---------------------------------------------------------

# running NAME: whether that process lives and still is such a daemon
running() {
    local file=$DIR/run/$1.pid
    [[ -s $file && $(cat "/proc/$(<"$file")/comm" 2>/dev/null) == "${1%%-*}" ]]
}

# launch NAME COMMAND...: run it detached, with a log of its own
launch() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 &
    echo $! >"$DIR/run/$name.pid"
}

# finish NAME...: end them together, by force after 15 seconds
finish() {
    local name
    for name in "$@"; do
        if running "$name"; then kill "$(<"$DIR/run/$name.pid")"; fi
    done
    for name in "$@"; do
        for _ in {1..150}; do
            running "$name" || break
            sleep 0.1
        done
        if running "$name"; then kill -9 "$(<"$DIR/run/$name.pid")"; fi
        rm -f "$DIR/run/$name.pid"
    done
}

# end_strays: end what jobs of this cluster left behind; without cgroups a process can outlive its job
end_strays() {
    local folder mark
    for folder in /proc/[0-9]*; do
        mark=SLURM_CLUSTER_NAME=$CLUSTER
        if [[ $(cat "$folder/comm" 2>/dev/null) == slurmstepd ]]; then mark=SLURM_CONF=$SLURM_CONF; fi
        if grep -qzFx "$mark" "$folder/environ" 2>/dev/null; then
            kill -9 "${folder#/proc/}" 2>/dev/null || true
        fi
    done
}

# ---- configuration -------------------------------------------------------------------------------------------------

joined() { local IFS=, && echo "$*"; }

slurm_conf() {
    local name port=$((BASE_PORT + 3)) gres
    cat <<CONF
ClusterName=$CLUSTER
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$BASE_PORT
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/run/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/own.slurmctld
SlurmdPidFile=$DIR/run/own.slurmd.%n
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
# no cgroups and no device control, so that it works in a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=200
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# believe the CPUs and the memory written here, whatever the machine has
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=2
InactiveLimit=0
MinJobAge=$MIN_JOB_AGE
JobRequeue=0
GresTypes=gpu
CONF
    if [[ $ACCOUNTING == dbd ]]; then
        cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((BASE_PORT + 1))
AccountingStoragePass=$DIR/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
CONF
    fi
    for name in "${CPU_NODES[@]}" "${GPU_NODES[@]}"; do
        gres=
        if [[ " ${GPU_NODES[*]} " == *" $name "* ]]; then gres=" Gres=gpu:fake:${#GPUS[@]}"; fi
        echo "NodeName=$name NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$port CPUs=$CPUS RealMemory=$MEM_MB$gres"
        port=$((port + 1))
    done
    echo "PartitionName=cpu Nodes=$(joined "${CPU_NODES[@]}") Default=YES DefaultTime=10 MaxTime=1-0"
    echo "PartitionName=gpu Nodes=$(joined "${GPU_NODES[@]}") DefaultTime=10 MaxTime=1-0"
}

gres_conf() {
    local name device
    echo "AutoDetect=off"
    for name in "${GPU_NODES[@]}"; do
        for device in "${GPUS[@]}"; do
            echo "NodeName=$name Name=gpu Type=fake File=$device Flags=nvidia_gpu_env"
        done
    done
}

slurmdbd_conf() {
    cat <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((BASE_PORT + 1))
SlurmUser=$ME
PidFile=$DIR/run/own.slurmdbd
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((BASE_PORT + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CONF
}

# The SLURM job step plugin of Snakemake unsets SLURM_CONF before its srun, so the wrappers set it.
wrappers() {
    local name
    for name in "${COMMANDS[@]}"; do
        printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$(command -v "$name")" >"$DIR/bin/$name"
        chmod +x "$DIR/bin/$name"
    done
}

write_config() {
    mkdir -p "$DIR"/{etc,run,log,state,bin,db}
    for name in "${CPU_NODES[@]}" "${GPU_NODES[@]}"; do mkdir -p "$DIR/spool/$name"; done
    printf '%s=%q\n' ACCOUNTING "$ACCOUNTING" MIN_JOB_AGE "$MIN_JOB_AGE" BASE_PORT "$BASE_PORT" >"$DIR/settings"
    slurm_conf >"$SLURM_CONF"
    gres_conf >"$DIR/etc/gres.conf"
    if [[ $ACCOUNTING == dbd ]]; then (umask 077 && slurmdbd_conf >"$DIR/etc/slurmdbd.conf"); fi
    wrappers
}

# ---- starting and stopping -----------------------------------------------------------------------------------------

start_munged() {
    if [[ ! -s $DIR/etc/munge.key ]]; then (umask 077 && head -c 128 /dev/urandom >"$DIR/etc/munge.key"); fi
    # --force: /tmp above the socket is writable by all, which munged refuses otherwise
    launch munged munged --foreground --force --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.socket" \
        --pid-file="$DIR/run/own.munged" --log-file="$DIR/log/munged.log" --seed-file="$DIR/state/munge.seed"
    wait_for 10 munged test -S "$DIR/run/munge.socket"
}

start_database() {
    local socket=$DIR/run/mariadb.socket
    if [[ ! -d $DIR/db/mysql ]]; then
        mariadb-install-db --no-defaults --user="$ME" --datadir="$DIR/db" --skip-test-db \
            --auth-root-authentication-method=normal >"$DIR/log/mariadb-install.log" 2>&1
    fi
    launch mariadbd mariadbd --no-defaults --user="$ME" --datadir="$DIR/db" --bind-address=127.0.0.1 \
        --port=$((BASE_PORT + 2)) --socket="$socket" --pid-file="$DIR/run/own.mariadbd" \
        --log-error="$DIR/log/mariadb.log" --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
    wait_for 60 mariadbd mariadb-admin --no-defaults --socket="$socket" -uroot ping
    mariadb --no-defaults --socket="$socket" -uroot <<'SQL'
CREATE DATABASE IF NOT EXISTS slurm_acct;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost';
SQL
    launch slurmdbd slurmdbd -D
    wait_for 60 slurmdbd sacctmgr -n show cluster
    sacctmgr -i add cluster "$CLUSTER" >/dev/null 2>&1 || true
    sacctmgr -i add account lab >/dev/null 2>&1 || true
    sacctmgr -i add user "$ME" account=lab >/dev/null 2>&1 || true
}

start_ctld() {
    launch slurmctld slurmctld -D -f "$SLURM_CONF"
    wait_for 30 slurmctld scontrol ping
}

start_node() { launch "slurmd-$1" slurmd -D -f "$SLURM_CONF" -N "$1"; }

nodes_ready() { ! sinfo -hN -o '%T' | grep -qvE '^(idle|mixed|allocated)$'; }

start() {
    local name began=$SECONDS
    for name in munged slurmctld slurmd; do
        command -v "$name" >/dev/null || die "$name is not installed; as root: $0 install"
    done
    if running slurmctld; then die "already running in $DIR"; fi
    write_config
    start_munged
    if [[ $ACCOUNTING == dbd ]]; then start_database; fi
    start_ctld
    for name in "${CPU_NODES[@]}" "${GPU_NODES[@]}"; do start_node "$name"; done
    wait_for 60 "every node" nodes_ready
    echo "cluster.sh: up in $((SECONDS - began)) s; accounting: $ACCOUNTING"
}

stop() {
    if running slurmctld; then
        scancel --user="$ME" 2>/dev/null || true
        for _ in {1..50}; do
            [[ -z $(squeue -h 2>/dev/null) ]] && break
            sleep 0.2
        done
    fi
    finish slurmctld
    finish "${CPU_NODES[@]/#/slurmd-}" "${GPU_NODES[@]/#/slurmd-}" munged slurmdbd
    finish mariadbd
    end_strays
    echo "cluster.sh: stopped"
}

status() {
    local file
    sinfo -N -o '%N %P %T %c %m %G' || true
    squeue -o '%i %T %N %r %k' || true
    for file in "$DIR"/run/*.pid; do echo "$(basename "$file" .pid) $(<"$file")"; done
}

install() {
    local packages=(slurm-wlm munge) quickly=(-qq -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15
        -o Acquire::Retries=0 -o DPkg::Lock::Timeout=60)
    if [[ $ACCOUNTING == dbd ]]; then packages+=(slurmdbd mariadb-server); fi
    # Error-Mode: without it, apt-get update succeeds where nothing can be reached
    timeout 60 apt-get "${quickly[@]}" -o APT::Update::Error-Mode=any update || die "no package index can be reached"
    DEBIAN_FRONTEND=noninteractive timeout 180 apt-get "${quickly[@]}" install -y --no-install-recommends "${packages[@]}"
}

case ${1:-} in
install | start | stop | status) "$1" ;;
stop-ctld) finish slurmctld ;;
start-ctld) start_ctld ;;
kill-node) finish "slurmd-${2:?which node}" ;;
start-node) start_node "${2:?which node}" ;;
env) echo "export PATH=$DIR/bin:\$PATH" ;;
*)
    sed -n '2,/^set -euo/{/^set/d; s/^# \{0,1\}//; p}' "$0"
    exit 2
    ;;
esac
