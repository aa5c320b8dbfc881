package need

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// ended notes how a test was ended, and does not end it.
type ended struct {
	testing.TB
	how string
}

func (e *ended) Helper()               {}
func (e *ended) Skip(...any)           { e.how += "skipped" }
func (e *ended) Fatalf(string, ...any) { e.how += "failed"; panic(e) }

func TestNothingIsSkippedWhereAllIsHere(t *testing.T) {
	t.Setenv(All, "")
	here := &ended{TB: t}
	Skip(here, "no root")
	require.Equal(t, "skipped", here.how)

	t.Setenv(All, "1")
	there := &ended{TB: t}
	require.Panics(t, func() { Skip(there, "no root") })
	require.Equal(t, "failed", there.how)
}
