#!/bin/busybox sh
# The first process of the virtual machine: mounts what podlens reads, runs /test/run, says how it ended and stops
# the machine. From the kernel's command line, VM_CGROUP chooses how control groups are mounted, and VM_DISK_MODULES are what
# the kernel may lack for its disk, with commas between.

/bin/busybox --install -s /bin
# What the guest was given of another machine comes first.
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp TMPDIR=/disk

mount -t devtmpfs devtmpfs /dev
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t proc proc /proc
hostname podlens-vm
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
# Files for temporary use are on a device, as on a node: what is only in memory is never waited for.
for module in $(echo "$VM_DISK_MODULES" | tr , ' '); do
    file=/lib/modules/$(uname -r)/$module.ko
    [ ! -e "$file" ] || insmod "$file"
done
mount -t ext4 /dev/vda /disk || {
    echo "the disk cannot be mounted"
    reboot -f
}
# Real-time tasks of tests hold a CPU for as long as they want: the other one is there for all else.
echo -1 >/proc/sys/kernel/sched_rt_runtime_us

unified() {
    mkdir -p "$1"
    mount -t cgroup2 cgroup2 "$1"
}

legacy() {
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for controllers in cpu,cpuacct cpuset memory pids blkio devices freezer; do
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers" || rmdir "/sys/fs/cgroup/$controllers"
    done
}

case "$VM_CGROUP" in
v1) legacy ;;
hybrid)
    legacy
    unified /sys/fs/cgroup/unified
    ;;
*)
    unified /sys/fs/cgroup
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
    ;;
esac

cd /disk
echo "PODLENS_VM_BOOT=$(uname -r)"
sh /test/run </dev/null
echo "PODLENS_VM_EXIT=$?"
# QEMU ends at a reboot, which needs no ACPI.
reboot -f
