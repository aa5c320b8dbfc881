// Package control lets other processes watch and steer a running VM.
//
// Every VM's process serves HTTP/1.1 with JSON on its own unix socket. This package implements both
// ends, and knows where the sockets are.
//
//	GET    /v1/vm          what the VM is and how it is doing
//	PUT    /v1/vm/pause    stop its vCPUs             \
//	PUT    /v1/vm/resume   let them run again          > each answers like GET /v1/vm;
//	PUT    /v1/vm/stop     end it                     /  resume and stop take ?force=1, see
//	                                                     StateUnknown
//	POST   /v1/migration   start a migration (migration.Params); 202 and the report so far
//	GET    /v1/migration   the report of the last migration, final or so far
//	DELETE /v1/migration   cancel; answers with the final report once the migration has ended
//	GET    /v1/tags        the tag port: tasks, gate
//	GET    /v1/debug       what vCPUs and devices are doing
//	GET    /v1/trace       which pages the guest writes, as they are recorded
//	DELETE /v1/trace       end that with the last interval; answers like GET /v1/vm; ?begun=TIME
//	                       ends no other trace than the one that began then
//	GET    /v1/version     what the process is a build of
//	GET    /v1/events      server-sent events, as things happen; ?tags=1 adds the tasks' transitions
//	GET    /v1/openapi.yaml  docs/openapi.yaml, to which tests hold all of the above
//
// Errors are {"error": "one line"} with a status code: 400 for a mistake of the caller, 404 for
// something that does not exist, 409 for what the VM cannot do in its present state, and 500 for a
// failure.
//
// # Other versions
//
// A process that runs for long meets newer clients, and a new process meets older ones. So a client
// leaves out defaults, existing fields stay, and unknown fields are refused: a limit that the
// process does not understand must not become a migration without a limit. Each time in an order
// has two fields: one in words, which means what it says, and an older one in nanoseconds, whose 0
// means the default.
//
// # Names
//
// A VM is found by its name through its socket, NAME.sock in [RuntimeDir]. The socket is created
// with mode 0600, because whoever may connect may do everything to the VM. [Listen] takes a name
// atomically: if two processes want the same name, one gets it and the other gets [ErrNameInUse].
// Listen replaces a socket that a killed process left behind.
//
// # Events
//
// A migration's engine reports on its own goroutine and must never wait for a reader. So every
// client of /v1/events has a bounded queue. A client that falls behind loses the queued events,
// learns their number from an event of kind "lagged", and goes on with the newest. Successive
// progress events replace each other. The event of kind "done" carries the final report. The server
// of a VM that moved away delivers it before it closes, so a client gets it even though the process
// is about to exit. A client must subscribe first and then start the migration, as [Client.Migrate]
// does.
package control
