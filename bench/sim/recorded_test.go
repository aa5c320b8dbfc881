package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTasksOfTheFirstMoment: a recording begins with its tasks. One that does nothing counts for
// the gate, one that is inside is so from the first moment on, and neither counts as an ENTER.
func TestTasksOfTheFirstMoment(t *testing.T) {
	tr := &Trace{Length: time.Second}
	for _, e := range []struct {
		at  time.Duration
		tag string
	}{
		{0, `{"event":"register","task":1,"depth":0}`},
		{0, `{"event":"register","task":2,"depth":1}`},
		{200 * time.Millisecond, `{"event":"exit","task":2,"depth":0}`},
		{300 * time.Millisecond, `{"event":"enter","task":2,"depth":1}`},
	} {
		require.NoError(t, tr.event(e.at, []byte(`{"kind":"tag","tag":`+e.tag+`}`)))
	}
	require.Equal(t, 2, tr.Tasks())
	require.Equal(t, []gateAt{{0, false, 2}}, tr.gates(All), "task 1 is outside")
	require.Equal(t, []gateAt{
		{0, true, 2}, {200 * time.Millisecond, false, 2}, {300 * time.Millisecond, true, 2},
	}, tr.gates(Any))
	require.Equal(t, []time.Duration{200 * time.Millisecond}, tr.Exits())
	require.Equal(t, []time.Duration{300 * time.Millisecond}, tr.Enters())

	// It does no harm to be told of a transition twice: in the list, and by itself.
	require.NoError(t, tr.event(400*time.Millisecond,
		[]byte(`{"kind":"tag","tag":{"event":"register","task":1,"depth":0}}`)))
	require.Equal(t, []gateAt{{0, false, 2}}, tr.gates(All))
}

// TestLostTags: what the tag port has dropped before a transition is missing, too.
func TestLostTags(t *testing.T) {
	tr := &Trace{}
	tag := func(dropped string) {
		require.NoError(t, tr.event(0, []byte(`{"kind":"tag","tag":{"event":"exit","task":1,`+
			`"depth":0,"dropped":`+dropped+`}}`)))
	}
	tag("0")
	require.Zero(t, tr.Lost)
	tag("3")
	require.Equal(t, 3, tr.Lost)
	tag("18446744073709551615")
	require.Greater(t, tr.Lost, 3, "a file may have any number")
	require.Len(t, tr.tags, 3)
}
