package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"taskguide/control/units"
	"taskguide/integration/stockkvm"
)

// vmmInside is where vmm is in a host.
const vmmInside = "/bin/vmm"

// hostOptions are the options about hosts that all commands share.
type hostOptions struct {
	cpu          string
	cpus         int
	memory       memorySize
	files        []string
	disks        []string
	kernelInside bool
	logs         string
	timeout      time.Duration
	verbose      bool
}

func (o *hostOptions) register(cmd *cobra.Command, memory memorySize) {
	f := cmd.Flags()
	f.StringVar(&o.cpu, "cpu", stockkvm.DefaultCPU, "QEMU's model of the host's processor")
	f.IntVar(&o.cpus, "cpus", 1,
		"CPUs of a host; on more than one, Linux guests with several vCPUs often hang")
	o.memory = memory
	f.Var(&o.memory, "memory", "RAM of a host; files may take up to half of it")
	f.StringArrayVar(&o.files, "file", nil,
		"`SRC=DST`: put a file or folder of this machine at an absolute path of the host")
	f.StringArrayVar(&o.disks, "disk", nil,
		"`FILE` or block device that the host has as a virtio disk: vda, vdb, ...")
	f.BoolVar(&o.kernelInside, "kernel-inside", false,
		"put Debian's kernel and an initrd at /boot/vmlinuz and /boot/initrd, for guests of vmm")
}

// registerRun adds the flags of commands that run something and then end.
func (o *hostOptions) registerRun(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.logs, "logs", "",
		"`FOLDER` that keeps what the kernel of each host prints, as NAME.log")
	f.DurationVar(&o.timeout, "timeout", 0,
		"end after that much time, boot included, with status 124 (0: never)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say on standard error when a host is up")
}

// check refuses options that no host can have.
func (o *hostOptions) check() error {
	if o.cpus < 1 {
		return usagef("--cpus %d: use 1 or more", o.cpus)
	}
	if o.timeout < 0 {
		return usagef("--timeout %v: use a time from now on, or 0 for none", o.timeout)
	}
	return nil
}

// memorySize is RAM in MiB, written with K, M or G.
type memorySize int

func (m *memorySize) String() string { return fmt.Sprintf("%dM", int(*m)) }
func (m *memorySize) Type() string   { return "size" }
func (m *memorySize) Set(s string) error {
	bytes, err := units.ParseBytes(s)
	if err == nil && bytes < 1<<20 {
		err = fmt.Errorf("use at least 1M")
	}
	*m = memorySize(bytes >> 20)
	return err
}

// sharing tells whether both hosts of a pair get a disk.
type sharing bool

const (
	ownDisk    sharing = false
	sharedDisk sharing = true
)

// hostPlan is what one host gets.
type hostPlan struct {
	name  string
	files []stockkvm.File
	disks []stockkvm.Disk

	modules []string // of the kernel, besides those that every host has
}

// newPlan returns what every host gets.
func newPlan(name, vmm string) hostPlan {
	return hostPlan{name: name, files: []stockkvm.File{{Source: vmm, Target: vmmInside}}}
}

// addFile adds a file of --file.
func (p *hostPlan) addFile(value string) error {
	source, target, err := splitFile(value)
	if err != nil {
		return err
	}
	files, err := stockkvm.Import(source, target)
	if err != nil {
		return fmt.Errorf("--file %s: %w", value, err)
	}
	p.files = append(p.files, files...)
	return nil
}

// splitFile reads SRC=DST. If DST ends with a slash, it is a folder for SRC.
func splitFile(value string) (source, target string, err error) {
	i := strings.LastIndex(value, "=/")
	if i <= 0 {
		return "", "", usagef("--file %q: use SRC=DST, where DST is an absolute path", value)
	}
	source, target = value[:i], value[i+1:]
	if strings.HasSuffix(target, "/") {
		target = path.Join(target, filepath.Base(source))
	}
	target = path.Clean(target)
	for _, mounted := range []string{"/dev", "/proc", "/sys"} {
		if target == mounted || strings.HasPrefix(target, mounted+"/") {
			return "", "", usagef("--file %q: %s is the kernel's: use another", value, mounted)
		}
	}
	return source, target, nil
}

// addDisk adds a disk of --disk.
func (p *hostPlan) addDisk(file string, shared sharing) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("--disk %s: %w", file, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("--disk %s: %w", file, err)
	}
	// QEMU shows only whole sectors of a file, and none of an empty one.
	if info.Mode().IsRegular() && (info.Size() == 0 || info.Size()%512 != 0) {
		return usagef("--disk %s: its %d bytes are not whole sectors of 512: use truncate -s",
			file, info.Size())
	}
	p.disks = append(p.disks, stockkvm.Disk{Path: file, Shared: shared == sharedDisk})
	return nil
}

// keepDisks makes the host write cached data to its disks, because its end is like a power failure.
func (p hostPlan) keepDisks(ctx context.Context, host *stockkvm.Host) error {
	if len(p.disks) == 0 {
		return nil
	}
	_, err := host.Run(ctx, "sync")
	return err
}

// config writes the host's initramfs and makes its configuration.
func (o *hostOptions) config(rig *stockkvm.Rig, plan hostPlan) (stockkvm.HostConfig, error) {
	files := plan.files
	if o.kernelInside {
		guest, err := rig.GuestFiles()
		if err != nil {
			return stockkvm.HostConfig{}, err
		}
		// These come first, so that --file may replace them.
		files = append(guest, files...)
	}
	modules := append(slices.Clone(stockkvm.ScriptModules), plan.modules...)
	initramfs, err := rig.Initramfs(plan.name, files, modules...)
	if err != nil {
		return stockkvm.HostConfig{}, err
	}
	cfg, err := rig.HostConfig(plan.name, initramfs)
	if err != nil {
		return stockkvm.HostConfig{}, err
	}
	return cfg, o.describe(&cfg, plan)
}

// describe sets what flags say in a configuration.
func (o *hostOptions) describe(cfg *stockkvm.HostConfig, plan hostPlan) error {
	cfg.Name, cfg.Disks = plan.name, plan.disks
	cfg.CPU, cfg.CPUs, cfg.MemoryMiB = o.cpu, o.cpus, int(o.memory)
	if o.logs == "" {
		return nil
	}
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return fmt.Errorf("--logs: %w", err)
	}
	cfg.Console = filepath.Join(o.logs, plan.name+".log")
	return nil
}

// note says with --verbose that a host is up.
func (o *hostOptions) note(plan string, host *stockkvm.Host, took time.Duration) {
	if o.verbose {
		fmt.Fprintln(os.Stderr, "stockkvm:", greeting(plan, host, took))
	}
}

func greeting(what string, host *stockkvm.Host, took time.Duration) string {
	hello := host.Hello()
	cpus := "1 CPU"
	if hello.CPUs != 1 {
		cpus = fmt.Sprintf("%d CPUs", hello.CPUs)
	}
	return fmt.Sprintf("%s is up after %.1f s: %s on %s, %s, Linux %s",
		what, took.Seconds(), hello.KVM, hello.CPU, cpus, hello.Kernel)
}

// newRig makes a rig from this program itself. It needs no sources and no Go.
func newRig(ctx context.Context, dir string) (*stockkvm.Rig, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if err := checkStatic(self); err != nil {
		return nil, err
	}
	return stockkvm.NewRigOf(ctx, dir, self)
}

// findVMM finds vmm: beside this program, or else on the PATH.
func findVMM() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "vmm")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, checkStatic(beside)
		}
	}
	found, err := exec.LookPath("vmm")
	if err != nil {
		return "", errors.New("no vmm beside this program or on the PATH: use make stockkvm")
	}
	return found, checkStatic(found)
}

// checkStatic refuses a program that needs libraries, because the host has none.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries, and the host has none: "+
				"build it with CGO_ENABLED=0, as make build does", program)
		}
	}
	return nil
}

// inScratch calls do with a folder that is removed afterwards.
func inScratch(do func(dir string) error) error {
	dir, err := os.MkdirTemp("", "stockkvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return do(dir)
}

// withTimeout bounds a context, unless timeout is 0.
func withTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %v", errTimeout, timeout))
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s wants no arguments: see %[1]s --help", cmd.CommandPath())
	}
	return nil
}
