package control_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"taskguide/control"
	"taskguide/migration"
)

// standIn is a control socket that answers as a vmm run would, until stop.
func standIn() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "vmm")
	if err != nil {
		panic(err)
	}
	socket = filepath.Join(dir, "web1.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	moving := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/vm", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"name":"web1","state":"running","cpus":2}`)
	})
	mux.HandleFunc("POST /v1/migration", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":1,"status":"running"}`)
		close(moving)
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: {\"kind\":\"state\",\"state\":\"running\"}\n\n")
		w.(http.Flusher).Flush()
		<-moving
		_, _ = io.WriteString(w, `data: {"kind":"round","migration_id":1,`+
			`"round":{"n":1,"sent_pages":512}}`+"\n\n"+
			`data: {"kind":"done","migration_id":1,`+
			`"report":{"status":"completed","downtime_ms":4.5}}`+"\n\n")
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l) //nolint:errcheck // ends when the server is closed
	return socket, func() {
		_ = server.Close()
		_ = os.RemoveAll(dir)
	}
}

// Ask a VM how it is. A name instead of a path finds the socket in the runtime directory.
func ExampleClient() {
	socket, stop := standIn()
	defer stop()
	c, err := control.NewClient(socket) // or control.NewClient("web1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	vm, err := c.VM(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(vm.Name, "is", vm.State, "on", vm.CPUs, "vCPUs")
	// Output: web1 is running on 2 vCPUs
}

// Move a VM, and see the rounds as they complete.
func ExampleClient_Migrate() {
	socket, stop := standIn()
	defer stop()
	c, err := control.NewClient(socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	order := migration.Params{Destination: "tcp:127.0.0.1:4444", Rule: migration.RuleXen}
	report, err := c.Migrate(context.Background(), order, func(e control.Event) {
		if e.Round != nil {
			fmt.Printf("round %d sent %d pages\n", e.Round.N, e.Round.SentPages)
		}
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, downtime %.1f ms\n", report.Status, report.DowntimeMS)
	// Output:
	// round 1 sent 512 pages
	// completed, downtime 4.5 ms
}
