package migration

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/migration/policy"
)

func TestStandstillParams(t *testing.T) {
	p := Params{Destination: "x"}
	with := func(f func(*Params)) Params {
		q := p
		f(&q)
		q, err := q.WithDefaults()
		require.NoError(t, err)
		return q
	}
	require.Equal(t, 3, with(func(*Params) {}).StandstillRetries)
	require.Equal(t, 3*time.Second, with(func(*Params) {}).standstillLimit(false))
	require.Zero(t, with(func(*Params) {}).standstillLimit(true))
	least := with(func(p *Params) { p.DowntimeLimit = NoTime })
	require.Equal(t, time.Second, least.standstillLimit(false))
	require.Positive(t, with(func(p *Params) { p.DowntimeLimit = 1 << 62 }).standstillLimit(false))
	given := with(func(p *Params) { p.StandstillLimit = time.Minute })
	require.Equal(t, time.Minute, given.standstillLimit(true))
	require.Equal(t, Defaults().DowntimeLimit, given.promise())
	short := with(func(p *Params) { p.StandstillLimit = time.Millisecond })
	require.Equal(t, time.Millisecond, short.promise(), "none that is expected to be taken back")
	ruled := with(func(p *Params) { p.Rule = "downtime:limit=5s" })
	require.Equal(t, 50*time.Second, ruled.standstillLimit(false), "of the limit that counts")
	again, err := ruled.WithDefaults()
	require.NoError(t, err)
	require.Equal(t, ruled, again)
	least = with(func(p *Params) { p.Rule = "downtime:limit=0s" })
	require.Equal(t, time.Second, least.standstillLimit(false))
	require.Equal(t, NoTime, least.DowntimeLimit)
	require.Zero(t, least.promise())
	none := with(func(p *Params) { p.StandstillLimit = NoStandstillLimit })
	require.Zero(t, none.standstillLimit(false))
	for what, bad := range map[string]Params{
		"standstill limit":   {Destination: "x", StandstillLimit: -2},
		"standstill retries": {Destination: "x", StandstillRetries: -1},
	} {
		_, err := bad.WithDefaults()
		require.ErrorContains(t, err, what)
	}
}

// TestStandstillLimitCapsThePolicys: a switchover that is expected to be taken back is not begun,
// wherever the downtime limit was given.
func TestStandstillLimitCapsThePolicys(t *testing.T) {
	for _, p := range []Params{
		{Rule: "downtime", DowntimeLimit: 5 * time.Second},
		{Rule: "downtime:limit=5s"},
	} {
		p.Destination, p.StandstillLimit = "x", time.Second
		p, err := p.WithDefaults()
		require.NoError(t, err)
		choice, err := p.choice()
		require.NoError(t, err)
		rule, err := p.policy(choice)
		require.NoError(t, err)
		head := p.newHead(choice, rule)
		head.Step(0, policy.Event{Kind: policy.KindStart})
		round := policy.Event{
			Kind: policy.KindRound, Completed: 1, Remaining: 2000, RAM: 1 << 20, Dirty: 2000,
			BytesPerS: 1000 * memory.PageSize, WirePerS: 1000 * memory.PageSize,
		}
		require.Equal(t, policy.Continue, head.Step(time.Second, round).Verb, "2 s to go")
		round.Dirty, round.Remaining = 900, 900 // more rounds make it no smaller
		require.Equal(t, policy.Switchover, head.Step(2*time.Second, round).Verb)
	}
}

// TestDefaultsAreMadeOnce: what is left out comes from one place, and where a policy has a
// parameter of the same meaning, that place is the registry.
func TestDefaultsAreMadeOnce(t *testing.T) {
	want := Defaults()
	want.Destination, want.SwitchAtExit = "x", on()
	got, err := Params{Destination: "x"}.WithDefaults()
	require.NoError(t, err)
	require.Equal(t, want, got)
	again, err := got.WithDefaults()
	require.NoError(t, err)
	require.Equal(t, got, again, "an order is filled in once more where it arrives")

	for _, s := range policy.All() {
		p, err := Params{Destination: "x", Rule: Rule(s.Name)}.WithDefaults()
		require.NoError(t, err)
		choice, err := p.choice()
		require.NoError(t, err)
		if own := choice.Value(limit, nil); own != "" {
			require.Equal(t, own, p.DowntimeLimit.String(), s.Name)
		} else {
			require.Equal(t, Defaults().DowntimeLimit, p.DowntimeLimit, s.Name)
		}
		if own := choice.Value(maxRounds, nil); own != "" {
			require.Equal(t, own, strconv.Itoa(p.MaxRounds), s.Name)
		} else {
			require.Zero(t, p.MaxRounds, s.Name)
		}
		// The order sets nothing, so it sets no parameter of the policy.
		require.Empty(t, Params{Rule: Rule(s.Name)}.forPolicy(0), s.Name)
	}
}
