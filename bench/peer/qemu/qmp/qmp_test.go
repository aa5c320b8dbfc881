package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, ` +
	`"capabilities": []}}` + "\n"

// serve answers commands by name from a script, with the lines given there.
func serve(t *testing.T, script map[string]string) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() {
		defer server.Close()
		_, _ = io.WriteString(server, greeting)
		s := bufio.NewScanner(server)
		for s.Scan() {
			var request struct {
				Execute   string          `json:"execute"`
				Arguments json.RawMessage `json:"arguments"`
			}
			if json.Unmarshal(s.Bytes(), &request) != nil {
				return
			}
			answer, ok := script[request.Execute]
			switch {
			case request.Execute == "qmp_capabilities":
				answer = `{"return": {}}`
			case request.Execute == "echo":
				answer = fmt.Sprintf(`{"return": %s}`, request.Arguments)
			case !ok:
				return
			}
			_, _ = io.WriteString(server, answer+"\n")
		}
	}()
	return client
}

func TestExecute(t *testing.T) {
	c, err := New(t.Context(), serve(t, map[string]string{
		"stop": `{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 7}}` + "\n" +
			`{"return": {}}`,
		"bad": `{"error": {"class": "GenericError", "desc": "no such thing"}}`,
	}))
	require.NoError(t, err)
	var got map[string]int
	require.NoError(t, c.Execute(t.Context(), "echo", map[string]int{"a": 1}, &got))
	require.Equal(t, map[string]int{"a": 1}, got)

	require.NoError(t, c.Execute(t.Context(), "stop", nil, nil))
	e := <-c.Events()
	require.Equal(t, "STOP", e.Name)
	require.Equal(t, time.Unix(5, 7000), e.At)

	err = c.Execute(t.Context(), "bad", nil, nil)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "GenericError", refused.Class)
	require.EqualError(t, err, "QMP bad: no such thing")

	require.ErrorIs(t, c.Execute(t.Context(), "hang-up", nil, nil), ErrClosed)
	_, open := <-c.Events()
	require.False(t, open)
}

func TestExecuteEndsWithItsContext(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.WriteString(server, greeting)
		_, _ = bufio.NewReader(server).ReadString('\n')
		cancel()
	}()
	_, err := New(ctx, client)
	require.ErrorIs(t, err, context.Canceled)
}

func TestManyEventsBlockNobody(t *testing.T) {
	flood := ""
	for range 2 * eventBacklog {
		flood += `{"event": "OLD"}` + "\n"
	}
	flood += `{"event": "LAST"}` + "\n" + `{"return": {}}`
	c, err := New(t.Context(), serve(t, map[string]string{"flood": flood}))
	require.NoError(t, err)
	require.NoError(t, c.Execute(t.Context(), "flood", nil, nil))
	require.Len(t, c.Events(), eventBacklog)
	last := Event{}
	for range eventBacklog {
		last = <-c.Events()
	}
	require.Equal(t, "LAST", last.Name)
}

func TestGarbageIsAnError(t *testing.T) {
	client, server := net.Pipe()
	go func() {
		_, _ = io.WriteString(server, "SSH-2.0-OpenSSH\r\n")
		server.Close()
	}()
	_, err := New(t.Context(), client)
	require.ErrorIs(t, err, ErrClosed)
}

func FuzzServer(f *testing.F) {
	f.Add([]byte(greeting + `{"return": {}}` + "\n"))
	f.Add([]byte(greeting + `{"return": {}}{"return": 3}{"event": "X"}`))
	f.Add([]byte(`{"QMP": null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		go func() {
			_, _ = server.Write(data)
			server.Close()
		}()
		c, err := New(t.Context(), client)
		if err == nil {
			_ = c.Execute(t.Context(), "query-status", nil, nil)
			c.Close()
		}
		client.Close()
	})
}
