package control

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"taskguide/control/apitest"
	"taskguide/control/version"
	"taskguide/migration"
	"taskguide/tagging"
	"taskguide/transport"
	"taskguide/vmm/state"
)

func description(t *testing.T) *apitest.Spec {
	t.Helper()
	spec, err := apitest.Load()
	require.NoError(t, err)
	return spec
}

// described checks every answer and event of a server against its description.
func described(t *testing.T, next http.Handler) http.Handler {
	spec := description(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && (r.URL.Path == "/v1/events" || r.URL.Path == "/v1/trace") {
			next.ServeHTTP(&describedStream{w, t, spec}, r)
			return
		}
		sent, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		assert.NoError(t, spec.Check(apitest.Exchange{
			Request: r, RequestBody: sent,
			Status: answer.Code, Header: answer.Header(), Body: answer.Body.Bytes(),
		}))
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// describedStream is an event stream that gets one event in each write.
type describedStream struct {
	http.ResponseWriter
	t    *testing.T
	spec *apitest.Spec
}

func (s *describedStream) Write(p []byte) (int, error) {
	if s.Header().Get("Content-Type") == "text/event-stream" {
		assert.NoError(s.t, s.spec.Stream(p))
	}
	return s.ResponseWriter.Write(p)
}

func (s *describedStream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// someReport is a report with every field that clients rely on.
func someReport() migration.Report {
	return migration.Report{
		Status: migration.StatusRunning, Phase: migration.PhaseSetup, Rule: migration.RuleDowntime,
		Guidance: migration.GuidanceSwitchover, Standstills: []migration.Standstill{},
		Warnings: []string{}, Rounds: []migration.Round{}, DrainsTakenBack: []migration.Drain{},
		HeldBy:  []migration.Holder{},
		Shadows: []migration.Shadow{},
	}
}

// TestSchemasHaveEveryField: the description lists the fields that Go writes, and says which of
// them are always there.
func TestSchemasHaveEveryField(t *testing.T) {
	spec := description(t)
	types := map[string]any{
		"Error": errorBody{}, "VM": VM{}, "MigrationSummary": MigrationSummary{}, "Event": Event{},
		"Started": Started{}, "Report": migration.Report{},
		"DowntimeParts": migration.DowntimeParts{}, "DowntimeFixed": migration.DowntimeFixed{},
		"Standstill": migration.Standstill{}, "Round": migration.Round{},
		"Drain": migration.Drain{}, "Holder": migration.Holder{},
		"Shadow": migration.Shadow{}, "Decision": migration.Decision{},
		"Progress": migration.Progress{}, "Tags": tagging.Info{}, "Task": tagging.TaskInfo{},
		"TagCounters": tagging.Counters{}, "GuestErrors": tagging.GuestErrors{},
		"Transition": tagging.Transition{}, "Beat": Beat{}, "Debug": Debug{}, "VCPU": VCPUDebug{},
		"DeviceDebug": DeviceDebug{}, "QueueDebug": QueueDebug{}, "ConsoleDebug": ConsoleDebug{},
		"Terms": transport.Terms{}, "Version": version.Info{}, "Protocol": transport.Protocol{},
		"MachineVersions": version.Machine{}, "SectionVersions": state.Range{},
	}
	others := []string{
		"State", "Ending", "Phase", "Status", "Duration", "Register", "MigrationOrder",
	}
	for _, name := range spec.Schemas() {
		v, ok := types[name]
		if !ok {
			require.Contains(t, others, name, "a schema without a type")
			continue
		}
		all, always := jsonFields(reflect.TypeOf(v))
		described, required := spec.Fields(name)
		require.Equal(t, all, described, name)
		require.Equal(t, always, required, name)
	}
	// An order requires only the destination, and has each time twice.
	all, _ := jsonFields(reflect.TypeFor[migration.Params]())
	for _, s := range spans {
		require.Contains(t, all, s.ns)
		all = append(all, s.text)
	}
	slices.Sort(all)
	described, required := spec.Fields("MigrationOrder")
	require.Equal(t, all, described)
	require.Equal(t, []string{"destination"}, required)
	for _, field := range all {
		isSpan := slices.ContainsFunc(spans, func(s span) bool { return s.ns == field })
		require.Equal(t, strings.HasSuffix(field, "_ns"), isSpan, "%s has no field in words", field)
	}
}

// jsonFields returns the names of a struct's fields in JSON, and those that are always there.
func jsonFields(typ reflect.Type) (all, always []string) {
	for f := range fieldsOf(typ) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" && f.Anonymous {
			a, r := jsonFields(f.Type)
			all, always = append(all, a...), append(always, r...)
			continue
		}
		all = append(all, name)
		if !strings.Contains(options, "omitempty") {
			always = append(always, name)
		}
	}
	slices.Sort(all)
	slices.Sort(always)
	return all, always
}

func fieldsOf(typ reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range typ.NumField() {
			if !yield(typ.Field(i)) {
				return
			}
		}
	}
}

// TestEveryPathIsDescribed, and no others are.
func TestEveryPathIsDescribed(t *testing.T) {
	s := NewServer(&fakeVM{}, &fakeVM{})
	var served []string
	for path, methods := range s.table() {
		for method := range methods {
			served = append(served, method+" "+path)
		}
	}
	slices.Sort(served)
	require.Equal(t, description(t).Operations(), served)
}

// TestDescriptionIsServed as it is.
func TestDescriptionIsServed(t *testing.T) {
	_, _, client := start(t)
	resp, err := client.http.Get("http://vm/v1/openapi.yaml")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(body), "openapi: 3.0"))
	require.Equal(t, "application/yaml", resp.Header.Get("Content-Type"))
}

// TestDescriptionNotices differences. Without it, the tests above could pass whatever the server
// does.
func TestDescriptionNotices(t *testing.T) {
	spec := description(t)
	get := func(path, body string) error {
		return spec.Check(apitest.Exchange{
			Request: httptest.NewRequest("GET", "http://vm"+path, nil), Status: 200,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body),
		})
	}
	vm := `{"name":"a","pid":1,"state":"running","memory_bytes":0,"cpus":0,"uptime_ms":1,` +
		`"dirty_logging":false}`
	require.NoError(t, get("/v1/vm", vm))
	require.Error(t, get("/v1/vm", strings.Replace(vm, "running", "flying", 1)))
	require.Error(t, get("/v1/vm", strings.Replace(vm, `"pid":1,`, "", 1)))
	require.Error(t, get("/v1/vm", strings.Replace(vm, `"cpus":0`, `"cpus":"0"`, 1)))
	require.Error(t, get("/v1/nothing", vm))
	event := func(kind, data string) error {
		return spec.Stream([]byte("event: " + kind + "\ndata: " + data + "\n\n"))
	}
	require.NoError(t, event("state", `{"time":"2026-01-02T03:04:05Z","kind":"state"}`))
	require.Error(t, event("state", `{"kind":"state"}`))
	require.Error(t, event("phase", `{"time":"2026-01-02T03:04:05Z","kind":"state"}`))
	post := httptest.NewRequest("POST", "http://vm/v1/migration", nil)
	post.Header.Set("Content-Type", "application/json")
	require.ErrorContains(t, spec.Check(apitest.Exchange{
		Request: post, RequestBody: []byte(`{"destination":"unix:/d","speed":9}`), Status: 202,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte("{}"),
	}), "was taken")
}
