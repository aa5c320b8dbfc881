//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

const (
	portsFolder = "../../examples/ports"
	echoModule  = "github.com/hashicorp/http-echo@v1.0.0"
	portMoves   = 3
)

// portsInit is the first process of the guest with the ports.
const portsInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
` + user + `
` + daemon + `
su user -c 'cp -r /src/redis /tmp/redis'
(su user -c 'redis-server --port 6379 --save "" --dir /tmp --loglevel warning' &)
(su user -c 'http-echo -listen 127.0.0.1:5678 -text "as it was" >/dev/null' &)
until nc 127.0.0.1 6379 </dev/null && nc 127.0.0.1 5678 </dev/null; do sleep 1; done
echo serving=$((6*7))
(su user -c 'cd /tmp/redis/deps/lua/src; n=0
  while make clean lua AR="tcc -ar rcs" RANLIB=true MYCFLAGS=-DLUA_ANSI >/dev/null &&
    ./lua -e "assert(6*7 == 42)"
  do n=$((n+1)); echo built=$n.; done
  echo FAULT: make' &)
(su user -c 'tagged clients' &)
exec sh
`

// shell runs a command of this machine in a folder.
func shell(t *testing.T, folder, line string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", line, out)
}

// absolute returns the absolute path of a file of this project.
func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	return path
}

// buildRedis builds redis with its patch, statically, and copies lua's sources with theirs.
func buildRedis(t *testing.T, root string) {
	t.Helper()
	cache, err := stockkvm.CacheDir()
	require.NoError(t, err)
	archive, err := stockkvm.FetchSource(t.Context(), filepath.Join(cache, "stockkvm"), "redis")
	require.NoError(t, err)
	dir := t.TempDir()
	shell(t, dir, "mkdir r l && tar -xf "+archive+" -C r --strip-components=1 && "+
		"tar -xf "+archive+" -C l --strip-components=1")
	patches := absolute(t, portsFolder)
	shell(t, filepath.Join(dir, "l"), "git apply "+patches+"/lua.patch && "+
		"mkdir -p "+root+"/src/redis/deps/lua "+root+"/src/redis/src && "+
		"cp -r deps/lua/src "+root+"/src/redis/deps/lua && cp src/*.h "+root+"/src/redis/src")
	shell(t, filepath.Join(dir, "r"), "git apply "+patches+"/redis.patch && "+
		"make -j2 MALLOC=libc BUILD_TLS=no USE_SYSTEMD=no OPTIMIZATION=-O1 "+
		"CFLAGS=-I"+absolute(t, "../../tagging/include")+" LDFLAGS=-static redis-server && "+
		"cp src/redis-server "+root+"/bin")
}

// buildEcho builds http-echo with its patch.
func buildEcho(t *testing.T, root string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json",
		echoModule).Output()
	require.NoError(t, err, "%s", out)
	var module struct{ Dir string }
	require.NoError(t, json.Unmarshal(out, &module))
	dir := t.TempDir()
	shell(t, dir, "cp -r "+module.Dir+" echo && chmod -R u+w echo && "+
		"ln -s "+absolute(t, "../..")+" taskguide && cp taskguide/go.sum echo")
	shell(t, filepath.Join(dir, "echo"), "git apply "+
		absolute(t, portsFolder)+"/http-echo.patch && "+
		"CGO_ENABLED=0 go build -mod=mod -buildvcs=false -o "+root+"/bin/http-echo .")
}

// portsImage makes a disk with the ports, a compiler and make.
func portsImage(t *testing.T, rig *stockkvm.Rig) string {
	t.Helper()
	cache, err := stockkvm.CacheDir()
	require.NoError(t, err)
	files, err := stockkvm.FetchWithDependencies(t.Context(), filepath.Join(cache, "stockkvm"),
		"tcc", "make", "libc6-dev")
	require.NoError(t, err)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	shell(t, dir, "cp -a "+files+" root && cd root && rm -rf usr/share usr/lib/gcc && "+
		"mkdir -p bin sbin dev proc sys run tmp root etc && ln -s tcc usr/bin/gcc && "+
		"cp "+rig.Packages.Busybox+" bin/busybox")
	for _, f := range taggedFiles(t, rig) {
		shell(t, dir, "cp "+absolute(t, f.Source)+" root"+f.Target)
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "sbin/init"), []byte(portsInit), 0o755))
	buildEcho(t, root)
	buildRedis(t, root)
	image := filepath.Join(dir, "ports.img")
	e2fs(t, "mke2fs", "-q", "-t", "ext4", "-d", root, image, "160M")
	return image
}

// TestPorts: redis, http-echo and a build with make, each with a patch of a few lines, take part in
// guided moves, without rights. They serve, and build, as before.
func TestPorts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	started := time.Now()
	rig := newRig(t)
	image := portsImage(t, rig)
	t.Logf("an image after %.0f s", time.Since(started).Seconds())
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, nil, nil, "virtio_blk"))
	require.NoError(t, err)
	cfg.Disks = []stockkvm.Disk{{Path: image}}
	tr := &traveller{host: booted(t, cfg), flags: []string{"--disk", "/dev/vda"}}
	requireRun(ctx, t, tr.host, hugePages)
	tr.boot(t, "--memory", "160M", "--cmdline", "console=ttyS0 quiet root=/dev/vda rw")
	tr.at.await(ctx, t, "serving=42")
	t.Logf("the ports serve after %.0f s", time.Since(started).Seconds())
	progress := func(times int) {
		for _, what := range []string{`clients: asked=[0-9]+ saves=[1-9]`, `built=[0-9]+\.`} {
			has := len(regexp.MustCompile(what).FindAllString(tr.console(), -1))
			for len(regexp.MustCompile(what).FindAllString(tr.console(), -1)) < has+times {
				require.NoError(t, ctx.Err(), tr.console())
				time.Sleep(100 * time.Millisecond)
			}
		}
		require.NotContains(t, tr.console(), "FAULT")
	}
	progress(1)
	for range portMoves {
		tr.moveGuided(ctx, t, migration.GuidanceSwitchover)
		progress(1)
	}
	var seen []string
	for _, task := range tagsOf(ctx, t, tr.host, tr.name()).Tasks {
		seen = append(seen, fmt.Sprintf("%s: %d segments", task.Name, task.Segments))
	}
	t.Log(strings.Join(seen, "\n"))
	for _, name := range []string{"redis expire", "redis save", "http-echo"} {
		require.Contains(t, strings.Join(seen, "\n"), name+": ")
	}
	lines := regexp.MustCompile(`(clients: .*|built=[0-9]+)\.`).FindAllString(tr.console(), -1)
	t.Log(lines[len(lines)-1])
	requireRun(ctx, t, tr.host, "vmm stop --now "+tr.name())
}
