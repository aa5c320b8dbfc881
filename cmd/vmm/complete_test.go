package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
)

// complete returns what a shell offers for the last of these words.
func complete(t *testing.T, words ...string) []string {
	t.Helper()
	return vmmProgram.Complete(t, words...)
}

func TestCompletion(t *testing.T) {
	migrate := func(words ...string) []string {
		return complete(t, append([]string{"migrate", "a", "tcp:h:1"}, words...)...)
	}
	require.Equal(t, []string{"switchover", "suspend", "start", "off"}, migrate("--guidance", ""))
	require.Equal(t, []string{"all", "any"}, migrate("--gate", ""))
	require.Equal(t, []string{"auto", "zstd", "none"}, migrate("--compress", ""))
	require.Equal(t, []string{"force", "cancel"}, migrate("--on-timeout", ""))
	require.Equal(t, []string{"xen:polish=on", "xen:polish=off"}, migrate("--rule", "xen:polish="))
	require.Equal(t, []string{"xen:skip=off,protect=page", "xen:skip=off,protect=round"},
		migrate("--policy", "xen:skip=off,protect="))
	require.Equal(t, []string{"downtime:limit=300ms"}, migrate("--policy", "downtime:limit="))
	require.Empty(t, migrate("--policy", "best:"))
	require.Empty(t, migrate("--channels", ""))
	require.Empty(t, migrate(""))
	require.Equal(t, []string{"tcp:", "unix:"}, complete(t, "migrate", "a", ""))
	require.Equal(t, []string{"stdio", "file:", "off"}, complete(t, "run", "--console", ""))
	require.Equal(t, []string{"off", "stdio", "file:", "unix:"}, complete(t, "run", "--hvc", ""))
	require.Contains(t, complete(t, "run", "--dirty-log", ""), "ring")
	require.Equal(t, []string{"bash", "zsh", "fish"}, complete(t, "completion", ""))
	require.Contains(t, complete(t, "help", ""), "migrate")
	require.Contains(t, complete(t, ""), "version")
	require.Empty(t, complete(t, "status", ""), "there is none")
}

// TestCompletedValuesAreTaken: vmm accepts each policy with each parameter and each value that a
// shell offers.
func TestCompletedValuesAreTaken(t *testing.T) {
	n := 0
	for _, s := range policy.All() {
		for _, p := range s.Parameters() {
			typed := s.Name + ":" + p.Name + "="
			for _, word := range complete(t, "migrate", "a", "b", "--policy", typed) {
				if word == "xen:protect=page" {
					word = "xen:skip=off,protect=page" // these two go together only
				}
				_, err := policy.Parse(word)
				require.NoError(t, err)
				n++
			}
		}
	}
	require.Greater(t, n, 10)
}

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "complete -o default", "zsh": "#compdef vmm", "fish": "complete -c vmm",
	} {
		status, stdout, stderr := try(t, "completion", shell)
		require.Zero(t, status, stderr)
		require.Contains(t, stdout, want)
	}
}
