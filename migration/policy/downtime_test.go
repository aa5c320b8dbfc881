package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDowntime(t *testing.T) {
	// 1000 pages in the limit.
	rated := func(e Event) Event { e.BytesPerS = 1000 * pageSize * 10; return e }
	downtime := chosen(t, "downtime:limit=100ms,max-rounds=5")
	for _, test := range []struct {
		e    Event
		want Action
	}{
		{after(1, 0), content("no dirty page left")},
		{after(1, 1), Action{}}, // at what rate?
		{rated(after(1, 1000)), content("1000 dirty pages fit the downtime limit of 100ms")},
		{rated(after(4, 1001)), Action{}},
		{rated(after(5, 1001)), gaveUp("5 rounds")},
	} {
		require.Equal(t, test.want, downtime.Step(0, test.e), "%+v", test.e)
	}
	endless := chosen(t, "downtime:limit=100ms")
	require.Equal(t, Action{}, endless.Step(0, rated(after(1<<30, 1001))))
}
