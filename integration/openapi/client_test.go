package openapi

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openapi/vmmapi"
)

// client is the generated client.
type client = vmmapi.ClientWithResponses

// patience is far longer than anything here takes. It turns a hang into a failure.
const patience = 3 * time.Minute

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// run starts a vmm run and returns a generated client of it.
func run(ctx context.Context, t *testing.T, dir, name string, args ...string) *client {
	t.Helper()
	args = append([]string{"run", "--name", name}, args...)
	cmd := exec.CommandContext(ctx, os.Getenv("VMM_BIN"), args...)
	cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+dir)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start vmm, which VMM_BIN names: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, name+".sock"))
	}
	http := &http.Client{Transport: &http.Transport{DialContext: dial}}
	return must[*client](t)(
		vmmapi.NewClientWithResponses("http://vm", vmmapi.WithHTTPClient(http)))
}

// await waits until a VM is in a state.
func await(ctx context.Context, t *testing.T, c *client, want vmmapi.State) *vmmapi.VM {
	t.Helper()
	for {
		r, err := c.GetVMWithResponse(ctx)
		if err == nil && r.JSON200 != nil && r.JSON200.State == want {
			return r.JSON200
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for state %s: %v", want, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// follow delivers the events of a VM until its process ends.
func follow(ctx context.Context, t *testing.T, c *client) <-chan vmmapi.Event {
	t.Helper()
	resp := must[*http.Response](t)(c.FollowEvents(ctx, nil))
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	events := make(chan vmmapi.Event, 1000)
	go func() {
		defer close(events)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for {
			line, err := lines.ReadString('\n')
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				var e vmmapi.Event
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					t.Errorf("%s: %v", data, err)
				}
				events <- e
			}
			if err != nil {
				if err != io.EOF && ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
		}
	}()
	return events
}

// TestGeneratedClient moves a guest between two processes, and follows the migration.
func TestGeneratedClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := must[string](t)(os.MkdirTemp("", "vmm-api-")) // short, because a socket's path must be
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	source := run(ctx, t, dir, "source", "--memory", "32M",
		"--cmdline", "workload=idle touch=8M fill=random verify=1")
	destination := run(ctx, t, dir, "destination", "--incoming", "unix:"+filepath.Join(dir, "in"))
	await(ctx, t, source, vmmapi.StateRunning)
	to := await(ctx, t, destination, vmmapi.StateIncoming).Incoming

	// Errors have the form that the description gives.
	refused := must[*vmmapi.StartMigrationResponse](t)(source.StartMigrationWithResponse(ctx,
		vmmapi.MigrationOrder{Destination: "tcp:192.0.2.1:1"}))
	if refused.JSONDefault == nil || refused.StatusCode() != http.StatusBadRequest ||
		!strings.Contains(refused.JSONDefault.Error, "plain text") {
		t.Fatalf("%s: %s", refused.Status(), refused.Body)
	}

	events := follow(ctx, t, source)
	limit, endless, verify := vmmapi.Duration("50ms"), vmmapi.Duration("0s"), true
	started := must[*vmmapi.StartMigrationResponse](t)(source.StartMigrationWithResponse(ctx,
		vmmapi.MigrationOrder{Destination: *to, DowntimeLimit: &limit,
			StandstillLimit: &endless, Verify: &verify}))
	if started.JSON202 == nil {
		t.Fatalf("%s: %s", started.Status(), started.Body)
	}
	var rounds []vmmapi.Round
	var report *vmmapi.Report
	for e := range events {
		if e.MigrationId == nil || *e.MigrationId != started.JSON202.Id {
			continue
		}
		if e.Round != nil {
			rounds = append(rounds, *e.Round)
		}
		if e.Report != nil {
			report = e.Report
		}
	}
	switch {
	case report == nil:
		t.Fatal("the stream ended without a final report")
	case report.Status != vmmapi.StatusCompleted:
		t.Fatalf("%s: %s", report.Status, report.Error)
	case report.Verified == nil || !*report.Verified:
		t.Fatal("not verified")
	case len(rounds) == 0 || len(rounds) != len(report.Rounds):
		t.Fatalf("%d rounds were seen of %d", len(rounds), len(report.Rounds))
	}
	if vm := await(ctx, t, destination, vmmapi.StateRunning); vm.MemoryBytes != 32<<20 {
		t.Fatalf("%+v", vm)
	}
}
