#!/bin/bash
# systemd as the first process of a machine of its own: a copy of this one's root that forgets
# what is written to it, no service but those of FOLDER, the network namespace this is started
# in. See systemd.rs.
#
#   systemd.sh CGROUP FOLDER
set -eu

if [ "$1" != inside ]; then
    echo $$ >"$1/cgroup.procs"
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc bash "$0" inside "$2"
fi

folder=$2
mount --make-rprivate /
mkdir "$folder/machine"
mount -t tmpfs tmpfs "$folder/machine"
mkdir "$folder/machine/"{written,work,root}
root=$folder/machine/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/machine/written,workdir=$folder/machine/work" "$root"
cd "$root"
mount -t proc proc proc
# Limits of the whole machine are not this systemd's to raise.
mount --bind proc/sys/fs proc/sys/fs
mount -o remount,bind,ro proc/sys/fs
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder_in_memory in run tmp dev var/lib; do
    mount -t tmpfs -o mode=755 tmpfs "$folder_in_memory"
done
mkdir dev/net dev/shm
for device in null zero full random urandom tty net/tun; do
    cp -a "/dev/$device" "dev/$device"
done
cp "$folder/hawser" usr/bin/hawser
mkdir -p etc/hawser run/hawser run/hawser-agent run/units
mount --bind "$folder/etc" etc/hawser
mount --bind "$folder/run" run/hawser
mount --bind "$folder/agent" run/hawser-agent
mount --bind "$folder/units" run/units
pivot_root . .
umount -l .

export container=other SYSTEMD_UNIT_PATH=/run/units
exec /usr/lib/systemd/systemd --system --unit=multi-user.target --log-target=console
