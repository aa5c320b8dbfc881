package control

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
	"taskguide/tagging"
)

// earlier is the order as the first processes decoded it: durations in nanoseconds, 0 for the
// default, and no unknown fields. testdata/order-first*.json are what vmm migrate posted then.
type earlier struct {
	Destination       string        `json:"destination"`
	Rule              string        `json:"rule"`
	DowntimeLimit     time.Duration `json:"downtime_limit_ns"`
	MaxRounds         int           `json:"max_rounds"`
	Guidance          string        `json:"guidance"`
	Gate              string        `json:"gate"`
	SwitchAtExit      *bool         `json:"switch_at_exit,omitempty"`
	MaxDefer          time.Duration `json:"max_defer_ns"`
	OnTimeout         string        `json:"on_timeout"`
	StandstillLimit   time.Duration `json:"standstill_limit_ns,omitempty"`
	StandstillRetries int           `json:"standstill_retries,omitempty"`
	BitsPerSecond     int64         `json:"bits_per_second"`
	Channels          int           `json:"channels"`
	Compress          string        `json:"compress"`
	Delta             bool          `json:"delta"`
	Verify            bool          `json:"verify"`
	TLSDir            string        `json:"tls_dir,omitempty"`
}

// earlierVM serves the control socket as the first processes did, as far as a client can tell. It
// returns a client, and the orders that the server accepted.
func earlierVM(t *testing.T) (*Client, *[]earlier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var taken []earlier
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/vm", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, VM{State: StateRunning})
	})
	mux.HandleFunc("POST /v1/migration", func(w http.ResponseWriter, r *http.Request) {
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		var p earlier
		if err := d.Decode(&p); err != nil {
			writeJSON(w, http.StatusBadRequest, errorBody{"migration parameters: " + err.Error()})
			return
		}
		taken = append(taken, p)
		writeJSON(w, http.StatusAccepted, Started{ID: len(taken)})
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l) //nolint:errcheck // ends with the test
	t.Cleanup(func() { server.Close() })
	client, err := NewClient(path)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client, &taken
}

// TestEarlierVM: a newer client can move the VM of an older process, and uses everything that the
// process knows, over TLS and in plain text.
func TestEarlierVM(t *testing.T) {
	client, taken := earlierVM(t)
	off := false
	for _, c := range []struct {
		p    migration.Params
		want earlier
	}{
		{migration.Params{}, earlier{}},
		{
			migration.Params{
				Rule: migration.RuleDowntime, DowntimeLimit: migration.DefaultDowntimeLimit,
				Guidance: migration.GuidanceSwitchover, Gate: tagging.All,
				Compress: migration.CompressAuto, MaxDefer: time.Minute, StandstillRetries: 3,
			}, earlier{},
		},
		{migration.Params{Insecure: true}, earlier{}},
		{
			migration.Params{
				DowntimeLimit: migration.NoTime, MaxDefer: migration.NoTime, Insecure: true,
			},
			earlier{DowntimeLimit: 1, MaxDefer: 1},
		},
		{migration.Params{Rule: migration.RuleXen}, earlier{Rule: "xen"}},
		{
			migration.Params{
				Rule: "xen:max-rounds=7", Guidance: migration.GuidanceSuspend, Gate: tagging.Any,
				DowntimeLimit: time.Second, SwitchAtExit: &off, MaxDefer: time.Hour,
				OnTimeout: migration.TimeoutCancel, StandstillLimit: migration.NoStandstillLimit,
				StandstillRetries: 1, BitsPerSecond: 1e9, Channels: 3,
				Compress: migration.CompressZstd, Delta: true, Verify: true, TLSDir: "/d",
			},
			earlier{
				Rule: "xen:max-rounds=7", Guidance: "suspend", Gate: "any",
				DowntimeLimit: time.Second, MaxDefer: time.Hour,
				OnTimeout: "cancel", StandstillLimit: -1,
				StandstillRetries: 1, BitsPerSecond: 1e9, Channels: 3, Compress: "zstd",
				Delta: true, Verify: true, TLSDir: "/d",
			},
		},
	} {
		c.p.Destination, c.want.Destination = "unix:/d", "unix:/d"
		_, err := client.StartMigration(testContext(t), c.p)
		require.NoError(t, err, "%+v", c.p)
		require.Equal(t, c.want, (*taken)[len(*taken)-1], "%+v", c.p)
	}
}

// TestEarlierVMSaysNo to a field that it does not know and that has no older form.
func TestEarlierVMSaysNo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			writeJSON(w, http.StatusOK, VM{})
			return
		}
		writeJSON(w, http.StatusBadRequest, errorBody{`json: unknown field "delta"`})
	})}
	go server.Serve(l) //nolint:errcheck // ends with the test
	t.Cleanup(func() { server.Close() })
	client, err := NewClient(path)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	p := migration.Params{Destination: "unix:/d", Delta: true}
	_, err = client.StartMigration(testContext(t), p)
	require.ErrorContains(t, err, `unknown field "delta": the VM's process is older`)
}

// TestEarlierClient: an order that the first vmm migrate posted keeps its meaning.
func TestEarlierClient(t *testing.T) {
	on := true
	filled := migration.Params{
		Destination: "tcp:127.0.0.1:4444", Rule: migration.RuleDowntime,
		DowntimeLimit: 300 * time.Millisecond,
		Guidance:      migration.GuidanceSwitchover, Gate: tagging.All,
		SwitchAtExit: &on, MaxDefer: time.Minute, OnTimeout: migration.TimeoutForce,
		StandstillRetries: 3, Compress: migration.CompressAuto,
	}
	changed := filled
	off := false
	changed.Rule, changed.DowntimeLimit, changed.MaxRounds = migration.RuleXen, 1, 7
	changed.Guidance, changed.Gate = migration.GuidanceSuspend, tagging.Any
	changed.SwitchAtExit = &off
	changed.MaxDefer, changed.OnTimeout = 1, migration.TimeoutCancel
	changed.StandstillLimit, changed.StandstillRetries = migration.NoStandstillLimit, 1
	changed.BitsPerSecond, changed.Channels, changed.Compress = 1e9, 3, migration.CompressZstd
	changed.Delta, changed.Verify, changed.TLSDir = true, true, "/d"
	for file, want := range map[string]migration.Params{
		"order-first.json": filled, "order-first-changed.json": changed,
	} {
		body, err := os.ReadFile("testdata/" + file)
		require.NoError(t, err)
		var p earlier
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&p), "%s is what it is said to be", file)

		vm, _, client := start(t)
		resp, err := client.http.Post("http://vm/v1/migration", "", bytes.NewReader(body))
		require.NoError(t, err)
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusAccepted, resp.StatusCode, "%s: %s", file, answer)
		require.Equal(t, want, vm.params, file)
		// It knows only the fields of the answer that existed then.
		var started struct {
			ID     int    `json:"id"`
			Status string `json:"status"`
		}
		require.NoError(t, json.Unmarshal(answer, &started))
		require.Equal(t, 1, started.ID)
		require.Equal(t, "running", started.Status)
	}
}

// TestSpans: a time in words means what it says, and 0 in nanoseconds is the default.
func TestSpans(t *testing.T) {
	// The three limits, in the order of spans; 0: the default.
	type limits [3]time.Duration
	none := migration.NoTime
	for body, want := range map[string]limits{
		``:                           {},
		`"downtime_limit_ns":0`:      {},
		`"max_defer_ns":0`:           {},
		`"standstill_limit_ns":0`:    {},
		`"downtime_limit":null`:      {},
		`"downtime_limit_ns":5`:      {0: 5},
		`"downtime_limit":"1m30s"`:   {0: 90 * time.Second},
		`"downtime_limit":"0s"`:      {0: none},
		`"rule":"downtime:limit=0s"`: {0: none},
		`"max_defer":"0s"`:           {1: none},
		`"max_defer":"2h"`:           {1: 2 * time.Hour},
		`"standstill_limit":"0s"`:    {2: migration.NoStandstillLimit},
		`"standstill_limit_ns":-1`:   {2: migration.NoStandstillLimit},
		`"standstill_limit":"1s"`:    {2: time.Second},
	} {
		p, err := readParams(bytes.NewReader([]byte(orderOf(body))))
		require.NoError(t, err, body)
		for i, d := range []time.Duration{migration.DefaultDowntimeLimit, time.Minute} {
			want[i] = cmp.Or(want[i], d)
		}
		require.Equal(t, want, limits{p.DowntimeLimit, p.MaxDefer, p.StandstillLimit}, body)
		// The order that a client makes of it means the same.
		o, err := newOrder(p)
		require.NoError(t, err)
		again, err := json.Marshal(o)
		require.NoError(t, err)
		q, err := readParams(bytes.NewReader(again))
		require.NoError(t, err, string(again))
		require.Equal(t, p, q, string(again))
	}
	for _, bad := range []string{
		`"downtime_limit":"1s","downtime_limit_ns":1`,
		`"downtime_limit":"1s","downtime_limit_ns":0`,
		`"max_defer":"1s","MAX_DEFER_NS":1`, `"standstill_limit":"1s","standstill_limit_ns":1`,
		`"downtime_limit":"-1s"`, `"downtime_limit":"1"`, `"downtime_limit":""`,
		`"downtime_limit":5`, `"max_defer":"soon"`, `"downtime_limit_ns":-1`,
		`"max_defer_ns":-1`, `"standstill_limit_ns":-2`,
	} {
		_, err := readParams(bytes.NewReader([]byte(orderOf(bad))))
		require.ErrorIs(t, err, ErrInvalid, bad)
	}
}

// TestOrdersOfOtherTypes are refused in words of JSON, not of Go.
func TestOrdersOfOtherTypes(t *testing.T) {
	for body, want := range map[string]string{
		``:                             "nothing there: send a JSON object",
		`[]`:                           "array: send a JSON object",
		orderOf(`"downtime_limit":1`):  "downtime_limit: number: use a string",
		orderOf(`"max_defer_ns":1.5`):  "max_defer_ns: number 1.5: use a whole number",
		orderOf(`"max_defer_ns":1e30`): "max_defer_ns: number 1e30: use a whole number",
		orderOf(`"channels":"2"`):      "channels: string: use a whole number",
		orderOf(`"delta":1`):           "delta: number: use true or false",
		orderOf(`"switch_at_exit":1`):  "switch_at_exit: number: use true or false",
		orderOf(`"rule":{}`):           "rule: object: use a string",
	} {
		_, err := readParams(strings.NewReader(body))
		require.EqualError(t, err, "invalid: migration parameters: "+want)
	}
}

func orderOf(fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return `{"destination":"unix:/d"` + fields + `}`
}

// TestOrderLeavesDefaultsOut, including those that depend on the policy and the guidance.
func TestOrderLeavesDefaultsOut(t *testing.T) {
	for want, p := range map[string]migration.Params{
		`{"destination":"unix:/d"}`:                  {},
		`{"destination":"unix:/d","rule":"xen"}`:     {Rule: migration.RuleXen},
		`{"destination":"unix:/d","guidance":"off"}`: {Guidance: migration.GuidanceOff},
		`{"destination":"unix:/d","max_defer":"0s"}`: {MaxDefer: migration.NoTime},
		`{"destination":"unix:/d","insecure":true}`:  {Insecure: true},
	} {
		p.Destination = "unix:/d"
		for range 2 { // given, and filled in as by the command line
			o, err := newOrder(p)
			require.NoError(t, err)
			b, err := json.Marshal(o)
			require.NoError(t, err)
			require.JSONEq(t, want, string(b))
			p, err = p.WithDefaults()
			require.NoError(t, err)
		}
	}
	_, err := newOrder(migration.Params{})
	require.ErrorIs(t, err, ErrInvalid)
}
