// Command mover moves a VM of this host, and says what another policy would have done.
//
//	mover NAME tcp:HOST:PORT
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"taskguide/control"
	"taskguide/migration"
	"taskguide/migration/policy"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mover NAME ADDRESS, as in mover web1 tcp:127.0.0.1:4444")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := move(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mover:", err)
		os.Exit(1)
	}
}

// move returns when the migration has ended, in whatever way. The end of ctx cancels the migration.
func move(ctx context.Context, name, address string) error {
	c, err := control.NewClient(name)
	if err != nil {
		return err
	}
	defer c.Close()
	choice, err := policy.Parse("xen")
	if err != nil {
		return err
	}
	xen, err := choice.New(nil)
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx)
	if err != nil {
		return err
	}
	report, err := c.Migrate(ctx, migration.Params{Destination: address}, func(e control.Event) {
		if r := e.Round; r != nil {
			fmt.Printf("round %d sent %d pages; xen says %v\n", r.N, r.SentPages, ask(xen, vm, r))
		}
	})
	if err != nil {
		return err
	}
	if report.Status != migration.StatusCompleted {
		return errors.New(report.Error)
	}
	fmt.Printf("moved, with a downtime of %.1f ms\n", report.DowntimeMS)
	return nil
}

// ask asks a policy about a round. It gives the policy what is known from outside: the round before
// left the pages with which this one began.
func ask(p policy.Policy, vm control.VM, r *migration.Round) policy.Verb {
	return p.Step(0, policy.Event{
		Kind: policy.KindRound, Completed: r.N - 1, Remaining: int(r.DirtyPages),
		RAM: int(vm.MemoryBytes / 4096),
	}).Verb
}
