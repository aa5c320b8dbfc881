package integration

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/control/apitest"
)

// api is a control socket whose answers are checked against their description.
type api struct {
	b    *box
	spec *apitest.Spec
	http http.Client
}

func (p *process) api() *api {
	p.box.t.Helper()
	spec, err := apitest.Load()
	require.NoError(p.box.t, err)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.box.path(p.name+".sock"))
	}
	a := &api{b: p.box, spec: spec}
	a.http.Transport = &http.Transport{DialContext: dial}
	p.box.t.Cleanup(a.http.CloseIdleConnections)
	return a
}

func (a *api) send(method, path, body string) *http.Response {
	a.b.t.Helper()
	payload := strings.NewReader(body)
	req, err := http.NewRequestWithContext(a.b.ctx, method, "http://vm"+path, payload)
	require.NoError(a.b.t, err)
	resp, err := a.http.Do(req)
	require.NoError(a.b.t, err)
	return resp
}

// do sends a request and requires an answer with that status, as described.
func (a *api) do(status int, method, path, body string) {
	a.b.t.Helper()
	resp := a.send(method, path, body)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(a.b.t, err)
	require.Equal(a.b.t, status, resp.StatusCode, "%s %s: %s", method, path, got)
	require.NoError(a.b.t, a.spec.Check(apitest.Exchange{
		Request: resp.Request, RequestBody: []byte(body),
		Status: status, Header: resp.Header, Body: got,
	}))
}

// TestAPIAsDescribed: the answers and events of a real VM match docs/openapi.yaml.
func TestAPIAsDescribed(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", "--memory", "64M", "--cpus", "2", "--cmdline",
		"workload=phased ws=8M hot=1M busy=300ms cool=300ms fill=random tag=cool")
	g.alive(b, 2)
	destination, to := b.incoming(g, "destination", b.unix("in"))
	a := source.api()
	a.do(404, "GET", "/v1/migration", "")
	a.do(409, "DELETE", "/v1/migration", "")
	a.do(409, "DELETE", "/v1/trace", "")
	a.do(404, "GET", "/v1/nothing", "")
	streams := []string{"/v1/events", "/v1/trace"} // without an end
	for _, op := range a.spec.Operations() {
		method, path, _ := strings.Cut(op, " ")
		if method == "GET" && path != "/v1/migration" && !slices.Contains(streams, path) {
			a.do(200, method, path, "")
		}
	}
	a.do(200, "PUT", "/v1/vm/pause", "")
	a.do(200, "PUT", "/v1/vm/resume", "")

	stream := a.send("GET", "/v1/events?tags=1", "")
	defer stream.Body.Close()
	// Read meanwhile: the VM cuts off a client that leaves its events in the socket.
	type events struct {
		text []byte
		err  error
	}
	all := make(chan events, 1)
	go func() {
		text, err := io.ReadAll(stream.Body)
		all <- events{text, err}
	}()
	order := func(more string) string { return `{"destination":"` + to + `"` + more + `}` }
	a.do(400, "POST", "/v1/migration", order(`,"max_defer":"1s","max_defer_ns":0`))
	a.do(202, "POST", "/v1/migration", order(`,"bits_per_second":1000000,"downtime_limit":"1ms"`))
	source.migrating()
	a.do(409, "POST", "/v1/migration", order(""))
	a.do(200, "GET", "/v1/migration", "")
	a.do(200, "GET", "/v1/vm", "")
	a.do(200, "DELETE", "/v1/migration", "")
	a.do(202, "POST", "/v1/migration",
		order(`,"max_defer":"5s","downtime_limit":"0s","rule":"xen","standstill_limit":"0s"`))
	require.Equal(t, 0, source.wait())
	told := <-all
	require.NoError(t, told.err)
	require.NoError(t, a.spec.Stream(bytes.TrimSpace(told.text)))
	for _, kind := range []string{
		"state", "phase", "progress", "round", "gate", "tag", "done",
	} {
		require.Contains(t, string(told.text), "event: "+kind+"\n")
	}

	destination.awaitState(control.StateRunning)
	there := destination.api()
	there.do(200, "GET", "/v1/vm", "")
	there.do(200, "GET", "/v1/tags", "")
	there.do(200, "PUT", "/v1/vm/stop", "")
	require.Equal(t, 0, destination.wait())
}
