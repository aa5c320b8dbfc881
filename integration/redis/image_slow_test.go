//go:build stockkvm

package redis

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"taskguide/integration/stockkvm"
)

// The guest on the network of a pair of hosts.
const (
	guestMAC     = "52:54:00:77:00:10"
	guestAddress = "10.77.0.16"
	guestPort    = "6379"
)

// imageSize is the size of the guest's disk.
const imageSize = "128M"

// packages are what the guest is made of, with all that they depend on.
var packages = []string{
	"redis-server", "base-files", "bash", "coreutils", "iproute2", "mount",
}

// unused are folders that the guest does without: most of the image, which a host must copy.
var unused = []string{
	"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl",
	"usr/lib/x86_64-linux-gnu/perl",
}

// guestInit is the guest's first process. redis' own configuration is Debian's, except for what
// stands here: it serves the network, and answers a write once fsync of its log has returned.
const guestInit = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
ip link set lo up
ip link set eth0 up
ip address add ` + guestAddress + `/24 dev eth0
echo 1 >/proc/sys/vm/overcommit_memory
echo "userland after $(cut -d ' ' -f 1 /proc/uptime) s"
redis-server /etc/redis/redis.conf --daemonize no --logfile "" --supervised no \
  --bind 0.0.0.0 --protected-mode no --appendonly yes --appendfsync always --save "" &
exec bash -i
`

// makeImage makes the guest's disk, an ext4 file system, from Debian's packages and returns its
// path in dir. It needs no root: only redis and the kernel read what is in it, and both are root.
func makeImage(ctx context.Context, dir string) (string, error) {
	cache, err := stockkvm.CacheDir()
	if err != nil {
		return "", err
	}
	files, err := stockkvm.FetchWithDependencies(ctx, filepath.Join(cache, "stockkvm"), packages...)
	if err != nil {
		return "", err
	}
	root := filepath.Join(dir, "root")
	if err := run(ctx, "cp", "-a", files, root); err != nil {
		return "", err
	}
	for _, d := range unused {
		if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
			return "", err
		}
	}
	// The last one is made by a script of redis-server's package.
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "root", "sbin",
		"var/lib/redis"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "sbin", "init"), []byte(guestInit),
		0o755); err != nil {
		return "", err
	}
	image := filepath.Join(dir, "guest.img")
	return image, run(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, image, imageSize)
}

// run runs a program of this machine.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
