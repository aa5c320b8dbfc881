// Command stockkvm runs the project's KVM-dependent test suites, or a shell, on an
// emulated host with a stock KVM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"taskguide/integration/stockkvm"
)

const usage = `usage:
  stockkvm test [--suite NAME[,NAME]] [--run REGEXP] [--count N] [--timeout D]
  stockkvm shell [--cpu MODEL]`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "stockkvm:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New(usage)

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "test":
		return runTests(ctx, args[1:])
	case "shell":
		return runShell(ctx, args[1:])
	}
	return errUsage
}

// blackBox are the tests of the binary as a whole in which KVM has a part. The others
// are about processes, peers and terminals, or take the speed of metal for granted.
const blackBox = "^(TestMigrate|TestExitStatus|TestKernelFromFile|TestPauseAndResume|TestPausedGuestStaysPaused)$"

// hang is when a suite counts as hung: many times what any takes, for machines that have
// more to do than this.
const hang = 6 * time.Minute

// suites are the packages whose tests touch KVM, and those of the engine, whose timing
// is another where everything is slower.
var suites = []stockkvm.Suite{
	{Name: "selftest", Package: "./integration/stockkvm/selftest", Timeout: hang},
	{Name: "dirtylog", Package: "./dirtylog", Timeout: hang},
	{Name: "tagging", Package: "./tagging", Data: []string{"include"}, Timeout: hang},
	{Name: "migration", Package: "./migration", Timeout: hang},
	{Name: "vmm", Package: "./vmm", Timeout: hang},
	{
		Name: "integration", Package: "./integration", Run: blackBox, Timeout: hang,
		Env: []string{"VMM_BIN=" + vmmInside}, Args: []string{"-test.parallel=2"},
	},
}

// vmmInside is where the tests find vmm.
const vmmInside = "/bin/vmm"

func selectSuites(names, run string, count int) ([]stockkvm.Suite, error) {
	chosen := suites
	if names != "" {
		chosen = nil
		for name := range strings.SplitSeq(names, ",") {
			found := false
			for _, s := range suites {
				if s.Name == name {
					chosen, found = append(chosen, s), true
				}
			}
			if !found {
				return nil, fmt.Errorf("no suite named %q", name)
			}
		}
	}
	chosen = slices.Clone(chosen)
	for i := range chosen {
		if run != "" {
			chosen[i].Run = run
		}
		if count != 1 {
			chosen[i].Args = append(slices.Clone(chosen[i].Args), fmt.Sprintf("-test.count=%d", count))
		}
	}
	return chosen, nil
}

func runTests(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	names := flags.String("suite", "", "only these suites, separated by commas")
	pattern := flags.String("run", "", "only tests whose name matches")
	count := flags.Int("count", 1, "times that each test runs")
	timeout := flags.Duration("timeout", 20*time.Minute, "for everything together")
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	chosen, err := selectSuites(*names, *pattern, *count)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	return withRig(ctx, func(rig *stockkvm.Rig) error {
		files, err := rig.SuiteFiles(ctx, chosen)
		if err != nil {
			return err
		}
		vmm, err := rig.Build(ctx, "./cmd/vmm")
		if err != nil {
			return err
		}
		files = append(files, stockkvm.File{Source: vmm, Target: vmmInside})
		return testOn(ctx, rig, files, chosen)
	})
}

func testOn(ctx context.Context, rig *stockkvm.Rig, files []stockkvm.File, chosen []stockkvm.Suite) error {
	cache, err := stockkvm.CacheDir()
	if err != nil {
		return err
	}
	logs := filepath.Join(cache, "stockkvm", "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	initramfs, err := rig.Initramfs("suites", files)
	if err != nil {
		return err
	}
	cfg, err := rig.HostConfig("host", initramfs)
	if err != nil {
		return err
	}
	started := time.Now()
	host, err := stockkvm.StartHost(ctx, cfg)
	if err != nil {
		return err
	}
	defer host.Close()
	hello := host.Hello()
	fmt.Printf("a host with stock KVM is up after %.1f s: %s on %s, %d CPUs, Linux %s\n",
		time.Since(started).Seconds(), hello.KVM, hello.CPU, hello.CPUs, hello.Kernel)
	results := host.RunSuites(ctx, chosen, os.Stdout, logs)
	if err := os.WriteFile(filepath.Join(logs, "console.log"), []byte(host.Console()), 0o644); err != nil {
		return err
	}
	if !stockkvm.Summary(os.Stdout, results) {
		return fmt.Errorf("not all is well on stock KVM; logs are in %s", logs)
	}
	return nil
}

// withRig makes a rig with scratch space that is removed afterwards.
func withRig(ctx context.Context, do func(*stockkvm.Rig) error) error {
	dir, err := os.MkdirTemp("", "stockkvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rig, err := stockkvm.NewRig(ctx, dir)
	if err != nil {
		return err
	}
	return do(rig)
}

func runShell(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("shell", flag.ContinueOnError)
	cpu := flags.String("cpu", stockkvm.DefaultCPU, "QEMU CPU model of the host")
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	return withRig(ctx, func(rig *stockkvm.Rig) error {
		vmm, err := rig.Build(ctx, "./cmd/vmm")
		if err != nil {
			return err
		}
		initramfs, err := rig.Initramfs("shell", []stockkvm.File{{Source: vmm, Target: vmmInside}})
		if err != nil {
			return err
		}
		cfg, err := rig.HostConfig("shell", initramfs)
		if err != nil {
			return err
		}
		cfg.CPU = *cpu
		return stockkvm.Shell(ctx, cfg, os.Stdin, os.Stdout)
	})
}
