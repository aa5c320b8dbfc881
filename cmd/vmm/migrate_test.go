package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"taskguide/migration"
	"taskguide/migration/policy"
	"taskguide/tagging"
)

func TestOutcome(t *testing.T) {
	require.Equal(t, "cancelled", outcome(migration.Report{
		Status: migration.StatusCancelled, Error: migration.ErrCancelled.Error(),
	}))
	require.Equal(t, "failed: no route", outcome(migration.Report{
		Status: migration.StatusFailed, Error: "no route",
	}))
}

// ordered returns the parameters that a command line of vmm migrate gives.
func ordered(t *testing.T, args ...string) migration.Params {
	t.Helper()
	m := newMigrateFlags()
	cmd := &cobra.Command{}
	m.define(cmd)
	require.NoError(t, cmd.ParseFlags(args))
	p, err := m.order(cmd, "tcp:h:1")
	require.NoError(t, err)
	return p
}

func TestMigrateDefaults(t *testing.T) {
	on := true
	require.Equal(t, migration.Params{
		Destination: "tcp:h:1", Rule: migration.RuleDowntime, DowntimeLimit: 300 * time.Millisecond,
		Guidance: migration.GuidanceSwitchover, Gate: tagging.All, SwitchAtExit: &on,
		MaxDefer:  time.Minute,
		OnTimeout: migration.TimeoutForce, Compress: migration.CompressAuto, StandstillRetries: 3,
	}, ordered(t))
}

func TestMigrateFlags(t *testing.T) {
	off := false
	dir := t.TempDir()
	require.Equal(t, migration.Params{
		Destination: "tcp:h:1", Rule: migration.RuleXen, MaxRounds: 7,
		DowntimeLimit: migration.NoTime, MaxDefer: 2 * time.Second,
		Guidance: migration.GuidanceSwitchover, Gate: tagging.Any, SwitchAtExit: &off,
		OnTimeout: migration.TimeoutCancel, BitsPerSecond: 1e9, Channels: 4,
		Compress: migration.CompressNone, Delta: true, Verify: true, TLSDir: dir,
		StandstillLimit: 5 * time.Second, StandstillRetries: 1,
	}, ordered(t, "--rule", "xen", "--downtime-limit", "0s", "--max-rounds", "7", "--gate", "any",
		"--switch-at-exit=false", "--max-defer", "2s", "--on-timeout", "cancel",
		"--bandwidth", "1Gbit", "--channels", "4", "--compress", "none",
		"--delta", "--verify", "--tls-dir", dir,
		"--standstill-limit", "5s", "--standstill-retries", "1"))
	require.True(t, ordered(t, "--insecure").Insecure)
	none := ordered(t, "--standstill-limit", "0")
	require.Equal(t, migration.NoStandstillLimit, none.StandstillLimit)
	require.False(t, *ordered(t, "--guidance", "suspend").SwitchAtExit,
		"off by default but with switchover")
	require.True(t, *ordered(t, "--guidance", "suspend", "--switch-at-exit").SwitchAtExit)
}

// TestPolicyFlag: --rule is the same as --policy, and parameters after a policy's name override
// flags.
func TestPolicyFlag(t *testing.T) {
	require.Equal(t, ordered(t, "--rule", "xen"), ordered(t, "--policy", "xen"))
	p := ordered(t, "--policy", "downtime:polish=off,max-rounds=5", "--max-rounds", "7")
	require.Equal(t, migration.Rule("downtime:max-rounds=5,polish=off"), p.Rule)
	require.Equal(t, 5, p.MaxRounds)
	again, err := p.WithDefaults() // as the VM's process does
	require.NoError(t, err)
	require.Equal(t, p, again)
	require.Equal(t, 7, ordered(t, "--policy", "xen:skip=off", "--max-rounds", "7").MaxRounds)
}

// TestPoliciesAreListed: help and completion have every policy of the registry.
func TestPoliciesAreListed(t *testing.T) {
	status, help, stderr := try(t, "migrate", "--help")
	require.Zero(t, status, stderr)
	help = strings.Join(strings.Fields(help), " ") // undo the wrapping
	_, names, _ := try(t, "__complete", "migrate", "a", "tcp:h:1", "--policy", "")
	_, same, _ := try(t, "__complete", "migrate", "a", "tcp:h:1", "--rule", "")
	require.Equal(t, names, same)
	for _, s := range policy.All() {
		require.Contains(t, help, s.Help)
		require.Contains(t, names, s.Name+"\t"+s.Help)
		typed := s.Name + ":skip=on,"
		_, params, _ := try(t, "__complete", "migrate", "a", "tcp:h:1", "--policy", typed)
		require.NotContains(t, params, "skip=on,skip=")
		for _, p := range s.Parameters() {
			require.Contains(t, help, p.Help)
			if p.Name != "skip" {
				require.Contains(t, params, s.Name+":skip=on,"+p.Name+"=\t")
			}
		}
	}
}

// TestMigrateNoTime: a limit of 0 on the command line does not become the default.
func TestMigrateNoTime(t *testing.T) {
	p := ordered(t, "--downtime-limit", "0", "--max-defer", "0")
	require.Equal(t, migration.NoTime, p.DowntimeLimit)
	require.Equal(t, migration.NoTime, p.MaxDefer)
}
