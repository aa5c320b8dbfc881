// Package control lets other processes watch and steer a running VM.
//
// Every VM's process serves HTTP/1.1 with JSON on a unix socket of its own; this package is both ends
// of it, and it knows where the sockets are.
//
//	GET    /v1/vm          what the VM is and how it is doing
//	PUT    /v1/vm/pause    stop its vCPUs             \
//	PUT    /v1/vm/resume   let them run again          > each answers like GET /v1/vm; ?force=1, see StateUnknown
//	PUT    /v1/vm/stop     end it                     /
//	POST   /v1/migration   start a migration (migration.Params); 202 and the report so far
//	GET    /v1/migration   the report of the last migration, final or so far
//	DELETE /v1/migration   cancel; answers with the final report once the migration has ended
//	GET    /v1/tags        the tag port: tasks, gate
//	GET    /v1/events      server-sent events, as things happen; ?tags=1 adds the tasks' transitions
//
// Errors are {"error": "one line"} with the status code that fits: 400 for what the caller got wrong, 404
// for what is not there, 409 for what the VM cannot do in its present state, 500 for what failed.
//
// # Names
//
// A VM is found by its name through its socket, NAME.sock in [RuntimeDir]. The socket is created with
// mode 0600: who may connect may do everything to the VM. [Listen] takes a name atomically: of two processes
// that want the same one, one gets it and the other [ErrNameInUse], while a socket left behind by a process
// that was killed is replaced.
//
// # Events
//
// A migration's engine reports on its own goroutine and must never wait for a reader. Every client of
// /v1/events therefore has a bounded queue. A client that falls behind loses what was queued, is told how
// much with an event of kind "lagged", and goes on with the newest; successive progress events replace each
// other. The event of kind "done" carries the final report and is delivered before the server of a VM that
// moved away closes, so a client need not outrun the process that it watches. Subscribe first, start the
// migration then: that is what [Client.Migrate] does.
package control
