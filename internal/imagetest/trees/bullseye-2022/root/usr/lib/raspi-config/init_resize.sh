#!/bin/sh
# The very first boot: process 1 in place of systemd, as init= in cmdline.txt
# says. It takes itself out of there, grows the root partition, gives the disk
# an id of its own (of which PARTUUIDs are made) and reboots; resize2fs_once
# grows the file system then.

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mkdir -p /run/systemd
mount /boot
mount / -o remount,ro

sed -i -e 's| init=/usr/lib/raspi-config/init_resize\.sh||' -e 's| sdhci\.debug_quirks2=4||' /boot/cmdline.txt
grep -q splash /boot/cmdline.txt || sed -i 's/ quiet//g' /boot/cmdline.txt
sync

disk=/dev/$(lsblk -no pkname "$(findmnt / -o source -n)")
parted -m "$disk" u s resizepart 2 "$(($(cat "/sys/class/block/${disk#/dev/}/size") - 1))"
old=$(fdisk -l "$disk" | sed -n 's/Disk identifier: 0x\([^ ]*\)/\1/p')
new=$(tr -dc 'a-f0-9' </dev/hwrng | dd bs=1 count=8 2>/dev/null)
mount -o remount,rw /
printf 'x\ni\n0x%s\nr\nw\n' "$new" | fdisk "$disk" >/dev/null &&
    sed -i "s/$old/$new/g" /etc/fstab /boot/cmdline.txt

umount /boot
mount / -o remount,ro
reboot -f
