package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/cmd/cli"
	"taskguide/cmd/cli/clitest"
)

// vmmProgram is this program, in tests.
var vmmProgram = clitest.Program(newRoot)

// try runs a command line and returns its exit status and what it wrote.
func try(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return vmmProgram.Try(t, args...)
}

func TestUsage(t *testing.T) {
	to := func(flags ...string) []string {
		return append([]string{"migrate", "a", "tcp:h:1"}, flags...)
	}
	for want, args := range map[string][]string{
		"no command": {},
		"unknown command \"fly\": see vmm --help": {"fly"},
		"unknown flag":                          {"migrate", "a", "tcp:h:1", "--fast"},
		"use one of downtime, ":                 {"migrate", "a", "tcp:h:1", "--rule", "best"},
		"\"best\" is unknown":                   to("--policy", "best"),
		"use on or off":                         to("--policy", "xen:polish=no"),
		"no parameter \"limit\"":                to("--policy", "xen:limit=1s"),
		"--policy and --rule":                   to("--policy", "xen", "--rule", "xen"),
		"use switchover, suspend, start or off": to("--guidance", "on"),
		"use all or any":                        to("--gate", "most"),
		"use force or cancel":                   to("--on-timeout", "wait"),
		"use auto, zstd or none":                to("--compress", "gzip"),
		"use bit/s or kbit, Mbit, Gbit":         {"migrate", "a", "tcp:h:1", "--bandwidth", "1G"},
		"--bandwidth 0":                         {"migrate", "a", "tcp:h:1", "--bandwidth", "0"},
		"--channels 0":                          {"migrate", "a", "tcp:h:1", "--channels", "0"},
		"--channels 17: use 1 to 16":            to("--channels", "17"),
		"--max-rounds -1: use 1 or more":        to("--max-rounds", "-1"),
		"--max-defer: duration \"3\": no unit":  to("--max-defer", "3"),
		"negative":                              to("--downtime-limit", "-1s"),
		"a VM and a destination":                {"migrate", "a"},
		"use tcp:HOST:PORT":                     {"migrate", "a", "h:1"},
		"name \"a b\"":                          {"pause", "a b"},
		"the name of a VM":                      {"tags"},
		"vmm list wants no arguments":           {"list", "a"},
		"vmm doctor wants no arguments":         {"doctor", "a"},
		"--json with --cpu":                     {"doctor", "--cpu", "--json"},
		"--cpu \"host,\": want host or files":   {"run", "--cpu", "host,"},

		"--tls-dir: nothing there": to("--tls-dir", ""),
		"--tls-dir: nothing there: ": {
			"run", "--memory", "1", "--incoming", "tcp:h:1", "--tls-dir=",
		},
		"--incoming: nothing there":  {"run", "--kernel", "/nowhere", "--incoming", ""},
		"--log-file: nothing there":  {"run", "--kernel", "/nowhere", "--log-file", ""},
		"--insecure with --tls-dir":  to("--insecure", "--tls-dir", "."),
		"plain text at 10.0.0.2":     {"migrate", "a", "tcp:10.0.0.2:1"},
		"or --insecure":              {"migrate", "a", "tcp:[2001:db8::1]:1"},
		"--incoming: plain text at ": {"run", "--incoming", "tcp:0.0.0.0:1"},
		"port \"x\" is no number":    {"run", "--incoming", "tcp:h:x"},
		"--insecure without --incom": {"run", "--insecure"},
		"--insecure with --tls-dir: ": {
			"run", "--incoming", "tcp:h:1", "--insecure", "--tls-dir", ".",
		},
		"--shutdown-timeout: duration \"-1s\"": {"run", "--shutdown-timeout", "-1s"},
		"no folder given":                      {"trace", "a"},
		"--interval 1.5ms: whole":              {"trace", "a", "--out", "f", "--interval", "1.5ms"},
		"at least 1ms":                         {"trace", "a", "--out", "f", "--interval", "0"},
		"--for 1µs: whole":                     {"trace", "a", "--out", "f", "--for", "1us"},
		"leaves its kernel behind": {
			"run", "--on-reset", "reboot", "--incoming", "unix:/nowhere",
		},
		"use exit or reboot": {"run", "--on-reset", "halt"},

		"standstill-retries 0": {
			"migrate", "a", "tcp:h:1", "--standstill-retries", "0",
		},
	} {
		status, stdout, stderr := try(t, args...)
		require.Equal(t, cli.StatusUsage, status, "%v: %s", args, stderr)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want, "%v", args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}

func TestNobodyThere(t *testing.T) {
	for _, args := range [][]string{
		{"status", "a"}, {"pause", "a"}, {"resume", "a"}, {"stop", "a"}, {"cancel", "a"},
		{"tags", "a"}, {"tags", "a", "--follow"}, {"debug", "a"}, {"migrate", "a", "tcp:h:1"},
	} {
		status, stdout, stderr := try(t, args...)
		require.Equal(t, cli.StatusFailed, status, "%v", args)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "no such VM is running", "%v", args)
	}
	_, _, stderr := try(t, "status", "./a\nb")
	require.Equal(t, 1, strings.Count(stderr, "\n"), "one line, whatever was typed: %q", stderr)
	status, stdout, _ := try(t, "list", "--json")
	require.Zero(t, status)
	require.Equal(t, "[]\n", stdout)
}

// TestListWithoutVMs: vmm list says where it looked in vain, and scripts get no output.
func TestListWithoutVMs(t *testing.T) {
	status, stdout, stderr := try(t, "list")
	require.Zero(t, status)
	require.Empty(t, stdout)
	require.Equal(t, "no VMs in "+os.Getenv("VMM_RUNTIME_DIR")+"\n", stderr)
}
