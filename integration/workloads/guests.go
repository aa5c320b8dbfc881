package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"taskguide/integration/stockkvm"
)

// workload is a guest: what is on its disk, and what it does.
type workload struct {
	name     string
	packages []string // of Debian, with all that they depend on
	source   string   // a source package that has Lua, which is put into /src; may be empty
	size     string   // of the disk
	script   string   // what init does once the system is up; it must not end
}

// workloads are the guests of examples/workloads. The sizes of working sets are meant for guests of
// 256 MiB.
var workloads = []workload{
	{
		name: "redis", packages: []string{"redis-server"}, size: "128M",
		script: `redis-server --port 6379 --save "" --dir /tmp --loglevel warning &
until nc 127.0.0.1 6379 </dev/null 2>/dev/null; do sleep 0.2; done
load redis 127.0.0.1:6379`,
	},
	{
		name: "memcached", packages: []string{"memcached"}, size: "96M",
		script: `memcached -u root -m 128 -l 127.0.0.1 -p 11211 &
until nc 127.0.0.1 11211 </dev/null 2>/dev/null; do sleep 0.2; done
load memcached 127.0.0.1:11211`,
	},
	{
		name: "sqlite", packages: []string{"sqlite3"}, size: "160M",
		script: "load sqlite /db",
	},
	{
		name: "build", packages: []string{"tcc", "make", "libc6-dev"}, source: "redis",
		size: "128M",
		script: `cp -r /src /tmp/src && cd /tmp/src/deps/lua/src
load build sh -c 'make clean lua CC=tcc AR="tcc -ar rcs" RANLIB=true MYCFLAGS=-DLUA_ANSI MYLIBS= \
  2>/tmp/log && ./lua -e "assert(6*7 == 42)"'
tail -n 5 /tmp/log`,
	},
	{name: "heap", packages: []string{"base-files"}, size: "32M", script: "load heap"},
}

// initBegin and initEnd are what every guest's init does around its script. A first process that
// ends is a panic, which the command line turns into a crash that vmm reports.
const initBegin = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
ip link set lo up
echo 1 >/proc/sys/vm/overcommit_memory
`

const initEnd = `
echo FAULT: the workload has ended
exit 1
`

// fill makes the root file system of a guest.
func (w workload) fill(ctx context.Context, root, cache, busybox, load string) error {
	files, err := stockkvm.FetchWithDependencies(ctx, cache, w.packages...)
	if err != nil {
		return err
	}
	if err := run(exec.CommandContext(ctx, "cp", "-a", files, root)); err != nil {
		return err
	}
	for _, unused := range []string{"usr/share", "usr/lib/gcc"} {
		if err := os.RemoveAll(filepath.Join(root, unused)); err != nil {
			return err
		}
	}
	for _, d := range []string{
		"bin", "sbin", "dev", "proc", "sys", "run", "tmp", "root", "etc", "src",
	} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if w.source != "" {
		archive, err := stockkvm.FetchSource(ctx, cache, w.source)
		if err != nil {
			return err
		}
		if err := run(exec.CommandContext(ctx, "tar", "-xf", archive, "-C",
			filepath.Join(root, "src"), "--strip-components=1", "--wildcards", "*/deps/lua/*",
			"*/src/*.h")); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(root, "bin/busybox"), busybox); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(root, "bin/load"), load); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"),
		[]byte("root:x:0:0::/root:/bin/sh\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "sbin/init"),
		[]byte(initBegin+w.script+initEnd), 0o755)
}
