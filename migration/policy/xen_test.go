package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// chosen is the policy that a command line means.
func chosen(t *testing.T, s string) Policy {
	t.Helper()
	c, err := Parse(s)
	require.NoError(t, err)
	p, err := c.New(nil)
	require.NoError(t, err)
	return p
}

func after(completed, remaining int) Event {
	return Event{Kind: KindRound, Completed: completed, Remaining: remaining, RAM: 1000}
}

func TestXen(t *testing.T) {
	few := content("fewer than 50 dirty pages")
	sent := func(e Event, pages int64) Event { e.Sent = pages; return e }
	xen := chosen(t, "xen")
	for _, test := range []struct {
		e    Event
		want Action
	}{
		{after(1, 49), few},
		{sent(after(99, 49), 9999), few},
		{sent(after(28, 50), 3000), Action{}},
		{after(29, 50), gaveUp("29 rounds")},
		{sent(after(1, 50), 3001), gaveUp("3x RAM sent")},
	} {
		require.Equal(t, test.want, xen.Step(0, test.e), "%+v", test.e)
	}
	require.Equal(t, "4 rounds", chosen(t, "xen:max-rounds=4").Step(0, after(4, 50)).Reason)
}
