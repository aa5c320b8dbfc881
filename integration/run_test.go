package integration

import (
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"taskguide/control"
	"taskguide/guestkernel"
)

// idle is a guest with little to do, and small, so that tests with many of them are quick.
var idle = []string{"--memory", "32M", "--cmdline", "workload=idle touch=8M fill=random verify=1"}

func TestExitStatus(t *testing.T) {
	b := newBox(t)
	for cmdline, want := range map[string]int{
		"workload=idle secs=1":                         0,
		"workload=phased ws=1M hot=0 secs=60 inject=1": 1,
		"workload=fault":                               2,
		"workload=nonsense":                            3,
	} {
		r := b.vmm("run", "--memory", "32M", "--cmdline", cmdline)
		require.Equal(t, want, r.status, "%s: %s%s", cmdline, r.stdout, r.stderr)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		require.Contains(t, r.stderr, fmt.Sprintf(`"ended by the guest, with status %d"`, want))
	}
	entries, err := os.ReadDir(b.dir)
	require.NoError(t, err)
	require.Empty(t, entries, "sockets are removed")
}

func TestKernelFromFile(t *testing.T) {
	b := newBox(t)
	kernel := b.path("kernel")
	require.NoError(t, os.WriteFile(kernel, guestkernel.ELF, 0o600))
	r := b.vmm("run", "--kernel", kernel, "--memory", "16M", "--cpus", "2", "--cmdline",
		"workload=idle secs=1", "--console", "file:"+b.path("log"))
	require.Equal(t, 0, r.status, r.stderr)
	require.Empty(t, r.stdout)
	log, err := os.ReadFile(b.path("log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "vcpus=2")
	r = b.vmm("run", "--memory", "16M", "--cmdline", "workload=idle secs=1", "--console", "off",
		"--prefault")
	require.Equal(t, 0, r.status)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, "prefaulted 16.0 MiB")
}

func TestPauseAndResume(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	p := b.run(g, "vm", "--memory", "32M", "--cmdline",
		"workload=phased ws=4M hot=1M busy=1s cool=0")
	g.alive(b, 1)
	b.ok("pause", "vm")
	b.ok("pause", "vm")
	require.Equal(t, control.StatePaused, p.vm().State)
	silent := len(g.Beats())
	// Nothing can prove silence, but a guest that runs would have printed by then.
	time.Sleep(1500 * time.Millisecond)
	require.LessOrEqual(t, len(g.Beats()), silent+1, "one line may have been on its way")
	silent = len(g.Beats())
	b.ok("resume", "vm")
	require.Equal(t, control.StateRunning, p.vm().State)
	beats := g.alive(b, 2)
	// A pause in the middle of a line counts as time for printing it.
	saw := time.Duration(0)
	for _, beat := range beats[silent:] {
		printing, _ := beat.Float("print_us")
		saw = max(saw, beat.Gap, time.Duration(printing)*time.Microsecond)
	}
	require.Greater(t, saw, time.Second, "the guest saw the pause")
	b.ok("stop", "vm")
	require.Equal(t, 0, p.wait())
	require.NoFileExists(t, b.path("vm.sock"))
}

func TestNames(t *testing.T) {
	b := newBox(t)
	require.Equal(t, result{0, "", "no VMs in " + b.dir + "\n"}, b.vmm("list"))
	g := &guest{}
	p := b.run(g, "web1", idle...)
	p.awaitState(control.StateRunning)
	require.Contains(t, b.refused(1, "run", "--name", "web1"), "in use")
	require.Contains(t, b.refused(1, "run", "--api", b.path("web1.sock")), "in use")
	p.untouched()

	var vm control.VM
	require.NoError(t, json.Unmarshal([]byte(b.ok("status", "web1", "--json")), &vm))
	require.Equal(t, "web1", vm.Name)
	require.Equal(t, p.cmd.Process.Pid, vm.PID)
	require.EqualValues(t, 32<<20, vm.MemoryBytes)
	require.Contains(t, b.ok("status", b.path("web1.sock")), "running")
	// A VM that a busy host keeps from answering at once is offered without its state.
	b.until("web1 is offered", func() bool {
		offered := b.vmm("__complete", "status", "").stdout
		return strings.Contains(offered, "web1\trunning, 32.0 MiB\n")
	})

	// A killed process leaves its socket behind. It does not count as a VM, and its name is free.
	p.kill()
	p.wait()
	require.FileExists(t, b.path("web1.sock"))
	require.Equal(t, "[]\n", b.ok("list", "--json"))
	require.Contains(t, b.refused(1, "status", "web1"), "no such VM is running")
	again := b.run(&guest{}, "web1", idle...)
	again.awaitState(control.StateRunning)
	var vms []control.VM
	require.NoError(t, json.Unmarshal([]byte(b.ok("list", "--json")), &vms))
	require.Len(t, vms, 1)
	require.Equal(t, again.cmd.Process.Pid, vms[0].PID)
}

func TestSignals(t *testing.T) {
	// Under nohup, and in the background of a script, some signals are ignored, and children
	// inherit that. A signal that is caught here has its default in them.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(caught)
	b := newBox(t)
	for s, want := range map[syscall.Signal]int{
		syscall.SIGINT: 130, syscall.SIGTERM: 0, syscall.SIGHUP: 129,
	} {
		p := b.run(&guest{}, "vm", idle...)
		p.awaitState(control.StateRunning)
		b.signal(p, s)
		require.Equal(t, want, p.wait())
		require.Contains(t, p.stderr.String(), `"stopped by `+unix.SignalName(s)+`"`)
		require.NoFileExists(t, b.path("vm.sock"))
	}
	p, _ := b.incoming(&guest{}, "waiting", b.unix("in"))
	b.signal(p, syscall.SIGTERM)
	require.Equal(t, 0, p.wait())
	require.Contains(t, p.stderr.String(), `"stopped by SIGTERM"`)
	p, _ = b.incoming(&guest{}, "waiting", b.unix("in"))
	b.ok("stop", "waiting")
	require.Equal(t, 0, p.wait())
}

func TestConsoleInput(t *testing.T) {
	b := newBox(t)
	cmd := b.command("run", "--memory", "16M", "--name", "echo", "--cmdline", "workload=echo")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	var g guest
	cmd.Stdout = &g.Log
	require.NoError(t, cmd.Start())
	require.NoError(t, g.WaitText(b.ctx, "workload=echo"))
	_, err = io.WriteString(in, "first line\nsecond "+strings.Repeat("x", 50)+"\n")
	require.NoError(t, err)
	require.NoError(t, g.WaitText(b.ctx, "first line"))
	require.NoError(t, g.WaitText(b.ctx, "second "+strings.Repeat("x", 50)))
	b.ok("stop", "echo")
	require.NoError(t, cmd.Wait())
}

// badKernel returns the embedded guest after spoil has damaged it.
func badKernel(t *testing.T, spoil func([]byte)) []byte {
	t.Helper()
	k := append([]byte(nil), guestkernel.ELF...)
	spoil(k)
	return k
}

var le = binary.LittleEndian

// grown returns a kernel whose first segment needs more memory than any machine has.
func grown(t *testing.T) []byte {
	return badKernel(t, func(k []byte) {
		phoff := le.Uint64(k[32:])
		size := uint64(le.Uint16(k[54:]))
		for i := range uint64(le.Uint16(k[56:])) {
			ph := k[phoff+i*size:]
			if elf.ProgType(le.Uint32(ph)) == elf.PT_LOAD {
				le.PutUint64(ph[40:], 1<<30) // p_memsz
				return
			}
		}
		require.FailNow(t, "the guest has no segment")
	})
}

func TestBadOrders(t *testing.T) {
	b := newBox(t)
	file := func(name string, content []byte) string {
		require.NoError(t, os.WriteFile(b.path(name), content, 0o600))
		return b.path(name)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{2, "no command", nil},
		{2, "unknown command", []string{"fly"}},
		{2, "unknown flag", []string{"run", "--speed", "9"}},
		{2, "no arguments", []string{"run", "kernel"}},
		{2, "size", []string{"run", "--memory", "lots"}},
		{2, "size", []string{"run", "--memory", "-1G"}},
		{2, "minimum of 16M", []string{"run", "--memory", "15M"}},
		{2, "multiple of 1M", []string{"run", "--memory", "16777217"}},
		{2, "maximum", []string{"run", "--memory", "4096G"}},
		{1, "more than this host has", []string{"run", "--memory", "1000G"}},
		{2, "use 1 to 8", []string{"run", "--cpus", "0"}},
		{2, "use 1 to 8", []string{"run", "--cpus", "9"}},
		{2, "use 1 to 8", []string{"run", "--cpus", "-1"}},
		{2, "name", []string{"run", "--name", "../x"}},
		{2, "use stdio", []string{"run", "--console", "tty"}},
		{2, "--initrd", []string{"run", "--initrd", file("initrd", []byte("x"))}},
		{2, "tcp:HOST:PORT", []string{"run", "--incoming", "udp:h:1"}},
		{2, "tcp:HOST:PORT", []string{"run", "--incoming", "tcp:9"}},
		{2, "--incoming", []string{"run", "--tls-dir", b.dir}},
		{1, "no such file", []string{
			"run", "--incoming", b.unix("in"), "--tls-dir", b.path("nothing"),
		}},
		{1, "there is no such file", []string{"run", "--kernel", b.path("nothing")}},
		{1, "is a directory", []string{"run", "--kernel", b.dir}},
		{1, "neither an ELF file nor", []string{
			"run", "--kernel", file("text", []byte("#!/bin/sh\n")),
		}},
		{1, "neither an ELF file nor", []string{"run", "--kernel", file("empty", nil)}},
		{1, "ELF", []string{"run", "--kernel", file("cut", guestkernel.ELF[:100])}},
		{1, "PVH", []string{"run", "--kernel", self, "--memory", "256M"}},
		{1, "RAM", []string{
			"run", "--kernel", file("kernel", guestkernel.ELF), "--memory", "16M", "--initrd",
			file("big", make([]byte, 15<<20)),
		}},
		{1, "RAM", []string{"run", "--kernel", file("grown", grown(t)), "--memory", "16M"}},
		{1, "larger than", []string{"run", "--kernel", "/dev/zero", "--memory", "16M"}},
		{1, "console", []string{"run", "--console", "file:" + b.path("nothing/log")}},
		{2, "wants", []string{"status"}},
		{1, "no such VM", []string{"pause", "nobody"}},
		{1, "no such VM", []string{"migrate", "nobody", "tcp:127.0.0.1:1"}},
		{2, "name", []string{"stop", "no body"}},
	} {
		stderr := b.refused(c.status, c.args...)
		require.Contains(t, stderr, c.want, "%v", c.args)
	}
}

// TestWithoutKVM takes /dev/kvm away from the command, in a mount namespace of its own.
func TestWithoutKVM(t *testing.T) {
	b := newBox(t)
	isolated := func(script string) result {
		// Private: what is mounted here must not appear on a host that shares its mounts.
		cmd := exec.CommandContext(b.ctx, "sh", "-c",
			"mount --make-rprivate / && "+script+` exec "$0" run`, vmmBinary)
		cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+b.dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{
				ContainerID: 0, HostID: os.Getuid(), Size: 1,
			}}
		}
		return b.finish(cmd)
	}
	r := isolated("mount -t tmpfs none /dev &&")
	requireRefusal(t, r, 1, "no /dev/kvm")
	require.Contains(t, r.stderr, "/dev/kvm")

	r = isolated("mount --bind /dev/null /dev/kvm &&")
	requireRefusal(t, r, 1, "not KVM")

	// A device on a file system with nodev cannot be opened, not even by root.
	r = isolated("mkdir $VMM_RUNTIME_DIR/d && mount -t tmpfs -o nodev none $VMM_RUNTIME_DIR/d && " +
		"{ mknod $VMM_RUNTIME_DIR/d/kvm c 10 232 || exit 99; } && mount --bind " +
		"$VMM_RUNTIME_DIR/d/kvm /dev/kvm &&")
	if r.status == 99 {
		t.Log("only root can make the device that may not be opened")
		return
	}
	requireRefusal(t, r, 1, "no permission")
	require.Contains(t, strings.ToLower(r.stderr), "permission")
	require.NoError(t, os.Remove(b.path("d")))
}

func TestPreflight(t *testing.T) {
	b := newBox(t)
	preflight := func(env ...string) result {
		cmd := exec.CommandContext(b.ctx, "../scripts/preflight.sh")
		cmd.Env = append(os.Environ(), env...)
		return b.finish(cmd)
	}
	require.Equal(t, result{}, preflight())
	for want, env := range map[string][]string{
		"no go command": {"PATH=" + b.path("bin")},
		"is too old":    {"PATH=" + b.path("old"), "GOTOOLCHAIN=local"},
		"modprobe":      {"PREFLIGHT_KVM=" + b.path("kvm")},
		"not a device":  {"PREFLIGHT_KVM=" + b.dir},
	} {
		for _, dir := range []string{"bin", "old"} {
			require.NoError(t, os.MkdirAll(b.path(dir), 0o755))
			for _, tool := range []string{"sh", "awk", "dirname", "sort", "head", "make", "id"} {
				found, err := exec.LookPath(tool)
				require.NoError(t, err)
				_ = os.Symlink(found, b.path(dir+"/"+tool))
			}
		}
		require.NoError(t, os.WriteFile(b.path("old/go"),
			[]byte("#!/bin/sh\ncase $2 in GOVERSION) echo go1.19.8;; *) echo local;; esac\n"),
			0o755))
		r := preflight(env...)
		require.Equal(t, 1, r.status, want)
		require.Contains(t, r.stderr, want)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
}

// The suites build vmm by exec, which Go's cache of test results does not see. With the cache, make
// targets that test would pass for sources that do not compile.
func TestMakeTestsWhatIsThere(t *testing.T) {
	b := newBox(t)
	for _, target := range []string{"test", "test-long", "test-guidance"} {
		r := b.finish(exec.CommandContext(b.ctx, "make", "-C", "..", "--dry-run", target))
		require.Equal(t, 0, r.status, r.stderr)
		runs := 0
		for line := range strings.Lines(r.stdout) {
			if strings.Contains(line, " test -") {
				runs++
				require.Contains(t, line, "-count=1", "make %s", target)
			}
		}
		require.NotZero(t, runs, "make %s runs tests", target)
	}
}
