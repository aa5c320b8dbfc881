package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"taskguide/integration/stockkvm"
)

// blackBox are the tests of the whole binary in which KVM has a part. The others are about
// processes, peers and terminals, or rely on the speed of real hardware.
const blackBox = "^(TestMigrate|TestExitStatus|TestKernelFromFile|TestPauseAndResume|" +
	"TestPausedGuestStaysPaused)$"

// hang is when a suite counts as hung. It is many times what any suite takes, for machines that are
// busy with other work.
const hang = 10 * time.Minute

// virtual are the long ones of the engine's tests in virtual time.
var virtual = []string{
	"TestDeclaredMemoryStaysBehind", "TestDeclaringAtRandom", "TestFlappingGates",
	"TestGuestReleasesMemory", "TestGuidanceDefersByMaxDeferAtMost", "TestGuidedModesAtManyOffsets",
	"TestHostileTables", "TestKeepAlivesHoldNothing", "TestLongWaitsAreAnnounced",
	"TestMaxDeferCountsRounds", "TestModelOfTheHandover", "TestOptionMatrix", "TestProgramLost",
	"TestSlowLinks", "TestStorageWithoutALimit", "TestTraitsOfAnyPolicy",
}

// suites are the packages whose tests touch KVM, and those of the engine, whose timing differs when
// everything is slower.
var suites = []stockkvm.Suite{
	{Name: "selftest", Package: "./integration/stockkvm/selftest", Timeout: hang},
	{Name: "dirtylog", Package: "./dirtylog", Timeout: hang},
	{
		Name: "tagging", Package: "./tagging", Data: []string{"include"}, Timeout: hang,
		Args: []string{"-test.skip=^TestAgainstModel$"}, // pure, and long
	},
	{
		Name: "migration", Package: "./migration", Timeout: 2 * hang,
		// They know neither KVM nor real time, and take minutes where everything is slower.
		Args: []string{"-test.skip=^(" + strings.Join(virtual, "|") + ")$"},
	},
	{Name: "vmm", Package: "./vmm", Timeout: hang},
	{Name: "probe", Package: "./vmm/probe", Timeout: hang},
	{
		Name: "integration", Package: "./integration", Run: blackBox, Timeout: hang,
		Env: []string{"VMM_BIN=" + vmmInside}, Args: []string{"-test.parallel=2"},
	},
}

// suiteCPUs is the number of the host's CPUs, because vCPUs, workers and devices of a machine run
// at the same time. The suites' guests are not among those that hang with several CPUs.
const suiteCPUs = 2

func newTest() *cobra.Command {
	var names, pattern string
	var count int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "test [--suite NAME[,NAME]] [--run REGEXP] [--count N] [--timeout D]",
		Short: "run this project's KVM-dependent test suites, in its sources",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := selectSuites(names, pattern, count)
			if err != nil {
				return err
			}
			ctx, cancel := withTimeout(cmd.Context(), timeout)
			defer cancel()
			return runTests(ctx, chosen)
		},
	}
	f := cmd.Flags()
	f.StringVar(&names, "suite", "", "only these suites, separated by commas")
	f.StringVar(&pattern, "run", "", "only tests whose name matches")
	f.IntVar(&count, "count", 1, "times that each test runs")
	f.DurationVar(&timeout, "timeout", 40*time.Minute, "for everything together")
	return cmd
}

func selectSuites(names, run string, count int) ([]stockkvm.Suite, error) {
	chosen := suites
	if names != "" {
		chosen = nil
		for name := range strings.SplitSeq(names, ",") {
			i := slices.IndexFunc(suites, func(s stockkvm.Suite) bool { return s.Name == name })
			if i < 0 {
				return nil, usagef("no suite is named %q: use some of %s", name, suiteNames())
			}
			chosen = append(chosen, suites[i])
		}
	}
	chosen = slices.Clone(chosen)
	for i := range chosen {
		if run != "" {
			chosen[i].Run = run
		}
		if count != 1 {
			times := fmt.Sprintf("-test.count=%d", count)
			chosen[i].Args = append(slices.Clone(chosen[i].Args), times)
		}
	}
	return chosen, nil
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func runTests(ctx context.Context, chosen []stockkvm.Suite) error {
	return inScratch(func(dir string) error {
		rig, err := stockkvm.NewRig(ctx, dir)
		if err != nil {
			return err
		}
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

func testOn(
	ctx context.Context, rig *stockkvm.Rig, files []stockkvm.File, chosen []stockkvm.Suite,
) error {
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
	cfg.CPUs = suiteCPUs
	cfg.Console = filepath.Join(logs, "console.log")
	started := time.Now()
	host, err := stockkvm.StartHost(ctx, cfg)
	if err != nil {
		return err
	}
	defer host.Close()
	fmt.Println(greeting("a host with stock KVM", host, time.Since(started)))
	results := host.RunSuites(ctx, chosen, os.Stdout, logs)
	if !stockkvm.Summary(os.Stdout, results) {
		return fmt.Errorf("not all is well on stock KVM; logs are in %s", logs)
	}
	return nil
}
