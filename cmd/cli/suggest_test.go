package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMeant: a near word is suggested, and others are not.
func TestMeant(t *testing.T) {
	words := []string{"migrate", "status", "stop", "run", "list", "resume"}
	for typed, want := range map[string]string{
		"migarte": "migrate", "Migrate": "migrate", "mig": "migrate", "stat": "status",
		"stopp": "stop", "lsit": "list", "rn": "run", "runn": "run", "resum": "resume",
		"fly": "", "": "", "rest": "", "x": "", "database": "", "m": "", "on": "", "tcsh": "",
	} {
		require.Equal(t, want, Nearest(typed, words), typed)
	}
	require.EqualError(t, Unknown("al", []string{"all", "any"}),
		`"al" is unknown: use all or any; did you mean all?`)
	require.EqualError(t, Unknown("x", []string{"y"}), `"x" is unknown: use y`)
}
