package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"taskguide/cmd/cli"
	"taskguide/migration"
	"taskguide/migration/policy"
	"taskguide/transport"
)

// withoutEffect returns the notes about a command line of vmm migrate. p are its parameters.
func (m *migrateFlags) withoutEffect(cmd *cobra.Command, p migration.Params) []cli.Note {
	var notes []cli.Note
	add := func(why string, names ...string) {
		if flags := cli.Given(cmd, names...); len(flags) > 0 {
			notes = append(notes, cli.Note{Flags: flags, Why: why})
		}
	}
	switch p.Guidance {
	case migration.GuidanceOff:
		add("no effect with --guidance off, where nothing waits for the gate",
			"gate", "switch-at-exit", "max-defer", "on-timeout")
	case migration.GuidanceStart:
		add("no effect with --guidance start, where no switchover waits for the gate",
			"switch-at-exit")
	}
	c := m.policy.Choice
	if inPolicy(c, "max-rounds") {
		add("no effect: max-rounds of --policy counts", "max-rounds")
	}
	if c.Program() == "" {
		add("no effect: no program leads with --policy "+c.Name(), "policy-limit")
	}
	switch standstill := cmd.Flags().Changed("standstill-limit"); {
	case inPolicy(c, "limit"):
		add("no effect: limit of --policy counts", "downtime-limit")
	case c.Value("limit", nil) != "":
	case standstill:
		add(fmt.Sprintf("no effect with --policy %s, which has no limit", c.Name()),
			"downtime-limit")
	default:
		add(fmt.Sprintf("--policy %s has no limit: only the standstill limit follows from it",
			c.Name()), "downtime-limit")
	}
	if staysHere(p.Destination) {
		add(noOtherHost(p.Destination), "insecure")
	}
	if p.StandstillLimit == migration.NoStandstillLimit {
		add("no effect with --standstill-limit 0, where no switchover is taken back",
			"standstill-retries")
	}
	return notes
}

// staysHere tells whether an address can be reached from this host only: a unix socket, or a
// loopback address. A host name may belong to any host.
func staysHere(addr string) bool {
	network, address, err := transport.ParseAddress(addr)
	if err != nil || network == "unix" {
		return err == nil
	}
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// noOtherHost says why --insecure has no effect for that address.
func noOtherHost(address string) string {
	return fmt.Sprintf("no effect with %s, which no other host can reach", address)
}

// inPolicy tells whether a parameter was given after the policy's name.
func inPolicy(c policy.Choice, name string) bool {
	const other = "?" // the value of a parameter that was not given
	v := c.Value(name, policy.Values{name: other})
	return v != "" && v != other
}
