package main

import (
	"github.com/spf13/cobra"

	"taskguide/bench"
	"taskguide/bench/remote"
	"taskguide/cmd/cli"
)

// hostFlags say between which hosts guests are moved.
type hostFlags struct{ bench.TwoHosts }

// The names of the flags.
const (
	sourceFlag      = "source"
	destinationFlag = "destination"
	insecureFlag    = "insecure"
)

// target is a flag for a host.
type target struct{ *remote.Target }

func (t target) String() string {
	if t.Target == nil || t.Host == "" {
		return ""
	}
	return t.Target.String()
}

// Set reads the flag.
func (t target) Set(text string) (err error) {
	*t.Target, err = remote.ParseTarget(text)
	return err
}

// Type is what help calls the value.
func (t target) Type() string { return "ssh:HOST" }

func (h *hostFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(target{&h.Source}, sourceFlag, "start guests at that host, with --destination")
	fs.Var(target{&h.Destination}, destinationFlag, "move guests to that host, with --source")
	fs.BoolVar(&h.Insecure, insecureFlag, false,
		"with --source and --destination: move guests in plain text, not over TLS")
	for _, name := range []string{sourceFlag, destinationFlag} {
		cli.CompleteFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// checkHosts refuses what two hosts do not go with.
func (f *benchRunFlags) checkHosts(cmd *cobra.Command, e bench.Experiment) error {
	h := f.hosts
	switch both := h.Source.Host != "" && h.Destination.Host != ""; {
	case !both && h.Source.Host+h.Destination.Host != "":
		return cli.Usagef("--source and --destination: give both, and this host too as a host of " +
			"ssh, as in ssh:localhost")
	case !both && h.Insecure:
		return cli.Usagef("--insecure: it is about two hosts: add --source and --destination")
	case !both:
		return nil
	}
	if e.Custom != nil && e.Custom.NeedsQEMU() {
		return cli.Usagef("the file compares with QEMU, which is not moved between two hosts: " +
			"leave out peers, or --source and --destination")
	}
	for _, name := range []string{"netns", "qemu", "before"} {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed {
			return cli.Usagef("--%s: it is of one host, not of --source and --destination: leave "+
				"out one or the other", name)
		}
	}
	return nil
}

// newBenchHand is what a controller starts at another host. People do not type it.
func newBenchHand() *cobra.Command {
	return &cobra.Command{
		Use:    bench.HandCommand + " DIR",
		Short:  "work for a vmm bench at another host",
		Hidden: true,
		Args:   cli.Exactly(1, "a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			cli.OutliveOutputs()
			return bench.ServeHand(args[0])
		},
	}
}
