package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskguide/integration/stockkvm"
	"taskguide/integration/stockkvm/wire"
)

// pairOptions are the additional options of pair.
type pairOptions struct {
	hostOptions
	sharedStore bool
}

func newPair() *cobra.Command {
	o := &pairOptions{}
	cmd := &cobra.Command{
		Use:   "pair [FLAGS] -- SCRIPT_A -- SCRIPT_B",
		Short: "run a script on each of two emulated hosts that share a network",
		Long: `Boot two emulated hosts with stock KVM, a and b, on a network of their own, where
they know each other by these names, and run a script on each. Their clocks are
set alike.

A script is as exec has it: several words, or one word for the host's shell. A flag --file or
--disk is about both hosts; with a: or b: before its value, about that one. A disk that both have is
shared, unlocked: what one writes, the other reads.

With --shared-store, both see one file system at /shared, with O_DIRECT: a has it on a disk, b has
it from a by NFSv4. A lock that one of them holds, the other cannot get.

Each line of output begins with the name of its host. The pair ends when both scripts have; or when
one fails: then the other gets SIGTERM, and ten seconds later the hosts end. The exit status is that
of the script that failed first, else 0; the others are as exec has them.`,
		Example: `  stockkvm pair -- ping -c 3 b -- sleep 10
  stockkvm pair --file a:./a.sh=/run.sh --file b:./b.sh=/run.sh -- sh /run.sh -- sh /run.sh
  stockkvm pair -- 'vmm run --name g & sleep 15; vmm migrate g tcp:b:4444 --insecure' \
                -- 'vmm run --name g --incoming tcp:b:4444 --insecure & sleep 60; vmm stop g'`,
		Args: func(_ *cobra.Command, args []string) error {
			_, err := splitScripts(args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			scripts, err := splitScripts(args)
			if err == nil {
				err = o.check()
			}
			if err != nil {
				return err
			}
			ctx, cancel := withTimeout(cmd.Context(), o.timeout)
			defer cancel()
			return whyEnded(ctx, inScratch(func(dir string) error {
				return o.pair(ctx, dir, scripts)
			}))
		},
	}
	cmd.Flags().SetInterspersed(false)
	o.register(cmd, 1024)
	o.registerRun(cmd)
	cmd.Flags().BoolVar(&o.sharedStore, "shared-store", false,
		"a file system at "+stockkvm.StoreDir+" of both hosts, with locks that hold between them")
	return cmd
}

// splitScripts splits the words after the flags at the second --.
func splitScripts(args []string) ([2][]string, error) {
	i := slices.Index(args, "--")
	if i <= 0 || i == len(args)-1 {
		return [2][]string{}, usagef("two scripts are needed: " +
			"stockkvm pair [FLAGS] -- SCRIPT_A -- SCRIPT_B")
	}
	return [2][]string{argv(args[:i]), argv(args[i+1:])}, nil
}

// splitHost reads the a: or b: before a value, and returns the hosts that it names.
func splitHost(value string) (hosts []int, rest string) {
	for i, name := range stockkvm.PairNames {
		if rest, ok := strings.CutPrefix(value, name+":"); ok {
			return []int{i}, rest
		}
	}
	return []int{0, 1}, value
}

// pairPlans returns what the two hosts get.
func (o *pairOptions) pairPlans(vmm string) ([2]hostPlan, error) {
	var plans [2]hostPlan
	for i, name := range stockkvm.PairNames {
		plans[i] = newPlan(name, vmm)
		plans[i].files = append(plans[i].files, stockkvm.PairHosts())
		if o.sharedStore {
			plans[i].modules = stockkvm.StoreModules
		}
	}
	for _, value := range o.files {
		hosts, rest := splitHost(value)
		for _, i := range hosts {
			if err := plans[i].addFile(rest); err != nil {
				return plans, err
			}
		}
	}
	for _, value := range o.disks {
		hosts, rest := splitHost(value)
		for _, i := range hosts {
			if err := plans[i].addDisk(rest, sharing(len(hosts) > 1)); err != nil {
				return plans, err
			}
		}
	}
	return plans, nil
}

func (o *pairOptions) pair(ctx context.Context, dir string, scripts [2][]string) error {
	vmm, err := findVMM()
	if err != nil {
		return err
	}
	plans, err := o.pairPlans(vmm)
	if err != nil {
		return err
	}
	rig, err := newRig(ctx, dir)
	if err != nil {
		return err
	}
	var configs [2]stockkvm.HostConfig
	for i, plan := range plans {
		if configs[i], err = o.config(rig, plan); err != nil {
			return err
		}
	}
	if o.sharedStore {
		if err := stockkvm.AddStore(&configs[0]); err != nil {
			return err
		}
	}
	started := time.Now()
	pair, err := stockkvm.StartPairOf(ctx, configs)
	if err != nil {
		return err
	}
	defer pair.Close()
	for i, name := range stockkvm.PairNames {
		o.note("host "+name, pair.Hosts[i], time.Since(started))
	}
	if _, err := pair.SetClocks(ctx); err != nil {
		return err
	}
	if o.sharedStore {
		if err := pair.ShareStore(ctx); err != nil {
			return err
		}
	}
	err = runScripts(ctx, pair, scripts)
	var failed exitStatus
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	for i, plan := range plans {
		if err := plan.keepDisks(ctx, pair.Hosts[i]); err != nil {
			return err
		}
	}
	return err
}

// patience is how long a script may take to end after the other one has failed.
const patience = 10 * time.Second

// ending is how one of two scripts ended.
type ending struct {
	host int
	exit wire.Exit
	err  error
}

// say reports a script that failed.
func (e ending) say(andSo string) {
	why := ""
	if e.exit.Reason != "" {
		why = ", " + e.exit.Reason
	}
	fmt.Fprintf(os.Stderr, "stockkvm: %s ended with status %d%s%s\n",
		stockkvm.PairNames[e.host], e.exit.Status(), why, andSo)
}

// runScripts runs both scripts to their ends, or until one fails.
func runScripts(ctx context.Context, pair *stockkvm.Pair, scripts [2][]string) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	var jobs [2]*stockkvm.Job
	var lines sync.Mutex
	ends := make(chan ending, len(jobs))
	for i, name := range stockkvm.PairNames {
		out := &prefixed{to: os.Stdout, prefix: name + ": ", lines: &lines}
		err := &prefixed{to: os.Stderr, prefix: name + ": ", lines: &lines}
		var failed error
		cmd := stockkvm.Command{Argv: scripts[i], Stdout: out, Stderr: err}
		jobs[i], failed = pair.Hosts[i].Start(cmd)
		if failed != nil {
			return failed
		}
		go func() {
			exit, failed := jobs[i].Wait(waiting)
			if failed == nil {
				out.flush()
				err.flush()
			}
			ends <- ending{host: i, exit: exit, err: failed}
		}()
	}
	first := <-ends
	if first.err != nil {
		return first.err
	}
	if status := first.exit.Status(); status != 0 {
		first.say("; the other is asked to end")
		_ = jobs[1-first.host].Signal(syscall.SIGTERM)
		time.AfterFunc(patience, cancel)
		<-ends
		return exitStatus(status)
	}
	second := <-ends
	if second.err != nil {
		return second.err
	}
	if status := second.exit.Status(); status != 0 {
		second.say("")
		return exitStatus(status)
	}
	return nil
}

// prefixed writes whole lines, each after a prefix. Its methods are called by one goroutine at a
// time; lines keeps those of several writers apart.
type prefixed struct {
	to     io.Writer
	prefix string
	lines  *sync.Mutex
	rest   []byte // of a line that has not ended
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	end := bytes.LastIndexByte(p.rest, '\n') + 1
	if end == 0 {
		return len(data), nil
	}
	var whole []byte
	for line := range bytes.Lines(p.rest[:end]) {
		whole = append(append(whole, p.prefix...), line...)
	}
	p.rest = bytes.Clone(p.rest[end:])
	p.lines.Lock()
	defer p.lines.Unlock()
	_, err := p.to.Write(whole)
	return len(data), err
}

// flush writes a last line that has no end.
func (p *prefixed) flush() {
	if len(p.rest) > 0 {
		_, _ = p.Write([]byte{'\n'})
	}
}
