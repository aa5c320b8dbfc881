package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
)

// notesOf returns the notes about a command line of vmm migrate.
func notesOf(t *testing.T, args ...string) []string {
	t.Helper()
	m := newMigrateFlags()
	cmd := &cobra.Command{}
	m.define(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	p, err := m.order(cmd, "unix:/d")
	require.NoError(t, err)
	var errs strings.Builder
	cmd.SetErr(&errs)
	cli.PrintNotes(cmd, m.withoutEffect(cmd, p))
	var notes []string
	for line := range strings.Lines(errs.String()) {
		notes = append(notes, strings.TrimSpace(strings.TrimPrefix(line, "vmm: note: ")))
	}
	return notes
}

// TestFlagsWithoutEffect: a user who relies on a flag without effect is told.
func TestFlagsWithoutEffect(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--guidance off --gate any --max-defer 1s --on-timeout cancel --switch-at-exit",
			"--gate, --switch-at-exit, --max-defer, --on-timeout: " +
				"no effect with --guidance off, where nothing waits for the gate"},
		{"--guidance off --switch-at-exit=false", "--switch-at-exit: " +
			"no effect with --guidance off, where nothing waits for the gate"},
		{"--guidance start --switch-at-exit", "--switch-at-exit: " +
			"no effect with --guidance start, where no switchover waits for the gate"},
		{"--rule xen --downtime-limit 1s", "--downtime-limit: " +
			"--policy xen has no limit: only the standstill limit follows from it"},
		{"--rule xen --downtime-limit 1s --standstill-limit 2s", "--downtime-limit: " +
			"no effect with --policy xen, which has no limit"},
		{"--policy downtime:limit=1s --downtime-limit 2s",
			"--downtime-limit: no effect: limit of --policy counts"},
		{"--policy xen:max-rounds=3 --max-rounds 4",
			"--max-rounds: no effect: max-rounds of --policy counts"},
		{"--insecure", "--insecure: no effect with unix:/d, which no other host can reach"},
		{"--standstill-limit 0 --standstill-retries 4", "--standstill-retries: " +
			"no effect with --standstill-limit 0, where no switchover is taken back"},
	} {
		require.Equal(t, []string{c.want}, notesOf(t, strings.Fields(c.args)...), c.args)
	}
	for _, args := range []string{
		"", "--guidance off", "--rule xen", "--downtime-limit 1s --max-rounds 4",
		"--policy downtime:polish=off --downtime-limit 1s", "--standstill-limit 0",
		"--gate any --max-defer 1s --on-timeout cancel --switch-at-exit=false",
		"--guidance start --gate any --max-defer 1s --on-timeout cancel",
		"--guidance suspend --switch-at-exit", "--policy xen:skip=off --max-rounds 4",
	} {
		require.Empty(t, notesOf(t, strings.Fields(args)...), args)
	}
}

func TestStaysHere(t *testing.T) {
	for address, want := range map[string]bool{
		"unix:/d": true, "tcp:127.0.0.1:1": true, "tcp:[::1]:1": true, "tcp:10.0.0.1:1": false,
		"tcp:0.0.0.0:1": false, "tcp:web1:1": false, "here": false,
	} {
		require.Equal(t, want, staysHere(address), address)
	}
}
